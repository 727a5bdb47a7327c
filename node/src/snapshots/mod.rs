//! A member that is too far behind for the log gets the state itself.
//!
//! ```text
//! leader:   raft wants one -> [`Snapshots::wanted`] pins the newest view and offers it -> raft's announcement
//!           -> [`Snapshots::send`]: it leaves with the state, over a connection of its own, packed on a thread
//! receiver: [`Snapshots::event`] -> a thread checks every byte and builds `kv.staged` (`staging.rs`) -> all is there
//!           -> only now raft steps the announcement -> its write carries the install -> the log's mark is synced
//!           -> the apply thread lets the staged state take over (`install.rs`) -> client cores are told
//! ```
//!
//! A member that is re-synced (`crate::resync`) gets the state in the same way, but raft hears nothing of it on either side: the
//! receiver has asked for it under a number ([`Snapshots::expect`]), and what is staged waits in [`Receiving::Ready`] until the log's
//! entries can bring it to the receiver's own index.
//!
//! Invariants:
//! - raft hears of a snapshot only when the whole state is checked and durable beside the live one.
//! - One state is staged at a time, and nothing touches it between raft's announcement and the take-over.
//! - Every announcement raft has made is reported to it once, when the transport is done with it.
//! - What the receiver needs after the snapshot stays in the sender's log while it is on its way
//!   ([`Snapshots::keep_after`]), up to raft's own bound on the bytes of its tail. Past that bound the receiver needs
//!   another snapshot. The view that is sent pins the engine's old versions: disk, not memory.

mod install;
mod meek;
mod source;
mod staging;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kvnode_replica::{Kind, Message, SnapshotOffer, SnapshotWanted, Write};
use kvnode_snapshot::Info;
use kvnode_store::datadir::Engines;
use kvnode_store::engine::fjall::Options as EngineOptions;
use kvnode_wal::Membership;

use crate::cores::View;
use crate::cores::client::is_fenced;
use crate::peers::{SnapshotEvent, SnapshotId, SnapshotSource};
use crate::shared::Shared;
pub use install::{
    Error as InstallError, InstallJob, Installer, PersisterSlot, ReplaceError, ReplaceJob,
    finish_install,
};
pub use meek::give_way;
use source::StateSource;
pub use source::pack;
use staging::{Staged, Staging};

/// Milliseconds a view stays pinned for an announcement that raft does not make.
const OFFER_MS: u64 = 10_000;

/// Members that are sent a snapshot at a time; others wait.
const SENDING_MAX: usize = 2;
/// Milliseconds until a member that did not take one is offered another.
const FAILED_PAUSE_MS: u64 = 1000;

/// What the replica core has to do after an event.
#[derive(Debug, PartialEq)]
pub enum Todo {
    Nothing,
    /// Tell raft how sending to this member has ended.
    Report {
        peer: u64,
        delivered: bool,
    },
    /// The state is staged: raft may step its announcement. Then [`Snapshots::stepped`].
    Step(Box<Message>),
    /// A state that was asked for is staged: [`Snapshots::ready`] says which.
    Replace,
}

/// A transfer to be started.
pub struct Outgoing {
    pub to: u64,
    pub id: SnapshotId,
    pub source: Box<dyn SnapshotSource>,
}

/// A member's snapshots, both ways. Owned by the replica core; nothing here blocks.
pub struct Snapshots {
    shared: Arc<Shared>,
    staging: Staging,
    /// Offered to raft, not announced yet.
    offered: Option<Offered>,
    /// On their way.
    sending: Vec<Sending>,
    /// Members that could not be sent one lately, and until when none is offered to them.
    failed: Vec<(u64, u64)>,
    receiving: Receiving,
    expected: Option<Expected>,
    /// It was said that a state which is wrong is not passed on.
    told_fenced: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Sending {
    to: u64,
    id: SnapshotId,
    /// raft announced it, and is to hear how it ends.
    raft: bool,
}

/// A state asked for, by a number of the asker's.
#[derive(Clone, Copy)]
struct Expected {
    from: u64,
    serial: u64,
    index_min: u64,
}

struct Offered {
    id: SnapshotId,
    view: View,
    since_ms: u64,
}

enum Receiving {
    Nothing,
    /// Bytes arrive.
    Staging(SnapshotId, Staged),
    /// raft was told; what it makes of it shows in its next write.
    Told(SnapshotId),
    /// The log marks it; the write's number.
    Marking(SnapshotId, u64),
    /// The apply thread switches over.
    Installing(SnapshotId),
    /// A state asked for is staged.
    Ready(SnapshotId),
    /// The apply thread brings it up and switches over.
    Replacing(SnapshotId),
}

impl Snapshots {
    pub fn new(shared: Arc<Shared>, engines: Engines, options: EngineOptions) -> Self {
        let staging = Staging::new(engines, options, shared.cluster_id, shared.member_id);
        Snapshots {
            shared,
            staging,
            offered: None,
            sending: Vec::new(),
            failed: Vec::new(),
            receiving: Receiving::Nothing,
            expected: None,
            told_fenced: false,
        }
    }

