//! The machine: committed entries in, one engine batch, replies and events out.
//!
//! One owner, on a thread that may block. Invariants:
//! * An engine batch holds the effects of whole entries together with the index of the last of
//!   them; so a store reopened after any crash knows exactly where to go on.
//! * What an entry does depends on the replicated state and the entry alone. Where members may
//!   differ (quota setting, physical compaction) only a reply may, never the state.
//! * A refused entry changes nothing and uses no revision.
//!
//! After an error of `apply` or `compact_some` the store in memory is ahead of the engine by part
//! of a batch: drop it and open again.

use std::sync::Arc;

use kvnode_api::{
    AlarmResponse, CompactionResponse, DeleteRangeResponse, KeyValue, LeaseGrantResponse,
    LeaseRevokeResponse, PutResponse, Status, TxnResponse,
};

use bytes::Bytes;

use crate::alarm::Alarms;
use crate::auth::{Auth, TokenChange};
use crate::change::Change;
use crate::command::{Command, RequestId};
use crate::compact;
use crate::count::{BuiltFences, FenceBuilder, Keeper};
use crate::engine::{Engine, Reader, Space};
use crate::error::Error;
use crate::heads::{HeadCache, ReadHeads};
use crate::lease::{LeaseChange, Leases};
use crate::members::Members;
use crate::mvcc::Pending;
use crate::revision::Revision;
use crate::schema::{META_KEY, Meta, PackedHead, TAG_HEAD};
use crate::source::Source;
use crate::view::{Shared, View};

/// One committed log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub index: u64,
    pub term: u64,
    /// See `command.rs`; empty for an entry that only moves the index.
    pub command: Bytes,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Estimated bytes (see `quota.rs`) at which writes are refused; `None`: no quota.
    pub quota_bytes: Option<u64>,
    /// Shortest time to live granted, in seconds. Has to be the same on all members.
    pub lease_ttl_min_seconds: i64,
    /// Also write each new value into history: dearer writes, cheaper replay from disk. May differ
    /// between members and between starts.
    pub hist_inline_new_value: bool,
    /// Memory for the newest heads, so that replacing a key reads nothing; see `heads.rs`.
    pub heads_cache_bytes: usize,
    /// Most bytes of encoded keys and values kept for answers to ranges; see `pages.rs`. 0: none.
    pub page_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            quota_bytes: None,
            lease_ttl_min_seconds: 2,
            hist_inline_new_value: false,
            heads_cache_bytes: 64 << 20,
            page_bytes_max: 64 << 20,
        }
    }
}

/// What one apply has brought about.
pub struct Step<V> {
    /// One per entry with a command, in order.
    pub replies: Vec<Reply>,
    /// One per revision used, in order.
    pub changes: Arc<Vec<Change>>,
    /// The state after all entries.
    pub view: View<V>,
    pub lease_changes: Vec<LeaseChange>,
    pub token_changes: Vec<TokenChange>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Log index of the entry.
    pub index: u64,
    /// Who asked; all zero if the entry's bytes did not tell.
    pub request: RequestId,
    pub result: Result<Response, Status>,
}

/// Answers; their headers carry the revision only.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compaction(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    LeaseCheckpoint,
    Alarm(AlarmResponse),
    /// The member table was changed; it is found in the view.
    Member,
    /// A change of auth was carried out. The store's revision is for the header.
    Auth {
        revision: i64,
    },
    /// A token was issued.
    Token {
        revision: i64,
        token: String,
    },
}

/// Heads looked at per step of warming: about a millisecond of work.
const STEP_HEADS: usize = 1000;

/// See the module text.
pub struct Store<E: Engine> {
    pub(crate) engine: E,
    pub(crate) config: Config,
    pub(crate) meta: Meta,
    pub(crate) leases: Leases,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) members: Arc<Members>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) pending: Pending,
    pub(crate) heads: HeadCache,
    /// Made after the last commit.
    pub(crate) reader: E::View,
    /// Main revision that `reader` shows.
    pub(crate) reader_revision: i64,
    pub(crate) changes: Vec<Change>,
    pub(crate) lease_changes: Vec<LeaseChange>,
    pub(crate) token_changes: Vec<TokenChange>,
    /// Where the next step of [`Store::warm_some`] begins, an engine's key; `None` once there is nothing more to do.
    unwarmed: Option<Bytes>,
    /// What goes into memory before that.
    read_heads: ReadHeads,
    /// Tells this state from others that may have taken its place.
    identity: Arc<()>,
    /// How far physical compaction has come in the tombstone index.
    tombstones: Revision,
    fences: Keeper,
    view: View<E::View>,
}

