//! Long work that lets others have the processor.

/// Bytes of records between two offers: a tenth of a millisecond's work or two.
const STRETCH_BYTES: usize = 16 << 10;
/// What a record costs beside its bytes.
const RECORD_BYTES: usize = 32;

/// Offers the processor to whoever waits for it, every so many bytes. A low priority does not do that: a thread that was just given
/// the processor keeps it for a slice, and whether that is used up many systems look at every 4 ms only. Where nobody waits
/// an offer costs half a microsecond.
#[derive(Debug, Default)]
pub struct Stretches {
    /// Since the last offer.
    bytes: usize,
}

impl Stretches {
    /// A record of so many bytes is done. True if the processor was offered.
    pub fn did(&mut self, bytes: usize) -> bool {
        self.bytes = self
            .bytes
            .saturating_add(bytes)
            .saturating_add(RECORD_BYTES);
        let over = self.bytes >= STRETCH_BYTES;
        if over {
            self.bytes = 0;
            std::thread::yield_now();
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_offered_after_so_many_bytes_and_after_so_many_records() {
        let offers = |record: usize| {
            let mut stretches = Stretches::default();
            (0..10_000).filter(|_| stretches.did(record)).count()
        };
        assert_eq!(offers(STRETCH_BYTES), 10_000);
        assert_eq!(offers(STRETCH_BYTES / 2 - RECORD_BYTES), 5_000);
        assert_eq!(offers(0), 10_000 * RECORD_BYTES / STRETCH_BYTES);
    }
}
