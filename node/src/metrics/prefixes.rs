//! Sizes of the prefixes that `--metrics-key-prefixes` names; see `crate::prefixes`.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::kinds::Gauge;
use super::text::Text;

/// A prefix and its sizes as counted last.
pub struct Prefix {
    name: String,
    counted: AtomicBool,
    keys: Gauge,
    bytes: Gauge,
}

impl Prefix {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// So many keys, and bytes of keys and values.
    pub fn set(&self, keys: u64, bytes: u64) {
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.counted.store(true, Relaxed);
    }
}

/// All of them.
#[derive(Default)]
pub struct Prefixes(Vec<Prefix>);

impl Prefixes {
    pub fn new(names: &[String]) -> Prefixes {
        let prefix = |name: &String| Prefix {
            name: name.clone(),
            counted: AtomicBool::new(false),
            keys: Gauge::default(),
            bytes: Gauge::default(),
        };
        Prefixes(names.iter().map(prefix).collect())
    }

    pub fn all(&self) -> &[Prefix] {
        &self.0
    }

    /// Those that were counted once.
    pub(super) fn render(&self, out: &mut Text) {
        let samples = |of: fn(&Prefix) -> i64| {
            let counted = self.0.iter().filter(|prefix| prefix.counted.load(Relaxed));
            counted.map(move |prefix| (prefix.name(), of(prefix)))
        };
        if self.0.is_empty() {
            return;
        }
        out.labelled(
            ("kvnode_prefix_keys", "gauge"),
            "Keys of a prefix, as counted last.",
            "prefix",
            samples(|prefix| prefix.keys.get()),
        );
        out.labelled(
            ("kvnode_prefix_bytes", "gauge"),
            "Bytes of a prefix's keys and values, as counted last.",
            "prefix",
            samples(|prefix| prefix.bytes.get()),
        );
    }
}
