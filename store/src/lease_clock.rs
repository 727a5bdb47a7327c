//! The lease clock: who is due when. Only the leader has one that runs.
//!
//! Pure: the caller brings milliseconds of one monotonic clock. Expiry itself is a replicated
//! command; the clock only says which leases to revoke, and keeps one that is due out of the way
//! (`revoking`) until that command is applied, so that a keepalive can never bring back keys that
//! are about to vanish.

use std::collections::{BTreeSet, HashMap};

use ahash::RandomState;

/// A revoke that was not applied within this time is asked for again: it may have been refused.
const REVOKE_RETRY_MS: u64 = 10_000;
/// Time between two notes of what is left of one lease; leases shorter than this need none.
pub const NOTE_INTERVAL_MS: u64 = 300_000;

/// Remaining and granted time of a lease, in milliseconds and seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// May be negative while the revoke is on its way.
    pub remaining_ms: i64,
    pub granted_ttl_seconds: i64,
}

/// Answer to a keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed; the granted TTL in seconds.
    Renewed(i64),
    /// Expired, its revoke not yet applied: ask again after the next applied batch.
    Revoking,
    /// No such lease.
    Unknown,
    /// This member does not lead: it cannot know.
    NotLeader,
}

#[derive(Default)]
pub struct LeaseClock {
    leases: HashMap<i64, Timed, RandomState>,
    /// ([`Timed::asked_ms`], id) of every lease. Empty on a follower.
    due: BTreeSet<(u64, i64)>,
    /// (when to look whether to write down what is left, id). May hold leases that are gone.
    notes: BTreeSet<(u64, i64)>,
    running: bool,
}

struct Timed {
    ttl_seconds: i64,
    due_ms: u64,
    /// Its revoke is on its way, and asked for again at this time.
    revoking: Option<u64>,
    renewed_ms: u64,
    /// The log has a remaining time for it.
    noted: bool,
}

impl Timed {
    /// When its revoke has to be asked for.
    fn asked_ms(&self) -> u64 {
        self.revoking.unwrap_or(self.due_ms)
    }
}

impl LeaseClock {
    /// A follower's clock: knows no lease and lets none expire.
    pub fn new() -> Self {
        LeaseClock::default()
    }

    /// This member now leads. Every lease restarts with its checkpointed remaining time if there is one, else its full TTL,
    /// plus `extra_ms` (one election timeout: clients could not renew while there was no leader).
    pub fn promote(
        &mut self,
        now_ms: u64,
        extra_ms: u64,
        leases: impl Iterator<Item = (i64, i64, i64)>,
    ) {
        self.demote();
        self.running = true;
        for (id, ttl_seconds, remaining_seconds) in leases {
            let noted = remaining_seconds > 0;
            let seconds = if noted {
                remaining_seconds
            } else {
                ttl_seconds
            };
            let due_ms = now_ms + extra_ms + seconds_to_ms(seconds);
            self.insert(id, ttl_seconds, due_ms, now_ms);
            self.noted(id, noted);
        }
    }

    /// Leadership lost: timers stop, leases live "forever" here.
    pub fn demote(&mut self) {
        self.running = false;
        self.leases.clear();
        self.due.clear();
        self.notes.clear();
    }

    /// Whether this is the leader's clock.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// A grant was applied.
    pub fn granted(&mut self, id: i64, ttl_seconds: i64, now_ms: u64) {
        if self.running {
            self.revoked(id);
            let due_ms = now_ms + seconds_to_ms(ttl_seconds);
            self.insert(id, ttl_seconds, due_ms, now_ms);
        }
    }

    /// A revoke was applied.
    pub fn revoked(&mut self, id: i64) {
        if let Some(timed) = self.leases.remove(&id) {
            self.due.remove(&(timed.asked_ms(), id));
        }
    }

