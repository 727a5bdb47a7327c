//! Watch clients: each follows one interval for the whole run, over as many streams and members as it
//! takes, going on where it was. What it was sent is kept, for the checks at the end.

use bytes::Bytes;
use kvnode_api as api;

use super::plan::{MS, SECOND};
use super::world::{Event, World};
use crate::words;

/// One stream of a watcher.
#[derive(Clone, Debug)]
pub struct Told {
    pub member: u64,
    pub request: api::WatchCreateRequest,
    pub responses: Vec<(u64, api::WatchResponse)>,
}

/// One watcher.
#[derive(Clone, Debug)]
pub struct Watcher {
    pub wish: api::WatchCreateRequest,
    pub sessions: Vec<Told>,
    pub member: u64,
    /// The number of its stream, and whether it has one.
    pub session: u64,
    pub open: bool,
    /// First revision it has not seen; 0 before it knows any.
    pub next: i64,
    /// Added to the time of each of its responses.
    pub slow: u64,
    /// Moves on from time to time.
    pub restless: bool,
}

impl World {
    /// Watchers of the plan begin.
    pub fn open_watchers(&mut self) {
        for _ in 0..self.plan.watchers {
            let key = Bytes::from(format!("k{:02}", self.chance.below(self.plan.work.keys)));
            let (key, range_end) = match self.chance.below(3) {
                0 => (key, Bytes::new()),
                1 => (key, Bytes::from_static(b"\0")),
                _ => words::everything(),
            };
            let wish = api::WatchCreateRequest {
                key,
                range_end,
                start_revision: self.chance.pick(&[0, 1, 2, 40]),
                progress_notify: self.chance.percent(50),
                filters: self.chance.pick(&[&[][..], &[], &[], &[0], &[1]]).to_vec(),
                prev_kv: self.chance.percent(50),
                ..Default::default()
            };
            let slow = self.chance.pick(&[0, 0, 30 * MS]);
            let watcher = self.watch(wish, slow, true);
            let delay = self.chance.below(2 * SECOND);
            self.after(delay, Event::Broken(watcher, 0));
        }
    }

    /// A watcher without a stream yet.
    pub fn watch(&mut self, wish: api::WatchCreateRequest, slow: u64, restless: bool) -> usize {
        self.watchers.push(Watcher {
            next: wish.start_revision,
            wish,
            sessions: Vec::new(),
            member: 0,
            session: 0,
            open: false,
            slow,
            restless,
        });
        self.watchers.len() - 1
    }

    /// Opens a stream at a member, from where the watcher is.
    pub fn follow(&mut self, watcher: usize, member: u64) {
        let Some(known) = self.watchers.get_mut(watcher) else {
            return;
        };
        known.session += 1;
        known.open = true;
        known.member = member;
        let request = api::WatchCreateRequest {
            start_revision: known.next,
            ..known.wish.clone()
        };
        known.sessions.push(Told {
            member,
            request: request.clone(),
            responses: Vec::new(),
        });
        let (session, restless) = (known.session, known.restless);
        let delay = self.chance.between((100, 800));
        self.after(delay, Event::Watch(member, watcher, session, request));
        if restless {
            let patience = self.chance.between((200 * MS, 4 * SECOND));
            self.after(patience, Event::Restless(watcher));
        }
        // A stream that never gets its answer is given up.
        self.after(3 * SECOND, Event::Broken(watcher, session | UNANSWERED));
    }

    /// The watcher ends its stream.
    pub fn unfollow(&mut self, watcher: usize) {
        let Some(known) = self.watchers.get_mut(watcher) else {
            return;
        };
        if std::mem::take(&mut known.open) {
            let (member, session) = (known.member, known.session);
            self.after(200, Event::Unwatch(member, watcher, session));
        }
    }

    pub(super) fn told(
        &mut self,
        watcher: usize,
        session: u64,
        response: api::WatchResponse,
        _: usize,
    ) {
        self.checks.counts.watch_responses += 1;
        let now = self.now;
        let Some(known) = self.watchers.get_mut(watcher) else {
            return;
        };
        if !known.open || known.session != session {
            return;
        }
        let Some(told) = known.sessions.last_mut() else {
            return;
        };
        let revision = response.header.map_or(0, |header| header.revision);
        if response.canceled {
            known.open = false;
            self.checks.counts.watch_cancels += 1;
            if response.compact_revision > 0 {
                known.next = known.next.max(response.compact_revision);
            }
        } else if let Some(last) = response.events.last() {
            let at = last.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            known.next = known.next.max(at + 1);
        } else if !response.created {
            known.next = known.next.max(revision + 1);
        } else if known.next == 0 {
            known.next = revision + 1;
        }
        told.responses.push((now, response));
        let open = known.open;
        if !open {
            let delay = self.chance.between((MS, 50 * MS));
            self.after(delay, Event::Broken(watcher, session));
        } else if self.chance.percent(3) {
            self.ask_progress(watcher);
        }
    }

    /// Asks how far the stream is.
    pub fn ask_progress(&mut self, watcher: usize) {
        if let Some(known) = self.watchers.get(watcher) {
            let (member, session) = (known.member, known.session);
            self.after(300, Event::Progress(member, watcher, session));
        }
    }

    /// A stream is gone: another one, anywhere.
    pub(super) fn broken(&mut self, watcher: usize, session: u64) {
        let Some(known) = self.watchers.get_mut(watcher) else {
            return;
        };
        if session & UNANSWERED != 0 {
            let answered = known
                .sessions
                .last()
                .is_some_and(|told| !told.responses.is_empty());
            if known.session != session & !UNANSWERED || answered {
                return;
            }
        } else if known.session != session {
            return;
        }
        known.open = false;
        // In the end whoever is no member any more hears nothing new.
        let closing = self.closing.then(|| self.membership());
        let named = |id: u64| {
            let names = closing.as_ref();
            names.is_none_or(|m| m.voters.contains(&id) || m.learners.contains(&id))
        };
        let up = self.members.values().filter(|m| m.process.is_some());
        let up: Vec<u64> = up.map(|m| m.id).filter(|id| named(*id)).collect();
        if up.is_empty() || self.chance.percent(20) {
            // Nobody there, or nobody found: later.
            let delay = self.chance.between((10 * MS, 300 * MS));
            return self.after(delay, Event::Broken(watcher, session));
        }
        let member = self.chance.pick(&up);
        self.follow(watcher, member);
    }

    /// Moves to another member, or waits for what is to come.
    pub(super) fn restless(&mut self, watcher: usize) {
        let Some(known) = self.watchers.get(watcher) else {
            return;
        };
        if self.closing || !known.open {
            return;
        }
        let session = known.session;
        self.unfollow(watcher);
        let delay = self.chance.between((MS, 100 * MS));
        self.after(delay, Event::Broken(watcher, session));
    }
}

/// Marks the event that asks whether a stream was answered at all.
const UNANSWERED: u64 = 1 << 40;
