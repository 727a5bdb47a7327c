//! This member's look at its own quota: a warning before it is reached, and the end of its NOSPACE alarm when there is room
//! again.
//!
//! The alarm ends by itself only after a compaction: what was raised by the quota was raised by data, and deleting alone
//! frees nothing that history still holds. An alarm that an operator raised on an empty store therefore stays.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvnode_api::alarm_request::AlarmAction;
use kvnode_api::{AlarmRequest, AlarmType};
use kvnode_store::command::Kind;
use prost::Message as _;

use crate::cores::client::ClientCore;
use crate::rt;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Percent of the quota at which the operator is warned, and below which the next warning is due.
const WARN: u64 = 80;
const WARN_AGAIN: u64 = 75;
/// Percent of the quota below which the alarm ends.
const CLEAR: u64 = 90;

pub async fn run(core: Rc<ClientCore>) {
    let mut watch = QuotaWatch::default();
    loop {
        rt::sleep(INTERVAL).await;
        let Some(quota) = core.shared.live.quota_bytes() else {
            continue;
        };
        let member_id = core.shared.member_id;
        let look = core.with_view(|view| Look {
            quota,
            used: view.live_bytes(),
            compact_revision: view.compact_revision(),
            alarm: view.alarms().has(AlarmType::Nospace, member_id),
        });
        let todo = watch.look(look);
        if todo.warn {
            log::warn!(
                "{} of {quota} bytes of the quota are used: compact (see --auto-compaction-retention), or raise --quota-backend-bytes before writes are refused",
                look.used
            );
        }
        let room = !core.shared.vitals.disk_low.load(Ordering::Relaxed);
        if todo.clear && room && core.shared.config.nospace_auto_disarm {
            let alarm = AlarmRequest {
                action: AlarmAction::Deactivate as i32,
                member_id,
                alarm: AlarmType::Nospace as i32,
            };
            match core.propose(Kind::Alarm, &alarm.encode_to_vec()).await {
                Ok(_) => log::info!(
                    "{} of {quota} bytes of the quota are used after a compaction: NOSPACE is off again",
                    look.used
                ),
                Err(status) => log::warn!("NOSPACE could not be ended, trying again: {status}"),
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Look {
    quota: u64,
    used: u64,
    compact_revision: i64,
    /// This member's NOSPACE is on.
    alarm: bool,
}

#[derive(Debug, Default)]
struct QuotaWatch {
    warned: bool,
    /// The compact revision when the alarm was last seen off, and when it came on.
    before: Option<i64>,
    alarmed_at: Option<i64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Todo {
    warn: bool,
    clear: bool,
}

impl QuotaWatch {
    fn look(&mut self, look: Look) -> Todo {
        let percent = |part: u64| u128::from(look.quota) * u128::from(part) / 100;
        let used = u128::from(look.used);
        let warn = used >= percent(WARN) && !self.warned;
        self.warned = used >= percent(WARN) || (self.warned && used >= percent(WARN_AGAIN));
        if !look.alarm {
            self.alarmed_at = None;
            self.before = Some(look.compact_revision);
            return Todo { warn, clear: false };
        }
        // A compaction may follow the alarm sooner than the next look.
        let before = self.before.unwrap_or(look.compact_revision);
        let alarmed_at = *self.alarmed_at.get_or_insert(before);
        let clear = look.compact_revision > alarmed_at && used < percent(CLEAR);
        Todo { warn, clear }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(used: u64, compact_revision: i64, alarm: bool) -> Look {
        Look {
            quota: 1000,
            used,
            compact_revision,
            alarm,
        }
    }

    #[test]
    fn the_warning_comes_once_each_time_the_quota_fills() {
        let mut watch = QuotaWatch::default();
        let warned =
            [700, 800, 850, 780, 810, 700, 800].map(|used| watch.look(look(used, 0, false)).warn);
        assert_eq!(warned, [false, true, false, false, false, false, true]);
    }

    #[test]
    fn the_alarm_ends_after_a_compaction_that_made_room_and_not_before() {
        let mut watch = QuotaWatch::default();
        assert!(!watch.look(look(1000, 5, true)).clear);
        assert!(
            !watch.look(look(100, 5, true)).clear,
            "deleted, not compacted"
        );
        assert!(
            !watch.look(look(950, 6, true)).clear,
            "compacted, still too full"
        );
        assert!(watch.look(look(899, 7, true)).clear);
        assert!(!watch.look(look(899, 7, false)).clear);
        assert!(
            watch.look(look(100, 8, true)).clear,
            "compacted between two looks"
        );
        assert!(!watch.look(look(100, 8, false)).clear);
        // The next alarm needs a compaction of its own.
        assert!(!watch.look(look(100, 8, true)).clear);
    }
}
