//! From raft's ready to an output, and the order in which disk and network may run.
//!
//! A leader's messages leave at once, beside its own write, because it counts itself only when that
//! write is reported; everybody else's messages are promises and wait for the write they rest on.
//! Two refinements, both in [`Replica::route`]: heartbeat answers may overtake an entry write (they
//! promise nothing about entries), which keeps leadership and reads alive while a disk is slow; and
//! **nobody's** message may overtake a term or a vote. The last matters for a leader too: a single
//! voter with learners makes itself leader and speaks in the new term within one ready, and a crash
//! would let it speak in that term a second time with different entries.
//!
//! A write that would hold nothing but a new commit index is put off: it rides with the next write,
//! or leaves alone at the next tick. Nothing waits for it, and a restart finds the index again.

use std::collections::VecDeque;

use kvnode_wal::{EntryKind, HardState};
use raft::Ready;

use crate::conf_change::ConfChange;
use crate::error::Error;
use crate::log;
use crate::membership;
use crate::message::{Kind, Message};
use crate::output::{Install, Output, Write};
use crate::reads;
use crate::replica::{Removed, Replica};

/// Numbers of the writes handed out, and what waits for them.
#[derive(Default)]
pub(crate) struct Writes {
    /// raft's last ready, and the last one that became a write.
    pub(crate) ready: u64,
    pub(crate) last: u64,
    /// Last write with entries or a snapshot; with anything that must be synced; with a term, a
    /// vote or a snapshot.
    pub(crate) last_data: u64,
    pub(crate) last_sync: u64,
    pub(crate) last_strict: u64,
    /// Everything up to here is durable.
    pub(crate) written: u64,
    /// Messages with the write they wait for, in order: first those that wait for terms, votes and
    /// snapshots only, then those that wait for whatever must be synced.
    pub(crate) kept: [VecDeque<(u64, Message)>; 2],
    /// As handed out last.
    pub(crate) hard_state: HardState,
    /// A commit index not handed out yet: it rides with the next write, or leaves alone at the
    /// next tick.
    pub(crate) commit_late: bool,
    pub(crate) commit_due: bool,
}

impl Replica {
    /// The write of this number, and every earlier one, is durable.
    ///
    /// # Panics
    /// If the number was never handed out or goes back: the caller's bookkeeping is wrong, and with
    /// it every promise that follows.
    pub fn written(&mut self, number: u64) {
        assert!(
            number > self.writes.written && number <= self.writes.last,
            "write {number} reported, {} done, {} handed out",
            self.writes.written,
            self.writes.last
        );
        self.flush_proposals();
        self.writes.written = number;
        for kept in &mut self.writes.kept {
            while kept.front().is_some_and(|&(after, _)| after <= number) {
                let (_, message) = kept.pop_front().expect("front was there");
                self.outbox.push(message);
            }
        }
        // After the own removal raft looks for its own progress when told of a write, and dies.
        if self.alive().is_ok() {
            self.persisted(number);
        }
        self.after_input();
    }

    /// Tells raft.
    fn persisted(&mut self, number: u64) {
        // With nothing outstanding raft may forget the readies that wrote nothing as well.
        let all = number == self.writes.last;
        self.raw
            .on_persist_ready(if all { self.writes.ready } else { number });
    }

    pub(crate) fn take_ready(&mut self, out: &mut Output) {
        let mut ready = self.raw.ready();
        self.writes.ready = ready.number();
        let leads = self.leads();
        let mut messages = ready.take_messages();
        messages.append(&mut ready.take_persisted_messages());
        self.hand_out_committed(&mut ready, out);
        for state in ready.take_read_states() {
            if let Some(context) = reads::Context::decode(&state.request_ctx) {
                self.confirm_reads(&context, state.index);
            }
        }
        self.hand_out_write(&mut ready, out);
        for message in messages {
            if let Some(message) = Message::from_raft(message) {
                self.route(message, leads, out);
            }
        }
        self.raw.advance_append_async(ready);
        if self.writes.last == self.writes.written && self.removed == Removed::No {
            self.persisted(self.writes.last);
        }
        self.proposals.logged();
    }

    fn hand_out_committed(&mut self, ready: &mut Ready, out: &mut Output) {
        for entry in ready.take_committed_entries() {
            let entry = log::from_raft(entry);
            self.given = entry.index;
            if entry.kind == EntryKind::ConfChange {
                match ConfChange::decode(&entry.payload) {
                    Ok(change) => self.conf_changes.push_back((entry.index, change)),
                    Err(reason) => {
                        return self.fail(Error::ConfChange {
                            index: entry.index,
                            reason,
                        });
                    }
                }
            }
            out.committed.push(entry);
        }
    }

    /// Makes what is to be written visible to raft and asks for it to be made durable.
    fn hand_out_write(&mut self, ready: &mut Ready, out: &mut Output) {
        let install = self.take_install(ready);
        let fresh = ready.take_entries();
        let mut entries = Vec::with_capacity(fresh.len());
        for entry in fresh {
            let entry = log::from_raft(entry);
            entries.push(entry.clone());
            self.raw.mut_store().push(entry);
        }
        let mut strict = install.is_some();
        if let Some(new) = ready.hs() {
            let old = self.writes.hard_state;
            self.writes.hard_state = HardState {
                term: new.term,
                vote: new.vote,
                commit: new.commit,
            };
            strict |= (old.term, old.vote) != (new.term, new.vote);
            self.writes.commit_late = true;
        }
        if !strict && entries.is_empty() {
            return;
        }
        let number = ready.number();
        let writes = &mut self.writes;
        writes.last = number;
        writes.last_sync = number;
        if strict {
            writes.last_strict = number;
        }
        if install.is_some() || !entries.is_empty() {
            writes.last_data = number;
        }
        let hard_state = std::mem::take(&mut writes.commit_late).then_some(writes.hard_state);
        writes.commit_due = false;
        out.write = Some(Write {
            number,
            install,
            entries,
            hard_state,
            must_sync: true,
        });
    }

    fn take_install(&mut self, ready: &Ready) -> Option<Install> {
        if ready.snapshot().is_empty() {
            return None;
        }
        let metadata = ready.snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let membership = membership::from_raft(metadata.get_conf_state().clone(), index);
        self.raw.mut_store().install(index, term);
        self.given = index;
        // What the snapshot contains is not applied a second time.
        self.conf_changes.retain(|&(at, _)| at > index);
        self.set_membership(membership.clone());
        Some(Install {
            index,
            term,
            membership,
        })
    }

    /// A commit index that found no other write to ride with.
    pub(crate) fn write_commit(&mut self, out: &mut Output) {
        // Numbers come from raft's readies. An empty one costs nothing and keeps the order.
        let ready = self.raw.ready();
        let number = ready.number();
        self.raw.advance_append_async(ready);
        let writes = &mut self.writes;
        writes.ready = number;
        writes.last = number;
        writes.commit_late = false;
        writes.commit_due = false;
        out.write = Some(Write {
            number,
            install: None,
            entries: Vec::new(),
            hard_state: Some(writes.hard_state),
            must_sync: false,
        });
    }

    /// Sends a message now or keeps it until what it promises is durable.
    fn route(&mut self, message: Message, leads: bool, out: &mut Output) {
        let writes = &mut self.writes;
        let [for_strict, for_sync] = &mut writes.kept;
        let (after, kept) = if leads || message.kind == Kind::HeartbeatAnswer {
            (writes.last_strict, for_strict)
        } else {
            (writes.last_sync, for_sync)
        };
        if after <= writes.written {
            out.messages.push(message);
        } else {
            kept.push_back((after, message));
        }
    }
}