    /// raft wants a snapshot for a member. Answers with the newest state, if it will do; else raft asks again.
    /// `membership` is as applied, as is `view`.
    pub fn wanted(
        &mut self,
        wanted: SnapshotWanted,
        view: &View,
        membership: &Membership,
    ) -> Option<SnapshotOffer> {
        let fenced = is_fenced(view, self.shared.member_id);
        if fenced && !std::mem::replace(&mut self.told_fenced, fenced) {
            log::error!(
                "member {:x} needs a snapshot, and this leader's state differs from the majority's: it gets one from the next leader",
                wanted.to
            );
        }
        if fenced {
            return None;
        }
        self.told_fenced = false;
        let now_ms = self.shared.now_ms();
        self.failed.retain(|(_, until_ms)| *until_ms > now_ms);
        let failed = self.failed.iter().any(|(member, _)| *member == wanted.to);
        if failed || self.sending.len() >= SENDING_MAX {
            return None;
        }
        let (index, term) = (view.applied_index(), view.applied_term());
        let named = names(membership, wanted.to);
        if !named || index < wanted.index_min || membership.index > index || term == 0 {
            return None;
        }
        let id = SnapshotId {
            index,
            term,
            serial: getrandom::u64().ok()?,
        };
        self.offered = Some(Offered {
            id,
            view: view.clone(),
            since_ms: now_ms,
        });
        Some(SnapshotOffer {
            index,
            term,
            membership: membership.clone(),
        })
    }

    /// Lets go of a view that was offered and not asked for. To be called now and then; true if raft's offer is to be
    /// withdrawn.
    pub fn expire(&mut self) -> bool {
        let now_ms = self.shared.now_ms();
        let old = self
            .offered
            .as_ref()
            .is_some_and(|offered| now_ms.saturating_sub(offered.since_ms) > OFFER_MS);
        if old {
            self.offered = None;
        }
        old
    }

    /// raft announces a snapshot. It must not leave by itself: it travels with the state. `None`: there is no state to
    /// it any more, report it as not delivered. Either way raft's offer is used up, and to be withdrawn.
    pub fn send(&mut self, announcement: &Message) -> Option<Outgoing> {
        let fits = |offered: &Offered| {
            (offered.id.index, offered.id.term) == (announcement.index, announcement.log_term)
        };
        let Offered { id, view, .. } = self.offered.take().filter(fits)?;
        let info = self.info(&view);
        self.sending.push(Sending {
            to: announcement.to,
            id,
            raft: true,
        });
        log::info!(
            "sending {id}, revision {}, to member {:x}",
            info.revision,
            announcement.to
        );
        Some(Outgoing {
            to: announcement.to,
            id,
            source: Box::new(StateSource::new(announcement, view, info)),
        })
    }

    /// A member asks for the state as it is, under a number of its own. raft has no part in it.
    ///
    /// # Errors
    /// Why it is not sent, for whoever asked.
    pub fn send_asked(
        &mut self,
        to: u64,
        serial: u64,
        view: &View,
        membership: &Membership,
    ) -> Result<Outgoing, String> {
        let (index, term) = (view.applied_index(), view.applied_term());
        if is_fenced(view, self.shared.member_id) {
            return Err("its own state differs from the majority's".into());
        }
        if !names(membership, to) || membership.index > index || term == 0 {
            return Err("it does not know the asker as a member yet".into());
        }
        let busy = self.sending.iter().any(|sending| sending.to == to);
        if busy || self.sending.len() >= SENDING_MAX {
            return Err("it is sending other snapshots".into());
        }
        let id = SnapshotId {
            index,
            term,
            serial,
        };
        let announcement = Message {
            kind: Kind::Snapshot,
            from: self.shared.member_id,
            to,
            term,
            log_term: term,
            index,
            commit: 0,
            commit_term: 0,
            hint: 0,
            rejected: false,
            by_transfer: false,
            context: bytes::Bytes::new(),
            membership: Some(membership.clone()),
            entries: Vec::new(),
        };
        let info = self.info(view);
        self.sending.push(Sending {
            to,
            id,
            raft: false,
        });
        log::info!("sending {id}, which member {to:x} asked for");
        Ok(Outgoing {
            to,
            id,
            source: Box::new(StateSource::new(&announcement, view.clone(), info)),
        })
    }

