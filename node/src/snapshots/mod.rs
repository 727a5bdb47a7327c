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
use crate::peers::{SnapshotEvent, SnapshotId, SnapshotSource};
use crate::shared::Shared;
pub use install::{Error as InstallError, InstallJob, Installer, PersisterSlot, finish_install};
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
    sending: Vec<(u64, SnapshotId)>,
    /// Members that could not be sent one lately, and until when none is offered to them.
    failed: Vec<(u64, u64)>,
    receiving: Receiving,
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
        let now_ms = self.shared.now_ms();
        self.failed.retain(|(_, until_ms)| *until_ms > now_ms);
        let failed = self.failed.iter().any(|(member, _)| *member == wanted.to);
        if failed || self.sending.len() >= SENDING_MAX {
            return None;
        }
        let (index, term) = (view.applied_index(), view.applied_term());
        let named = [
            &membership.voters,
            &membership.learners,
            &membership.voters_outgoing,
        ]
        .iter()
        .any(|list| list.contains(&wanted.to));
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
        self.sending.push((announcement.to, id));
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

    /// Log entries above this index are needed by a member that a snapshot is on its way to.
    pub fn keep_after(&self) -> Option<u64> {
        self.sending.iter().map(|(_, id)| id.index).min()
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
        self.sending.retain(|sending| *sending != (peer, id));
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
        if id.index <= applied {
            return Err(format!("it has applied {applied} already"));
        }
        match &self.receiving {
            Receiving::Nothing => {}
            // The sender began anew, or another leader did: what was begun before will not be finished.
            Receiving::Staging(_, staged) => staged.cancel(),
            Receiving::Told(of) | Receiving::Marking(of, _) | Receiving::Installing(of) => {
                return Err(format!("it is taking over {of}"));
            }
        }
        log::info!("receiving {id} from member {from:x}");
        let (sink, staged) = self
            .staging
            .start(from, id)
            .map_err(|error| format!("it has no thread for it: {error}"))?;
        self.receiving = Receiving::Staging(id, staged);
        Ok(Box::new(sink))
    }

    fn received(&mut self, from: u64, id: SnapshotId) -> Todo {
        match std::mem::replace(&mut self.receiving, Receiving::Nothing) {
            Receiving::Staging(of, staged) if of == id => match staged.announcement() {
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