    /// Whether the lease is known here.
    pub fn knows(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// The log has (`true`) or no longer has a remaining time for the lease.
    pub fn noted(&mut self, id: i64, noted: bool) {
        if let Some(timed) = self.leases.get_mut(&id) {
            timed.noted = noted;
        }
    }

    /// Whether the log has a remaining time for the lease: that has to be taken back before it is
    /// renewed.
    pub fn is_noted(&self, id: i64) -> bool {
        self.leases.get(&id).is_some_and(|timed| timed.noted)
    }

    /// Nobody could renew for so long: every lease that is not being revoked gets this much more.
    pub fn extend(&mut self, by_ms: u64) {
        self.due.clear();
        for (&id, timed) in &mut self.leases {
            if timed.revoking.is_none() {
                timed.due_ms += by_ms;
            }
            self.due.insert((timed.asked_ms(), id));
        }
    }

    /// Up to `most` leases with their remaining seconds, to be written down: those that have lived
    /// for [`NOTE_INTERVAL_MS`] since their renewal or last note, and will for as long again.
    pub fn take_notes(&mut self, now_ms: u64, most: usize) -> Vec<(i64, i64)> {
        let mut notes = Vec::new();
        while notes.len() < most {
            let Some(&(at_ms, id)) = self.notes.first() else {
                break;
            };
            if at_ms > now_ms {
                break;
            }
            self.notes.pop_first();
            let Some(timed) = self.leases.get(&id) else {
                continue;
            };
            if timed.due_ms <= now_ms + NOTE_INTERVAL_MS {
                continue;
            }
            let quiet_since_ms = timed.renewed_ms;
            if now_ms < quiet_since_ms + NOTE_INTERVAL_MS {
                self.notes.insert((quiet_since_ms + NOTE_INTERVAL_MS, id));
                continue;
            }
            let remaining_ms = timed.due_ms - now_ms;
            let seconds = i64::try_from(remaining_ms.div_ceil(1000)).unwrap_or(i64::MAX);
            notes.push((id, seconds.min(timed.ttl_seconds)));
            self.notes.insert((now_ms + NOTE_INTERVAL_MS, id));
        }
        notes
    }

    /// A client wants the lease to live on.
    pub fn keep_alive(&mut self, id: i64, now_ms: u64) -> Renewal {
        if !self.running {
            return Renewal::NotLeader;
        }
        let Some(timed) = self.leases.get_mut(&id) else {
            return Renewal::Unknown;
        };
        if timed.revoking.is_some() || timed.due_ms <= now_ms {
            return Renewal::Revoking;
        }
        self.due.remove(&(timed.due_ms, id));
        timed.renewed_ms = now_ms;
        timed.due_ms = now_ms + seconds_to_ms(timed.ttl_seconds);
        self.due.insert((timed.due_ms, id));
        Renewal::Renewed(timed.ttl_seconds)
    }

    /// Remaining time of a lease; `None` if unknown here.
    pub fn remaining(&self, id: i64, now_ms: u64) -> Option<Remaining> {
        let timed = self.leases.get(&id)?;
        let remaining_ms =
            i64::try_from(i128::from(timed.due_ms) - i128::from(now_ms)).unwrap_or(i64::MAX);
        Some(Remaining {
            remaining_ms,
            granted_ttl_seconds: timed.ttl_seconds,
        })
    }

    /// Takes up to `most` due leases, in order of their due time; each is handed out once until
    /// `retry` puts it back, or for too long no revoke of it was applied.
    pub fn take_expired(&mut self, now_ms: u64, most: usize) -> Vec<i64> {
        let mut expired = Vec::new();
        while expired.len() < most {
            let Some(&(asked_ms, id)) = self.due.first() else {
                break;
            };
            if asked_ms > now_ms {
                break;
            }
            self.due.pop_first();
            if let Some(timed) = self.leases.get_mut(&id) {
                let again_ms = now_ms + REVOKE_RETRY_MS;
                timed.revoking = Some(again_ms);
                self.due.insert((again_ms, id));
                expired.push(id);
            }
        }
        expired
    }

    /// The revoke of a lease could not be proposed or was lost: it is due again at once.
    pub fn retry(&mut self, id: i64) {
        if let Some(timed) = self.leases.get_mut(&id)
            && let Some(again_ms) = timed.revoking.take()
        {
            self.due.remove(&(again_ms, id));
            self.due.insert((timed.due_ms, id));
        }
    }

    /// Leases known.
    pub fn count(&self) -> usize {
        self.leases.len()
    }

    fn insert(&mut self, id: i64, ttl_seconds: i64, due_ms: u64, now_ms: u64) {
        let timed = Timed {
            ttl_seconds,
            due_ms,
            revoking: None,
            renewed_ms: now_ms,
            noted: false,
        };
        self.leases.insert(id, timed);
        self.due.insert((due_ms, id));
        if due_ms > now_ms + NOTE_INTERVAL_MS {
            self.notes.insert((now_ms + NOTE_INTERVAL_MS, id));
        }
    }
}

fn seconds_to_ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading() -> LeaseClock {
        let mut clock = LeaseClock::new();
        clock.promote(0, 0, std::iter::empty());
        clock
    }

    #[test]
    fn expires_in_order_of_due_time_and_each_only_once() {
        let mut clock = leading();
        clock.granted(1, 10, 0);
        clock.granted(2, 5, 0);
        clock.granted(3, 7, 0);
        assert_eq!(clock.take_expired(4_999, 10), Vec::<i64>::new());
        assert_eq!(clock.take_expired(7_000, 10), vec![2, 3]);
        assert_eq!(clock.take_expired(7_000, 10), Vec::<i64>::new());
        clock.revoked(2);
        clock.retry(3);
        assert_eq!(clock.take_expired(7_001, 10), vec![3]);
    }

