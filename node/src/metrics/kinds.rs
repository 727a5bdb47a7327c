//! What a number can be: a count, a value that goes both ways, a distribution.
//!
//! Every one is relaxed atomics: a scrape may see two numbers a moment apart, never a torn one.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::text::Text;

/// A monotonically rising count that any thread may add to.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A count that one thread adds to and any may read: no locked instruction on the way of a request.
#[derive(Default)]
pub struct Local(AtomicU64);

impl Local {
    pub fn add(&self, count: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that goes both ways.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, delta: i64) {
        self.0.fetch_add(delta, Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// A value of each executor, of which the highest counts.
#[derive(Default)]
pub struct Worst([Gauge; Worst::EXECUTORS_MAX]);

impl Worst {
    const EXECUTORS_MAX: usize = 16;

    /// Executors beyond the last place share it.
    pub fn set(&self, executor: usize, value: i64) {
        self.0[executor.min(Worst::EXECUTORS_MAX - 1)].set(value);
    }

    pub fn get(&self) -> i64 {
        self.0.iter().map(Gauge::get).max().unwrap_or(0)
    }
}

/// What a distribution is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Summed in nanoseconds, told in seconds.
    Seconds,
    /// Plain numbers.
    Ones,
}

/// How many of what was observed was at most so much.
pub struct Histogram {
    unit: Unit,
    /// Upper bounds, ascending.
    bounds: &'static [f64],
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    sum: AtomicU64,
}

impl Histogram {
    /// Of durations; bounds in seconds.
    pub fn seconds(bounds: &'static [f64]) -> Histogram {
        Histogram::new(Unit::Seconds, bounds)
    }

    /// Of counts.
    pub fn ones(bounds: &'static [f64]) -> Histogram {
        Histogram::new(Unit::Ones, bounds)
    }

    fn new(unit: Unit, bounds: &'static [f64]) -> Histogram {
        Histogram {
            unit,
            bounds,
            buckets: bounds.iter().map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, duration: Duration) {
        debug_assert!(self.unit == Unit::Seconds, "a histogram of counts");
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.put(duration.as_secs_f64(), nanos);
    }

    pub fn observe_count(&self, count: u64) {
        debug_assert!(self.unit == Unit::Ones, "a histogram of durations");
        self.put(count as f64, count);
    }

    fn put(&self, value: f64, sum: u64) {
        self.count.fetch_add(1, Relaxed);
        self.sum.fetch_add(sum, Relaxed);
        if let Some(at) = self.bounds.iter().position(|bound| value <= *bound) {
            self.buckets[at].fetch_add(1, Relaxed);
        }
    }

    /// A family of one series.
    pub fn write(&self, out: &mut Text, name: &str, help: &str) {
        out.head(name, "histogram", help);
        write_series(out, name, "", &[self]);
    }
}

/// One series of a family of histograms, summed over `parts`, which share their bounds. `labels` without braces.
pub fn write_series(out: &mut Text, name: &str, labels: &str, parts: &[&Histogram]) {
    let Some(first) = parts.first() else {
        return;
    };
    let comma = if labels.is_empty() { "" } else { "," };
    let total = |pick: &dyn Fn(&Histogram) -> u64| parts.iter().map(|part| pick(part)).sum::<u64>();
    let mut below = 0;
    for (at, bound) in first.bounds.iter().enumerate() {
        below += total(&|part| part.buckets[at].load(Relaxed));
        out.line(format_args!(
            "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}"
        ));
    }
    // Read after the buckets, which are written after it: never less than they are.
    let count = total(&|part| part.count.load(Relaxed)).max(below);
    out.line(format_args!(
        "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"
    ));
    let sum = total(&|part| part.sum.load(Relaxed)) as f64;
    let sum = match first.unit {
        Unit::Seconds => sum / 1e9,
        Unit::Ones => sum,
    };
    let braces = match labels {
        "" => String::new(),
        _ => format!("{{{labels}}}"),
    };
    out.line(format_args!("{name}_sum{braces} {sum}"));
    out.line(format_args!("{name}_count{braces} {count}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, line: &str) -> f64 {
        text.lines()
            .find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("{line} missing in {text}"))
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_end_in_the_count() {
        let histogram = Histogram::seconds(&[0.001, 0.01, 1.0]);
        for micros in [20, 1000, 9000, 60_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut out = Text::default();
        histogram.write(&mut out, "h", "A.");
        let text = out.into_string();
        assert_eq!(value(&text, "h_bucket{le=\"0.001\"}"), 2.0);
        assert_eq!(value(&text, "h_bucket{le=\"0.01\"}"), 3.0);
        assert_eq!(value(&text, "h_bucket{le=\"1\"}"), 3.0);
        assert_eq!(value(&text, "h_bucket{le=\"+Inf\"}"), 4.0);
        assert_eq!(value(&text, "h_count"), 4.0);
        assert!((value(&text, "h_sum") - 60.01002).abs() < 1e-6);
    }

    #[test]
    fn a_series_is_the_sum_of_its_parts() {
        let parts = [Histogram::ones(&[1.0, 8.0]), Histogram::ones(&[1.0, 8.0])];
        parts[0].observe_count(1);
        parts[1].observe_count(5);
        let mut out = Text::default();
        write_series(&mut out, "h", "a=\"b\"", &[&parts[0], &parts[1]]);
        let text = out.into_string();
        assert_eq!(value(&text, "h_bucket{a=\"b\",le=\"1\"}"), 1.0);
        assert_eq!(value(&text, "h_bucket{a=\"b\",le=\"8\"}"), 2.0);
        assert_eq!(value(&text, "h_sum{a=\"b\"}"), 6.0);
    }
}
