//! Latencies as counts in log-linear buckets: 64 per power of two, so a value read back is at most
//! 1.6 % above the one recorded. Recording is an index computation and an addition.

/// Values below this have a bucket each; above, every power of two has half as many.
const LINEAR: u64 = 128;
const PER_OCTAVE: u64 = LINEAR / 2;
/// `log2(LINEAR)`.
const LINEAR_BITS: u32 = LINEAR.trailing_zeros();
/// Longest latency told apart, 2^40 ns (18 minutes); longer ones fall into the last bucket.
const BITS_MAX: u32 = 40;
const BUCKETS: usize = (LINEAR + (BITS_MAX - LINEAR_BITS) as u64 * PER_OCTAVE) as usize;

/// Counts of latencies in nanoseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub fn new() -> Histogram {
        Histogram {
            counts: vec![0; BUCKETS],
            total: 0,
            max: 0,
        }
    }

    pub fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
        self.max = 0;
    }

    /// The value that this share (0 to 1) of all recorded ones does not exceed; 0 if there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = ((share * self.total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_bound(index).min(self.max);
            }
        }
        self.max
    }

    /// The greatest value recorded, exactly.
    pub fn max(&self) -> u64 {
        self.max
    }
}

fn bucket(nanos: u64) -> usize {
    let nanos = nanos.min((1 << BITS_MAX) - 1);
    if nanos < LINEAR {
        return nanos as usize;
    }
    // At least LINEAR_BITS; the six bits below the highest pick the bucket within the octave.
    let octave = nanos.ilog2() - LINEAR_BITS;
    let within = (nanos >> (octave + 1)) - PER_OCTAVE;
    (LINEAR + u64::from(octave) * PER_OCTAVE + within) as usize
}

/// The greatest value that falls into the bucket.
fn upper_bound(index: usize) -> u64 {
    let index = index as u64;
    if index < LINEAR {
        return index;
    }
    let octave = (index - LINEAR) / PER_OCTAVE;
    let within = (index - LINEAR) % PER_OCTAVE;
    ((PER_OCTAVE + within + 1) << (octave + 1)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_one_another_and_hold_their_bounds() {
        for index in 0..BUCKETS {
            let last = upper_bound(index);
            assert_eq!(bucket(last), index);
            if index + 1 < BUCKETS {
                assert_eq!(bucket(last + 1), index + 1);
            }
        }
        assert_eq!(upper_bound(BUCKETS - 1), (1 << BITS_MAX) - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_value_is_read_back_within_1_6_percent() {
        let mut value = 1_u64;
        while value < 1 << 39 {
            let mut histogram = Histogram::new();
            histogram.record(value);
            histogram.record(value * 2);
            let read = histogram.quantile(0.5);
            assert!(
                read >= value && (read - value) as f64 <= value as f64 * 0.016,
                "{value}"
            );
            value = value * 21 / 20 + 1;
        }
    }

    #[test]
    fn quantiles_of_a_uniform_spread() {
        let mut histogram = Histogram::new();
        for micros in 1..=1000_u64 {
            histogram.record(micros * 1000);
        }
        for (share, micros) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let read = histogram.quantile(share) as f64 / 1000.0;
            assert!(read >= micros && read <= micros * 1.016, "{share}: {read}");
        }
        assert_eq!(histogram.max(), 1_000_000);
        assert_eq!(
            histogram.quantile(1.0),
            1_000_000,
            "never above the greatest"
        );
    }

    #[test]
    fn an_empty_one_answers_zero() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.99), 0);
        histogram.record(7);
        histogram.clear();
        assert_eq!((histogram.quantile(0.5), histogram.max()), (0, 0));
    }
}
