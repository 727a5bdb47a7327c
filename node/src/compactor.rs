//! Automatic compaction: by age or by number of revisions. Runs on the leader; elsewhere it only waits.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvnode_api::CompactionRequest;
use kvnode_api::status::Status;
use kvnode_store::command::Kind;
use prost::Message as _;

use crate::config::AutoCompaction;
use crate::cores::client::ClientCore;
use crate::rt;

/// Time between two compactions by number of revisions.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// Samples per period when compacting by age; and the longest period that is sampled this finely.
const SAMPLES: u32 = 10;
const PERIOD_MAX: Duration = Duration::from_secs(3600);

pub async fn run(core: Rc<ClientCore>) {
    match core.shared.config.auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Revision(keep) => loop {
            rt::sleep(REVISION_INTERVAL).await;
            compact(&core, core.revision() - keep).await;
        },
        AutoCompaction::Periodic(keep) => {
            let mut window = Window::new(keep);
            loop {
                rt::sleep(window.sample_interval()).await;
                if let Some(revision) = window.sample(core.revision()) {
                    compact(&core, revision).await;
                }
            }
        }
    }
}

async fn compact(core: &Rc<ClientCore>, revision: i64) {
    let behind = core.with_view(|view| view.compact_revision()).max(0);
    if revision <= behind || !core.shared.vitals.is_leader.load(Ordering::Relaxed) {
        return;
    }
    let message = CompactionRequest {
        revision,
        physical: false,
    }
    .encode_to_vec();
    match core.propose(Kind::Compaction, &message).await {
        Ok(_) => log::info!("compacted to revision {revision}"),
        Err(status) if status == Status::compacted() => {}
        Err(status) => {
            log::warn!("automatic compaction to {revision}: {status}; the next one catches up")
        }
    }
}

/// Revisions sampled over the time that is to be kept.
struct Window {
    keep: Duration,
    samples: VecDeque<i64>,
    since_compaction: u32,
}

impl Window {
    fn new(keep: Duration) -> Self {
        Window {
            keep,
            samples: VecDeque::new(),
            since_compaction: 0,
        }
    }

    /// A tenth of the period, and of an hour if the period is longer.
    fn sample_interval(&self) -> Duration {
        self.keep.min(PERIOD_MAX) / SAMPLES
    }

    /// Samples that span the time to keep.
    fn span(&self) -> usize {
        usize::try_from(
            self.keep
                .as_nanos()
                .div_ceil(self.sample_interval().as_nanos().max(1)),
        )
        .unwrap_or(usize::MAX)
    }

    /// Notes the present revision; returns the one to compact to, once per period.
    fn sample(&mut self, revision: i64) -> Option<i64> {
        self.samples.push_back(revision);
        self.since_compaction += 1;
        if self.samples.len() <= self.span() {
            return None;
        }
        let oldest = self.samples.pop_front()?;
        if self.since_compaction < SAMPLES {
            return None;
        }
        self.since_compaction = 0;
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_compaction_comes_after_a_full_period_and_keeps_that_much() {
        let mut window = Window::new(Duration::from_secs(600));
        assert_eq!(window.sample_interval(), Duration::from_secs(60));
        let compacted: Vec<(i64, i64)> = (0..40)
            .filter_map(|minute| Some((minute, window.sample(minute * 100)?)))
            .collect();
        assert_eq!(compacted, [(10, 0), (20, 1000), (30, 2000)]);
    }

    #[test]
    fn a_long_period_compacts_every_hour() {
        let mut window = Window::new(Duration::from_secs(24 * 3600));
        let hours: Vec<i64> = (0..300)
            .filter_map(|sample| window.sample(sample).map(|_| sample / 10))
            .collect();
        assert_eq!(hours, [24, 25, 26, 27, 28, 29]);
    }
}