    #[test]
    fn a_renewed_lease_lives_its_full_ttl_again() {
        let mut clock = leading();
        clock.granted(1, 5, 0);
        assert_eq!(clock.keep_alive(1, 4_000), Renewal::Renewed(5));
        assert!(clock.take_expired(8_999, 10).is_empty());
        assert_eq!(clock.take_expired(9_000, 10), vec![1]);
    }

    #[test]
    fn a_due_lease_cannot_be_renewed_any_more() {
        let mut clock = leading();
        clock.granted(1, 5, 0);
        assert_eq!(
            clock.keep_alive(1, 5_000),
            Renewal::Revoking,
            "due, not yet taken"
        );
        assert_eq!(clock.take_expired(5_000, 1), vec![1]);
        assert_eq!(clock.keep_alive(1, 5_001), Renewal::Revoking);
        clock.revoked(1);
        assert_eq!(clock.keep_alive(1, 5_002), Renewal::Unknown);
    }

    #[test]
    fn a_follower_expires_nothing_and_a_new_leader_restarts_every_lease() {
        let mut clock = leading();
        clock.granted(1, 5, 0);
        clock.demote();
        assert!(clock.take_expired(1_000_000, 10).is_empty());
        assert_eq!(clock.keep_alive(1, 1), Renewal::NotLeader);
        clock.promote(10_000, 1_000, [(1, 5, 0), (2, 600, 30)].into_iter());
        assert_eq!(
            clock.remaining(1, 10_000).map(|r| r.remaining_ms),
            Some(6_000)
        );
        assert_eq!(
            clock.remaining(2, 10_000).map(|r| r.remaining_ms),
            Some(31_000)
        );
    }

    #[test]
    fn remaining_goes_below_zero_while_the_revoke_is_on_its_way() {
        let mut clock = leading();
        clock.granted(1, 2, 0);
        clock.take_expired(2_000, 1);
        let remaining = clock.remaining(1, 2_500).expect("known until revoked");
        assert_eq!(
            remaining,
            Remaining {
                remaining_ms: -500,
                granted_ttl_seconds: 2
            }
        );
    }

    #[test]
    fn a_revoke_that_is_not_applied_is_asked_for_again() {
        let mut clock = leading();
        clock.granted(1, 5, 0);
        assert_eq!(clock.take_expired(5_000, 10), vec![1]);
        assert!(
            clock
                .take_expired(5_000 + REVOKE_RETRY_MS - 1, 10)
                .is_empty()
        );
        assert_eq!(clock.take_expired(5_000 + REVOKE_RETRY_MS, 10), vec![1]);
        assert_eq!(clock.keep_alive(1, 16_000), Renewal::Revoking);
        clock.revoked(1);
        assert!(clock.take_expired(1 << 40, 10).is_empty());
    }

    #[test]
    fn time_in_which_nobody_could_renew_does_not_count() {
        let mut clock = leading();
        clock.granted(1, 5, 0);
        clock.granted(2, 2, 0);
        assert_eq!(clock.take_expired(2_000, 10), vec![2]);
        clock.extend(60_000);
        assert!(clock.take_expired(64_999, 1).contains(&2), "it is over");
        assert_eq!(clock.take_expired(65_000, 10), vec![1]);
    }

    #[test]
    fn what_is_left_of_long_leases_is_noted_at_intervals() {
        let mut clock = leading();
        clock.granted(1, 1_000, 0);
        clock.granted(2, 250, 0);
        clock.granted(3, 1_000, 0);
        assert_eq!(clock.keep_alive(3, 200_000), Renewal::Renewed(1_000));
        assert!(clock.take_notes(299_999, 10).is_empty());
        assert_eq!(clock.take_notes(300_000, 10), [(1, 700)]);
        assert!(clock.take_notes(400_000, 10).is_empty());
        clock.noted(1, true);
        assert!(clock.is_noted(1) && !clock.is_noted(3));
        assert_eq!(clock.take_notes(500_000, 10), [(3, 700)]);
        assert_eq!(clock.take_notes(600_500, 10), [(1, 400)]);
        // Less than an interval is left then: not worth another note.
        assert!(clock.take_notes(900_500, 1).iter().all(|n| n.0 == 3));
    }

    #[test]
    fn a_noted_lease_stays_noted_for_the_next_leader() {
        let mut clock = LeaseClock::new();
        clock.promote(0, 1_000, [(1, 600, 30), (2, 600, 0)].into_iter());
        assert!(clock.is_noted(1) && !clock.is_noted(2));
        clock.noted(1, false);
        assert!(!clock.is_noted(1));
        assert!(clock.knows(1) && !clock.knows(3));
    }

    #[test]
    fn no_more_than_asked_for_at_once() {
        let mut clock = leading();
        (1..=100).for_each(|id| clock.granted(id, 1, 0));
        assert_eq!(clock.take_expired(1_000, 30).len(), 30);
        assert_eq!(clock.take_expired(1_000, 300).len(), 70);
    }
}
