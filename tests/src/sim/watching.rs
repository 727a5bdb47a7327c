//! What watchers were sent, held against everything that happened.
//!
//! Ordered, unique, atomic, reliable: the events are exactly the changes of the interval from the
//! start on, revision by revision, each whole and in one response. Resumable: the next stream goes on
//! where the last one ended. Bookmarkable: after progress at a revision nothing at or below it comes,
//! and nothing is missing below it. Refused only for what was really compacted.

use kvnode_api as api;
use kvnode_api::KeyRange;
use kvnode_store::Change;

use super::watchers::{Told, Watcher};

/// Judges one watcher. `compactions`: everything anybody asked for.
pub fn check(watcher: &Watcher, changes: &[Change], compactions: &[i64]) -> Result<(), String> {
    for told in &watcher.sessions {
        Stream::new(told, changes, compactions).check()?;
    }
    Ok(())
}

/// Whether the watcher, by the end, has been told of everything.
pub fn is_complete(watcher: &Watcher, changes: &[Change]) -> bool {
    let Some(told) = watcher.sessions.last() else {
        return false;
    };
    let Some(range) = KeyRange::for_watch(&told.request.key, &told.request.range_end) else {
        return true;
    };
    let unseen = changes
        .iter()
        .skip_while(|change| change.revision < watcher.next);
    let mut wanted = unseen
        .flat_map(|change| &change.events)
        .filter(|event| wants(&told.request, &range, event));
    watcher.open && wanted.next().is_none()
}

fn wants(request: &api::WatchCreateRequest, range: &KeyRange, event: &api::Event) -> bool {
    // Filter 0 leaves out puts, 1 deletes; a put is type 0, a delete type 1.
    event.kv.as_ref().is_some_and(|kv| range.contains(&kv.key))
        && !request.filters.contains(&event.r#type)
}

struct Stream<'a> {
    told: &'a Told,
    changes: &'a [Change],
    compactions: &'a [i64],
    /// First revision not covered by what was sent.
    next: i64,
}

impl<'a> Stream<'a> {
    fn new(told: &'a Told, changes: &'a [Change], compactions: &'a [i64]) -> Self {
        Stream {
            told,
            changes,
            compactions,
            next: told.request.start_revision,
        }
    }

    fn check(mut self) -> Result<(), String> {
        let request = &self.told.request;
        let range = KeyRange::for_watch(&request.key, &request.range_end);
        let range = range.ok_or("an interval without keys")?;
        let newest = self.changes.last().map_or(1, |change| change.revision);
        for (number, (time, response)) in self.told.responses.iter().enumerate() {
            let revision = response.header.map_or(0, |header| header.revision);
            let bad = |what: String| {
                Err(format!(
                    "watch at {} from {} over {range:?}, filters {:?}, at {time}: {what}: {response:?}",
                    self.told.member, request.start_revision, request.filters
                ))
            };
            if response.created != (number == 0) {
                return bad("created is not the first answer".into());
            }
            if revision > newest {
                return bad(format!("revision {revision} never was"));
            }
            if response.created {
                if self.next == 0 {
                    self.next = revision + 1;
                }
                continue;
            }
            if response.canceled {
                let asked = self.compactions.contains(&response.compact_revision);
                if !asked || response.compact_revision <= self.next {
                    return bad(format!("canceled without a reason, {} was next", self.next));
                }
                continue;
            }
            if response.events.is_empty() {
                if revision + 1 < self.next || revision < request.start_revision {
                    return bad(format!("progress goes back, {} was next", self.next));
                }
                if let Some(missed) = self.wanted(&range, revision + 1).next() {
                    return bad(format!("progress leaves out {missed:?}"));
                }
                self.next = self.next.max(revision + 1);
                continue;
            }
            let last = response.events.last().and_then(|event| event.kv.as_ref());
            let end = last.map_or(0, |kv| kv.mod_revision) + 1;
            if revision < end - 1 {
                return bad(format!(
                    "the header is older than the events up to {}",
                    end - 1
                ));
            }
            let expected: Vec<&api::Event> = self.wanted(&range, end).collect();
            if expected.len() != response.events.len() {
                return bad(format!("expected {} events: {expected:?}", expected.len()));
            }
            for (expected, found) in expected.into_iter().zip(&response.events) {
                self.same(expected, found).or_else(bad)?;
            }
            self.next = end;
        }
        Ok(())
    }

    /// What should come from here to the revision before `end`.
    fn wanted(&self, range: &KeyRange, end: i64) -> impl Iterator<Item = &'a api::Event> {
        let (from, request, range) = (self.next, &self.told.request, range.clone());
        let first = usize::try_from(from - 2)
            .unwrap_or(0)
            .min(self.changes.len());
        let whole = self.changes[first..]
            .iter()
            .filter(move |change| change.revision >= from);
        whole
            .take_while(move |change| change.revision < end)
            .flat_map(|change| &change.events)
            .filter(move |event| wants(request, &range, event))
    }

    fn same(&self, expected: &api::Event, found: &api::Event) -> Result<(), String> {
        let known = expected.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        if (expected.r#type, &expected.kv) != (found.r#type, &found.kv) {
            return Err(format!("expected {expected:?}, got {found:?}"));
        }
        if !self.told.request.prev_kv {
            return found
                .prev_kv
                .is_none()
                .then_some(())
                .ok_or("a previous pair nobody asked for".into());
        }
        // What a compaction made unreadable may be left out.
        let compacted = self.compactions.contains(&known) && found.prev_kv.is_none();
        if found.prev_kv != expected.prev_kv && !compacted {
            return Err(format!(
                "revision {known}: previous pair {:?}, not {:?}",
                found.prev_kv, expected.prev_kv
            ));
        }
        Ok(())
    }
}
