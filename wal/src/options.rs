//! The knobs of a log and the bounds that keep them consistent with each other.

use crate::error::Error;
use crate::index::footer_pairs_max;
use crate::record::{SEAL_RECORD_BYTES, entry_record_bytes, record_bytes};
use crate::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, ENTRY_BYTES_MAX,
    SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, round_up,
};

/// How a sync is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMethod {
    /// fdatasync; enough because sizes and extents of segments never change.
    #[default]
    Fdatasync,
    /// Not at all: a power loss or kernel crash may lose acknowledged entries. For tests and for
    /// data that can be made again.
    None,
}

/// Options of a log; a log may be resumed with other options than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of new segments, in bytes: a multiple of 1 MiB, 1 MiB ..= 1 GiB.
    pub segment_bytes: u64,
    /// Alignment of batches, in bytes: a power of two, 512 ..= 65536, and not below the device's
    /// logical block.
    pub block_bytes: u32,
    /// A batch is issued when its records would pass this many bytes; one larger entry still goes.
    pub batch_bytes_target: usize,
    /// Largest payload of an entry, in bytes.
    pub entry_bytes_max: usize,
    /// Prepared segments kept ready, 1 ..= 4.
    pub spares: usize,
    /// See [`SyncMethod`].
    pub sync: SyncMethod,
    /// Lets tests use segments of a few blocks.
    #[doc(hidden)]
    pub small_segments: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 32 << 20,
            block_bytes: 4096,
            batch_bytes_target: 4 << 20,
            entry_bytes_max: ENTRY_BYTES_MAX,
            spares: 1,
            sync: SyncMethod::Fdatasync,
            small_segments: false,
        }
    }
}

impl Options {
    /// Checks every bound, then lowers `entry_bytes_max` and `batch_bytes_target` to what the segment
    /// size allows.
    ///
    /// # Errors
    /// [`Error::Option`] with the name of the first option outside its bounds.
    pub fn validated(mut self) -> Result<Self, Error> {
        let bad = |name, value: u64, rule| Err(Error::Option { name, value, rule });
        let block = self.block_bytes;
        if !block.is_power_of_two() || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block) {
            return bad("block bytes", block.into(), "a power of two, 512 ..= 65536");
        }
        let granule = if self.small_segments {
            u64::from(block)
        } else {
            SEGMENT_BYTES_MIN
        };
        let least = if self.small_segments {
            12 * granule
        } else {
            granule
        };
        if !(least..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(granule)
        {
            return bad(
                "segment bytes",
                self.segment_bytes,
                "a multiple of 1 MiB, 1 MiB ..= 1 GiB",
            );
        }
        if !(1..=4).contains(&self.spares) {
            return bad("spares", self.spares as u64, "1 ..= 4");
        }
        if self.entry_bytes_max > ENTRY_BYTES_MAX {
            return bad("entry bytes", self.entry_bytes_max as u64, "at most 12 MiB");
        }
        let records = self.batch_bytes_max() - BATCH_HEADER_BYTES;
        self.entry_bytes_max = self
            .entry_bytes_max
            .min(records - entry_record_bytes(0) - 64);
        self.batch_bytes_target = self.batch_bytes_target.min(records);
        Ok(self)
    }

    /// Largest batch, header and padding included, in bytes: below half of a segment, so that every
    /// batch fits into a fresh one beside its checkpoint and its seal.
    pub fn batch_bytes_max(&self) -> usize {
        let half = usize::try_from(self.segment_bytes / 2).expect("at most 512 MiB");
        let block = self.block_bytes as usize;
        (half - 2 * block).min(BATCH_BYTES_MAX) / block * block
    }

    /// Bytes at the end of a segment that only the sealing batch may use.
    pub(crate) fn seal_reserve_bytes(&self) -> u64 {
        let footer = record_bytes(16 * footer_pairs_max(self.segment_bytes));
        let batch = BATCH_HEADER_BYTES + footer + SEAL_RECORD_BYTES;
        round_up(batch, self.block_bytes as usize) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_outside_their_bounds_are_refused_by_name() {
        assert!(Options::default().validated().is_ok());
        type Change = fn(&mut Options);
        let cases: [(Change, &str); 6] = [
            (|o| o.block_bytes = 1000, "block bytes"),
            (|o| o.block_bytes = 256, "block bytes"),
            (|o| o.segment_bytes = (1 << 20) + 4096, "segment bytes"),
            (|o| o.segment_bytes = 2 << 30, "segment bytes"),
            (|o| o.spares = 0, "spares"),
            (|o| o.entry_bytes_max = 13 << 20, "entry bytes"),
        ];
        for (change, wanted) in cases {
            let mut options = Options::default();
            change(&mut options);
            let Err(Error::Option { name, .. }) = options.validated() else {
                panic!("{wanted} was accepted");
            };
            assert_eq!(name, wanted);
        }
    }

    #[test]
    fn the_largest_entry_fits_into_the_smallest_segment_that_takes_it() {
        for mib in [1, 2, 4, 64, 1024] {
            let options = Options {
                segment_bytes: mib << 20,
                ..Options::default()
            }
            .validated()
            .unwrap();
            let entry = entry_record_bytes(options.entry_bytes_max) + BATCH_HEADER_BYTES + 40;
            let batch = round_up(entry, 4096);
            assert!(batch <= options.batch_bytes_max());
            assert!(batch as u64 * 2 < options.segment_bytes);
        }
    }
}
