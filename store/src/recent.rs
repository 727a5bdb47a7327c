//! The most recent changes in memory: what a watch needs to start slightly in the past, or to catch
//! the last steps up to the present, without a disk read.
//!
//! Bound: `bytes_max` of keys and values (and always the newest batch); the oldest revisions leave
//! first. What has left is still in the store's history, so a watcher that asks for it is read from
//! there.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::change::Change;

/// Recent changes, oldest first. Owned by one executor.
pub struct RecentChanges {
    batches: VecDeque<Batch>,
    bytes: usize,
    bytes_max: usize,
    /// Every change above this revision (up to the newest) is held.
    complete_after: i64,
}

struct Batch {
    changes: Arc<Vec<Change>>,
    bytes: usize,
}

impl RecentChanges {
    /// `revision` is the store's at start: nothing at or below it is held.
    pub fn new(bytes_max: usize, revision: i64) -> Self {
        RecentChanges {
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
            complete_after: revision,
        }
    }

    /// Changes the bound; a lower one takes hold with the next push.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Appends an applied batch; revisions continue where the last batch ended.
    pub fn push(&mut self, changes: &Arc<Vec<Change>>) {
        if changes.is_empty() {
            return;
        }
        let bytes = changes.iter().map(change_bytes).sum();
        self.bytes += bytes;
        self.batches.push_back(Batch {
            changes: Arc::clone(changes),
            bytes,
        });
        while self.bytes > self.bytes_max && self.batches.len() > 1 {
            let Some(oldest) = self.batches.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
            if let Some(last) = oldest.changes.last() {
                self.complete_after = last.revision;
            }
        }
    }

    /// All changes with a revision of at least `from`, or `None` if some of them have already left.
    pub fn since(&self, from: i64) -> Option<impl Iterator<Item = &Change>> {
        if from <= self.complete_after {
            return None;
        }
        let start = self
            .batches
            .partition_point(|batch| batch.changes.last().is_none_or(|last| last.revision < from));
        Some(
            self.batches
                .range(start..)
                .flat_map(|batch| batch.changes.iter())
                .filter(move |change| change.revision >= from),
        )
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.bytes
    }
}

fn change_bytes(change: &Change) -> usize {
    let kv_bytes = |kv: &Option<kvnode_api::KeyValue>| {
        kv.as_ref()
            .map_or(0, |kv| kv.key.len() + kv.value.len() + 96)
    };
    32 + change
        .events
        .iter()
        .map(|event| kv_bytes(&event.kv) + kv_bytes(&event.prev_kv))
        .sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kvnode_api::{Event, KeyValue};

    fn batch(revisions: std::ops::Range<i64>, value_bytes: usize) -> Arc<Vec<Change>> {
        Arc::new(
            revisions
                .map(|revision| Change {
                    revision,
                    events: vec![Event {
                        r#type: 0,
                        kv: Some(KeyValue {
                            key: Bytes::from(format!("k{revision}")),
                            value: Bytes::from(vec![0; value_bytes]),
                            mod_revision: revision,
                            ..Default::default()
                        }),
                        prev_kv: None,
                    }],
                })
                .collect(),
        )
    }

    fn revisions(ring: &RecentChanges, from: i64) -> Option<Vec<i64>> {
        Some(ring.since(from)?.map(|change| change.revision).collect())
    }

    #[test]
    fn serves_exactly_what_it_still_holds() {
        let mut ring = RecentChanges::new(1 << 20, 5);
        assert_eq!(revisions(&ring, 5), None, "revision 5 came before the ring");
        assert_eq!(revisions(&ring, 6), Some(vec![]));
        ring.push(&batch(6..9, 10));
        ring.push(&batch(9..11, 10));
        assert_eq!(revisions(&ring, 6), Some(vec![6, 7, 8, 9, 10]));
        assert_eq!(revisions(&ring, 8), Some(vec![8, 9, 10]));
        assert_eq!(revisions(&ring, 11), Some(vec![]));
    }

    #[test]
    fn what_left_is_refused_rather_than_skipped() {
        let mut ring = RecentChanges::new(3000, 1);
        for start in (2..40).step_by(2) {
            ring.push(&batch(start..start + 2, 200));
            assert!(ring.bytes() <= 3000);
        }
        assert_eq!(revisions(&ring, 2), None);
        let oldest = ring.complete_after + 1;
        assert!(oldest > 2);
        assert_eq!(revisions(&ring, oldest), Some((oldest..40).collect()));
    }

    #[test]
    fn a_lower_bound_holds_from_the_next_batch_on() {
        let mut ring = RecentChanges::new(1 << 20, 1);
        ring.push(&batch(2..10, 200));
        ring.push(&batch(10..20, 200));
        ring.set_bytes_max(0);
        assert_eq!(revisions(&ring, 2), Some((2..20).collect()));
        ring.push(&batch(20..22, 200));
        assert_eq!(revisions(&ring, 19), None);
        assert_eq!(revisions(&ring, 20), Some(vec![20, 21]));
    }
}
