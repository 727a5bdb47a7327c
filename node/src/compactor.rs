//! Automatic compaction: by age or by number of revisions. The leader compacts; the others only keep count, so that
//! whoever leads next knows the revisions of the past.

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
/// How often a change of the settings is looked for.
const SETTINGS_STEP: Duration = Duration::from_secs(1);

pub async fn run(core: Rc<ClientCore>) {
    loop {
        let policy = core.shared.live.auto_compaction();
        match policy {
            AutoCompaction::Off => {
                pause(&core, policy, SETTINGS_STEP).await;
            }
            AutoCompaction::Revision(keep) => {
                while pause(&core, policy, REVISION_INTERVAL).await {
                    compact(&core, core.revision() - keep).await;
                }
            }
            AutoCompaction::Periodic(keep) => {
                let mut window = Window::new(keep);
                window.note(core.revision());
                while pause(&core, policy, window.sample_interval()).await {
                    if let Some(revision) = window.due() {
                        let done = compact(&core, revision).await;
                        window.came_to(done);
                    }
                    window.note(core.revision());
                }
            }
        }
    }
}

/// Waits; false if the settings have changed meanwhile.
async fn pause(core: &ClientCore, policy: AutoCompaction, time: Duration) -> bool {
    let mut left = time;
    while !left.is_zero() {
        let step = left.min(SETTINGS_STEP);
        rt::sleep(step).await;
        left -= step;
        if core.shared.live.auto_compaction() != policy {
            return false;
        }
    }
    true
}

/// Whether the history up to there is gone now.
async fn compact(core: &Rc<ClientCore>, revision: i64) -> bool {
    if !core.shared.vitals.is_leader.load(Ordering::Relaxed) {
        return false;
    }
    let behind = core.with_view(|view| view.compact_revision()).max(0);
    if revision <= behind {
        return true;
    }
    let message = CompactionRequest {
        revision,
        physical: false,
    }
    .encode_to_vec();
    match core.propose(Kind::Compaction, &message).await {
        Ok(_) => {
            log::info!("compacted to revision {revision}");
            true
        }
        Err(status) if status == Status::compacted() => true,
        Err(status) => {
            log::warn!("automatic compaction to {revision}: {status}; trying again");
            false
        }
    }
}

/// Revisions sampled over the time that is to be kept, newest last.
///
/// A sample is noted at the beginning and after every interval. The first compaction is due once a whole period lies
/// between the oldest sample and now, further ones after each period or hour, whichever is shorter; one that failed, or that
/// another member would have had to make, is due again with the next sample.
struct Window {
    keep: Duration,
    samples: VecDeque<i64>,
    /// Intervals that have passed since the last compaction that came to something, or the beginning.
    passed: u32,
    /// Intervals that must pass until the next one.
    patience: u32,
}

impl Window {
    fn new(keep: Duration) -> Self {
        let mut window = Window {
            keep,
            samples: VecDeque::new(),
            passed: 0,
            patience: 0,
        };
        window.patience = u32::try_from(window.span()).unwrap_or(u32::MAX);
        window
    }

    /// A tenth of the period, and of an hour if the period is longer.
    fn sample_interval(&self) -> Duration {
        self.keep.min(PERIOD_MAX) / SAMPLES
    }

    /// Intervals that span the time to keep.
    fn span(&self) -> usize {
        usize::try_from(
            self.keep
                .as_nanos()
                .div_ceil(self.sample_interval().as_nanos().max(1)),
        )
        .unwrap_or(usize::MAX)
    }

    /// Notes the present revision.
    fn note(&mut self, revision: i64) {
        self.samples.push_back(revision);
        if self.samples.len() > self.span() {
            let surplus = self.samples.len() - self.span();
            self.samples.drain(..surplus);
        }
    }

    /// An interval has passed: the revision to compact to, if it is time.
    fn due(&mut self) -> Option<i64> {
        self.passed = self.passed.saturating_add(1);
        if self.passed < self.patience || self.samples.len() < self.span() {
            return None;
        }
        self.samples.front().copied()
    }

    /// What the compaction came to.
    fn came_to(&mut self, done: bool) {
        if done {
            self.passed = 0;
            self.patience = SAMPLES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The compactions of so many intervals, as (interval, revision), where the revision is a hundred times the interval.
    fn compactions(keep: Duration, intervals: i64, done: impl Fn(i64) -> bool) -> Vec<(i64, i64)> {
        let mut window = Window::new(keep);
        window.note(0);
        let mut all = Vec::new();
        for interval in 1..=intervals {
            if let Some(revision) = window.due() {
                let done = done(interval);
                if done {
                    all.push((interval, revision));
                }
                window.came_to(done);
            }
            window.note(interval * 100);
        }
        all
    }

    #[test]
    fn the_first_compaction_comes_after_a_full_period_and_keeps_that_much() {
        let keep = Duration::from_secs(600);
        assert_eq!(Window::new(keep).sample_interval(), Duration::from_secs(60));
        let all = compactions(keep, 40, |_| true);
        assert_eq!(all, [(10, 0), (20, 1000), (30, 2000), (40, 3000)]);
    }

    #[test]
    fn a_long_period_compacts_every_hour_once_it_has_passed() {
        let all = compactions(Duration::from_secs(24 * 3600), 300, |_| true);
        let hours: Vec<_> = all.iter().map(|(at, _)| at / 10).collect();
        assert_eq!(hours, [24, 25, 26, 27, 28, 29, 30]);
        assert!(
            all.iter()
                .all(|(at, revision)| at * 100 - revision == 24_000)
        );
    }

    #[test]
    fn what_failed_is_tried_again_with_the_next_sample() {
        // Not before interval 13, as if another member led until then.
        let all = compactions(Duration::from_secs(600), 35, |interval| interval >= 13);
        assert_eq!(all, [(13, 300), (23, 1300), (33, 2300)]);
    }
}