    /// The next state from `from` under this number was asked for.
    ///
    /// # Errors
    /// Another one is on its way.
    pub fn expect(&mut self, from: u64, serial: u64, index_min: u64) -> Result<(), String> {
        if !matches!(self.receiving, Receiving::Nothing) {
            return Err("it is receiving a snapshot already".into());
        }
        self.expected = Some(Expected {
            from,
            serial,
            index_min,
        });
        Ok(())
    }

    /// What was asked for is not wanted any more; what of it has come goes, unless it is taking over already.
    pub fn expect_nothing(&mut self) {
        if self.expected.take().is_none() {
            return;
        }
        match &self.receiving {
            // Its sink fails.
            Receiving::Staging(_, staged) => staged.cancel(),
            Receiving::Ready(_) => {}
            _ => return,
        }
        self.receiving = Receiving::Nothing;
        self.staging.discard();
    }

    /// A state that was asked for and is staged.
    pub fn ready(&self) -> Option<SnapshotId> {
        match self.receiving {
            Receiving::Ready(id) => Some(id),
            _ => None,
        }
    }

    /// The apply thread was told of it.
    pub fn replacing(&mut self) {
        if let Receiving::Ready(id) = self.receiving {
            self.receiving = Receiving::Replacing(id);
        }
    }

    /// The apply thread is done with it.
    pub fn replaced(&mut self, taken: bool) {
        self.expected = None;
        if matches!(self.receiving, Receiving::Replacing(_)) {
            self.receiving = Receiving::Nothing;
            if !taken {
                self.staging.discard();
            }
        }
    }

    fn is_expected(&self, from: u64, id: SnapshotId) -> bool {
        let by = |expected: &Expected| (expected.from, expected.serial) == (from, id.serial);
        self.expected.as_ref().is_some_and(by)
    }

    /// What a re-sync waits for will not come.
    fn lost(&mut self, why: &str) {
        self.expected = None;
        self.shared.resync.fail(why);
    }

    /// Log entries above this index are needed: by a member that a snapshot is on its way to, or for a state this one has asked
    /// for.
    pub fn keep_after(&self) -> Option<u64> {
        let sending = self.sending.iter().map(|sending| sending.id.index).min();
        let expected = self.expected.map(|expected| expected.index_min);
        sending.into_iter().chain(expected).min()
    }

    /// News of the transport. `applied` is this member's.
    pub fn event(&mut self, event: SnapshotEvent, applied: u64) -> Todo {
        match event {
            SnapshotEvent::Offered(incoming) => {
                match self.accept(incoming.from, incoming.id, applied) {
                    Ok(sink) => incoming.accept(sink),
                    Err(why) => incoming.refuse(why),
                }
                Todo::Nothing
            }
            SnapshotEvent::Received { from, id } => self.received(from, id),
            SnapshotEvent::ReceiveFailed { from, id, why } => {
                log::warn!("{id} from member {from:x} did not arrive: {why}");
                if matches!(&self.receiving, Receiving::Staging(of, _) if *of == id) {
                    self.receiving = Receiving::Nothing;
                }
                if self.is_expected(from, id) {
                    self.lost(&format!(
                        "the state of member {from:x} did not arrive: {why}"
                    ));
                }
                Todo::Nothing
            }
            SnapshotEvent::Sent { to, id } => {
                log::info!("{id} was taken by member {to:x}");
                self.ended(to, id, true)
            }
            SnapshotEvent::SendFailed { to, id, why } => {
                log::warn!("{id} was not taken by member {to:x}: {why}");
                self.ended(to, id, false)
            }
        }
    }

    fn ended(&mut self, peer: u64, id: SnapshotId, delivered: bool) -> Todo {
        let ended = |sending: &Sending| (sending.to, sending.id) == (peer, id);
        let asked = self.sending.iter().any(|one| ended(one) && !one.raft);
        self.sending.retain(|sending| !ended(sending));
        if asked {
            return Todo::Nothing;
        }
        if !delivered {
            let until_ms = self.shared.now_ms() + FAILED_PAUSE_MS;
            self.failed.push((peer, until_ms));
        }
        Todo::Report { peer, delivered }
    }