impl<E: Engine> Store<E> {
    /// Takes the engine as it is: fresh, or as any earlier run left it.
    ///
    /// Errors: the engine's own, a schema of another release, records that make no sense.
    pub fn open(mut engine: E, config: Config) -> Result<Self, Error> {
        let reader = engine.view();
        let meta = match reader.get(Space::State, &META_KEY)? {
            Some(record) => Meta::decode(&record)?,
            None => Meta::default(),
        };
        let leases = Leases::load(&reader)?;
        let alarms = Arc::new(Alarms::load(&reader)?);
        let members = Arc::new(Members::load(&reader)?);
        let auth = Arc::new(Auth::load(&reader)?);
        let fences = if meta.key_count == 0 {
            Keeper::of_empty_store(meta.revision, config.page_bytes_max)
        } else {
            Keeper::new(config.page_bytes_max)
        };
        let view = View::new(Shared {
            reader: reader.clone(),
            meta,
            alarms: Arc::clone(&alarms),
            members: Arc::clone(&members),
            auth: Arc::clone(&auth),
            leases_count: leases.len(),
            quota_bytes: config.quota_bytes,
            fences: fences.current(),
            pages: fences.pages(),
        });
        Ok(Self {
            engine,
            heads: HeadCache::new(config.heads_cache_bytes),
            config,
            reader_revision: meta.revision,
            meta,
            leases,
            alarms,
            members,
            auth,
            pending: Pending::default(),
            reader,
            changes: Vec::new(),
            lease_changes: Vec::new(),
            token_changes: Vec::new(),
            unwarmed: Some(Bytes::from_static(&[TAG_HEAD])),
            read_heads: ReadHeads::default(),
            identity: Arc::default(),
            tombstones: Revision::default(),
            fences,
            view,
        })
    }

    /// Index and term of the last applied entry; (0, 0) in a fresh store.
    pub fn applied(&self) -> (u64, u64) {
        (self.meta.applied_index, self.meta.applied_term)
    }

    /// Applies the entries, which follow each other and what was applied before without a hole.
    /// Entries at or below the applied index are skipped, without a reply.
    ///
    /// All of them land in one engine batch (an entry that compacts, or reads a revision written
    /// by an earlier entry of the same call, makes it two; each is whole in itself).
    ///
    /// Errors: the engine's, damaged records, a hole. See the module text for what then.
    pub fn apply(&mut self, entries: &[Committed]) -> Result<Step<E::View>, Error> {
        let mut replies = Vec::with_capacity(entries.len());
        let keys = entries.iter();
        let keys = keys.filter_map(|entry| Command::put_key(&entry.command));
        std::hint::black_box(self.heads.warm(keys));
        for entry in entries {
            if entry.index <= self.meta.applied_index {
                continue;
            }
            let expected = self.meta.applied_index + 1;
            if entry.index != expected {
                return Err(Error::Gap {
                    found: entry.index,
                    expected,
                });
            }
            if !entry.command.is_empty() {
                replies.push(self.execute(entry)?);
            }
            self.meta.applied_index = entry.index;
            self.meta.applied_term = entry.term;
        }
        if self.meta != *self.view.meta() || !self.pending.is_empty() {
            self.commit()?;
            self.publish()?;
        }
        Ok(Step {
            replies,
            changes: Arc::new(std::mem::take(&mut self.changes)),
            view: self.view.clone(),
            lease_changes: std::mem::take(&mut self.lease_changes),
            token_changes: std::mem::take(&mut self.token_changes),
        })
    }

    /// The state after the last apply.
    pub fn view(&self) -> View<E::View> {
        self.view.clone()
    }

    /// One bounded step of physical compaction; true if there is more to do. Meant to be called
    /// between applies, as often as the member can spare.
    pub fn compact_some(&mut self) -> Result<bool, Error> {
        let before = self.meta.compacted_physically;
        let more = compact::remove_some(&mut self.engine, &mut self.meta, &mut self.tombstones)?;
        if more || self.meta.compacted_physically != before {
            self.reader = self.engine.view();
            self.publish()?;
        }
        Ok(more)
    }