    fn accept(
        &mut self,
        from: u64,
        id: SnapshotId,
        applied: u64,
    ) -> Result<Box<staging::Sink>, String> {
        let expected = self.expected.filter(|_| self.is_expected(from, id));
        match expected {
            Some(Expected { index_min, .. }) if id.index < index_min => {
                let why = format!("it is of index {}, asked for was {index_min}", id.index);
                self.lost(&why);
                return Err(why);
            }
            None if id.index <= applied => {
                return Err(format!("it has applied {applied} already"));
            }
            _ => {}
        }
        match &self.receiving {
            Receiving::Nothing => {}
            // The sender began anew, or another leader did: what was begun before will not be finished.
            Receiving::Staging(_, staged) => staged.cancel(),
            Receiving::Told(of)
            | Receiving::Marking(of, _)
            | Receiving::Installing(of)
            | Receiving::Ready(of)
            | Receiving::Replacing(of) => return Err(format!("it is taking over {of}")),
        }
        if expected.is_none() && self.expected.is_some() {
            self.lost("another snapshot came, because this member is behind the log");
        }
        log::info!("receiving {id} from member {from:x}");
        let (sink, staged) = self
            .staging
            .start(from, id)
            .map_err(|error| format!("it has no thread for it: {error}"))?;
        if expected.is_some() {
            self.shared.resync.receiving(id.index, staged.arrived());
        }
        self.receiving = Receiving::Staging(id, staged);
        Ok(Box::new(sink))
    }

    fn received(&mut self, from: u64, id: SnapshotId) -> Todo {
        match std::mem::replace(&mut self.receiving, Receiving::Nothing) {
            Receiving::Staging(of, staged) if of == id => match staged.announcement() {
                Some(_) if self.is_expected(from, id) => {
                    log::info!(
                        "{id} from member {from:x}, which was asked for, is checked and staged"
                    );
                    self.receiving = Receiving::Ready(id);
                    Todo::Replace
                }
                Some(message) => {
                    log::info!("{id} from member {from:x} is checked and staged");
                    self.receiving = Receiving::Told(id);
                    Todo::Step(Box::new(message))
                }
                None => Todo::Nothing,
            },
            other => {
                self.receiving = other;
                Todo::Nothing
            }
        }
    }

    /// raft has stepped what [`Todo::Step`] gave, and said all it had to say. If it made no use of it (another leader, or
    /// it had caught up meanwhile), the staged state goes.
    pub fn stepped(&mut self) {
        if let Receiving::Told(id) = self.receiving {
            log::info!("{id} is not needed any more");
            self.receiving = Receiving::Nothing;
            self.staging.discard();
        }
    }

    /// A write on its way to the log. Marks an install in it as begun.
    ///
    /// # Errors
    /// It installs a state that is not staged: raft was stepped past this module.
    pub fn writing(&mut self, write: &Write) -> Result<(), String> {
        let Some(install) = &write.install else {
            return Ok(());
        };
        match self.receiving {
            Receiving::Told(id) if (id.index, id.term) == (install.index, install.term) => {
                self.receiving = Receiving::Marking(id, write.number);
                Ok(())
            }
            _ => Err(format!(
                "raft installs a snapshot at index {} of term {}, which is not staged",
                install.index, install.term
            )),
        }
    }

    /// The log has synced everything up to this write. `Some`: for the apply thread, before any entry that is handed out
    /// from now on.
    pub fn written(&mut self, number: u64) -> Option<InstallJob> {
        match self.receiving {
            Receiving::Marking(id, of) if of <= number => {
                self.receiving = Receiving::Installing(id);
                Some(InstallJob {
                    index: id.index,
                    term: id.term,
                })
            }
            _ => None,
        }
    }

    /// The store has applied up to this index.
    pub fn applied(&mut self, index: u64) {
        if matches!(self.receiving, Receiving::Installing(id) if id.index <= index) {
            self.receiving = Receiving::Nothing;
        }
    }

    fn info(&self, view: &View) -> Info {
        describe(&self.shared, view)
    }
}

/// Whether a member takes part, so that a state with this membership is of use to it.
fn names(membership: &Membership, member: u64) -> bool {
    [
        &membership.voters,
        &membership.learners,
        &membership.voters_outgoing,
    ]
    .iter()
    .any(|list| list.contains(&member))
}

/// What a snapshot of `view` says of itself.
pub fn describe(shared: &Shared, view: &View) -> Info {
    Info {
        cluster_id: shared.cluster_id,
        member_id: shared.member_id,
        raft_index: view.applied_index(),
        raft_term: view.applied_term(),
        revision: view.revision(),
        compact_revision: view.compact_revision(),
        created_unix_ms: shared.unix_ms(),
        program: concat!("kvnode ", env!("CARGO_PKG_VERSION")).into(),
        schema: u32::from(kvnode_store::schema::SCHEMA_VERSION),
        selection: String::new(),
    }
}

/// Whether a message is an announcement, which leaves through [`Snapshots::send`] only.
pub fn is_announcement(message: &Message) -> bool {
    message.kind == Kind::Snapshot
}