    /// One bounded step of reading heads into memory after a start, in key order until all are there or no more fit;
    /// true if there is more to do. Meant to be called between applies while nothing waits. `warmed` sees the pairs that
    /// came in, each the newest as of now, in a buffer of its own.
    pub fn warm_some(&mut self, mut warmed: impl FnMut(KeyValue)) -> Result<bool, Error> {
        let mut looked_at = 0;
        while let Some(packed) = self.read_heads.pop() {
            // Something was written since, maybe one of these.
            if !self.read_heads.are_of(&self.identity, self.meta.revision) {
                self.read_heads = ReadHeads::default();
                break;
            }
            self.unwarmed = Some(behind(&packed));
            if !self.warm(packed, &mut warmed)? {
                (self.read_heads, self.unwarmed) = (ReadHeads::default(), None);
                return Ok(false);
            }
            looked_at += 1;
            if looked_at == STEP_HEADS {
                return Ok(true);
            }
        }
        let Some(from) = self.unwarmed.take() else {
            return Ok(false);
        };
        let reader = self.reader.clone();
        let heads = reader.scan(Space::State, &from, Some(&[TAG_HEAD + 1]), false);
        for (item, looked_at) in heads.zip(0..) {
            let (key, record) = item?;
            if looked_at == STEP_HEADS {
                self.unwarmed = Some(key);
                return Ok(true);
            }
            let packed = PackedHead::stored(&key, &record);
            if !self.warm(packed, &mut warmed)? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Takes in a head that is the newest; false if there is no room for more.
    fn warm(
        &mut self,
        packed: PackedHead,
        warmed: &mut impl FnMut(KeyValue),
    ) -> Result<bool, Error> {
        let head = packed.head()?;
        let Some(live) = head.live else {
            return Ok(true);
        };
        let pair = live.key_value(packed.shared_user_key(), head.modified.main);
        let taken = self.heads.offer(packed);
        if taken {
            warmed(pair);
        }
        Ok(taken)
    }

    /// Takes over what [`FenceBuilder::build_and_read`] has read: [`Store::warm_some`] need not read it again, unless something
    /// was written since.
    pub fn take_read_heads(&mut self, read: ReadHeads) {
        if read.are_of(&self.identity, self.meta.revision) {
            self.read_heads = read;
        }
    }

    /// Starts building count fences as of now. Run [`FenceBuilder::build`] on another thread, then
    /// bring the result to [`Store::install_fences`]. Not needed for a store opened without keys.
    pub fn fence_builder(&mut self) -> FenceBuilder<E::View> {
        let reader = self.engine.view_to_sweep();
        let heads = ReadHeads::of(&self.identity, self.meta.revision);
        let heads_bytes_max = self.heads.offered_bytes_max();
        self.fences
            .builder(self.view.over(reader), heads, heads_bytes_max)
    }

    /// Takes fences over; views from now on have them. False if too much has changed meanwhile or
    /// another build was started: then build again.
    pub fn install_fences(&mut self, built: BuiltFences) -> Result<bool, Error> {
        let installed = self.fences.install(built, &self.view.source())?;
        if installed {
            self.publish()?;
        }
        Ok(installed)
    }

    /// Another quota from the next entry and view on.
    ///
    /// # Errors
    /// The engine cannot be read.
    pub fn set_quota(&mut self, quota_bytes: Option<u64>) -> Result<(), Error> {
        self.config.quota_bytes = quota_bytes;
        self.publish()
    }

    /// Another view of the same state, which lets go of files that were replaced: see [`Engine::replacements`].
    ///
    /// # Errors
    /// The engine cannot be read.
    pub fn refresh(&mut self) -> Result<(), Error> {
        self.reader = self.engine.view();
        self.publish()
    }

    /// For what else the owner does with it: its persister, its size on disk.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// Gives the engine back, to be closed.
    pub fn into_engine(self) -> E {
        self.engine
    }

    /// Commits what is pending as of the last whole entry.
    pub(crate) fn commit(&mut self) -> Result<(), Error> {
        let (batch, heads) = self.pending.take_batch(&self.meta);
        self.engine.commit(batch)?;
        for changed in heads.into_values() {
            self.heads
                .committed(changed.packed, changed.head.live.is_some());
        }
        self.reader = self.engine.view();
        self.reader_revision = self.meta.revision;
        Ok(())
    }

    /// Makes the view of what was committed last.
    fn publish(&mut self) -> Result<(), Error> {
        let committed = Source {
            reader: &self.reader,
            overlay: None,
            known: None,
            revision: self.meta.revision,
            compact_revision: self.meta.compact_revision,
        };
        self.fences
            .follow(self.pending.arrivals.drain(..), &self.changes, &committed)?;
        self.view = View::new(Shared {
            reader: self.reader.clone(),
            meta: self.meta,
            alarms: Arc::clone(&self.alarms),
            members: Arc::clone(&self.members),
            auth: Arc::clone(&self.auth),
            leases_count: self.leases.len(),
            quota_bytes: self.config.quota_bytes,
            fences: self.fences.current(),
            pages: self.fences.pages(),
        });
        Ok(())
    }
}

/// Where the engine's keys behind this one begin.
fn behind(head: &PackedHead) -> Bytes {
    [&head.key()[..], &[0]].concat().into()
}
