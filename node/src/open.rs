//! Opens what is on disk, or makes it: data directory, engine, store, log, and the replica restored from them.
//!
//! Nothing here repairs by guessing: what does not add up is refused, with the place and the next command.

use kvnode_api::{Member, MemberListResponse};
use kvnode_replica::{Replica, Restored};
use kvnode_store::command::{Command, Header, Kind};
use kvnode_store::datadir::{self, Creation, DataDir, Presence, Program};
use kvnode_store::engine::Engine as _;
use kvnode_store::engine::fjall::{FjallEngine, Options as EngineOptions};
use kvnode_store::{Members, Store as StateMachine};
use kvnode_wal::dir::{self, Log};
use kvnode_wal::recover::{Floors, Recovered};
use kvnode_wal::{
    Entry, EntryKind, HardState, Identity as WalIdentity, Membership, Options as WalOptions,
    SyncMethod,
};

use crate::config::{ClusterState, Config, FoundingMember};
use crate::cores::Store;
use crate::cores::apply::{BATCH_ENTRIES_MAX, committed};
use crate::exit::{Code, Exit};
use crate::snapshots::finish_install;
use crate::{force, join, version};
use prost::Message as _;

/// Payload a log entry has beside the client's request.
const ENVELOPE_BYTES: usize = 64 << 10;

/// Payload bytes read back at a start for members that are behind, about; and entries read at a time.
const TAIL_BYTES_MAX: usize = 32 << 20;
const TAIL_PIECE: u64 = 64;

/// What is open now.
pub struct Opened {
    pub data: DataDir,
    pub store: Store,
    pub log: Log,
    pub replica: Replica,
    /// Random per start.
    pub incarnation: u64,
    /// Applied before clients are served: what was committed when this member last ran.
    pub committed_index: u64,
    /// Where a member that has just founded or joined finds the others, until its table tells.
    pub members: Option<Vec<FoundingMember>>,
}

/// `open_files` is what this process may have open.
pub fn open(config: &Config, open_files: u64) -> Result<Opened, Exit> {
    let incarnation = random_u64()?;
    match datadir::presence(&config.data_dir).map_err(datadir_exit)? {
        Presence::Absent | Presence::Unfinished => create(config, incarnation, open_files),
        Presence::Present => reopen(config, incarnation, open_files),
        Presence::Foreign => Err(Exit::new(
            Code::Safety,
            format!(
                "{} holds files but no data directory of kvnode",
                config.data_dir.display()
            ),
            "name an empty or missing directory with --data-dir, or move the files away",
        )),
    }
}

/// Who this member will be, and what its log and its table begin with.
struct Beginning {
    cluster_id: u64,
    member_id: u64,
    membership: Membership,
    /// The first entry of the log; `None` where the log comes from the others.
    founding: Option<Entry>,
    members: Vec<FoundingMember>,
}

fn create(config: &Config, incarnation: u64, open_files: u64) -> Result<Opened, Exit> {
    if let Some(error) = &config.founding_error {
        let hint = error.hint.as_deref().unwrap_or_default();
        return Err(Exit::new(Code::Usage, &error.message, hint));
    }
    if config.force_new_cluster.is_some() {
        return Err(Exit::new(
            Code::Usage,
            format!(
                "--force-new-cluster keeps the data of a member, and {} has none",
                config.data_dir.display()
            ),
            "check --data-dir; to found a cluster drop the flag",
        ));
    }
    let beginning = match config.initial_cluster_state {
        ClusterState::New => found(config)?,
        ClusterState::Existing => join(config)?,
    };
    let mut instance_id = [0; 16];
    instance_id[..8].copy_from_slice(&random_u64()?.to_le_bytes());
    instance_id[8..].copy_from_slice(&random_u64()?.to_le_bytes());
    let identity = datadir::Identity {
        cluster_id: beginning.cluster_id,
        member_id: beginning.member_id,
        instance_id,
    };
    check_expected_cluster(config, identity.cluster_id)?;
    let creation = Creation::begin(
        &config.data_dir,
        config.wal_dir.as_deref(),
        identity,
        &program(),
    )
    .map_err(datadir_exit)?;
    let engine = FjallEngine::create(&creation.kv(), &engine_options(config, open_files))
        .map_err(engine_exit)?;
    let wal = creation.wal();
    let mut log = Log::create(
        &wal,
        wal_identity(&identity),
        wal_options(config)?,
        random_u64()?,
        beginning.membership.clone(),
        unix_ms(),
    )
    .map_err(wal_exit)?;
    let entries: Vec<Entry> = beginning.founding.into_iter().collect();
    let hard_state = HardState {
        term: entries.len() as u64,
        vote: 0,
        commit: entries.len() as u64,
    };
    if !entries.is_empty() {
        log.append(&entries, Some(hard_state), true, unix_ms())
            .map_err(wal_exit)?;
    }
    let data = creation.finish().map_err(datadir_exit)?;
    log::info!(
        "{} cluster {:x} as member {:x} in {}",
        match config.initial_cluster_state {
            ClusterState::New => "founded",
            ClusterState::Existing => "joined",
        },
        identity.cluster_id,
        identity.member_id,
        data.root().display()
    );
    let store = StateMachine::open(engine, store_config(config)).map_err(store_exit)?;
    let restored = Restored {
        membership: beginning.membership,
        hard_state,
        snapshot: (0, 0),
        entries,
        applied: 0,
    };
    let opened = assemble(config, data, store, log, restored, incarnation)?;
    Ok(Opened {
        members: Some(beginning.members),
        ..opened
    })
}

/// Every founding member votes from the first entry on, and that entry, which all of them write down alike, puts them into
/// the member table: ids and peer urls, which the cluster's id is a digest of. So no founder needs another to start.
fn found(config: &Config) -> Result<Beginning, Exit> {
    if !config.new_cluster_on_empty_dir {
        return Err(Exit::new(
            Code::Safety,
            format!(
                "{} is empty and --allow-new-cluster-on-empty-dir=never forbids founding a cluster",
                config.data_dir.display()
            ),
            "is the right disk mounted? to found a cluster drop the flag",
        ));
    }
    join::found(config)?;
    let mut founders: Vec<Member> = config
        .initial_cluster
        .iter()
        .map(|founder| {
            let mut peer_urls: Vec<String> =
                founder.peer_urls.iter().map(ToString::to_string).collect();
            peer_urls.sort();
            Member {
                id: founder.id,
                peer_urls,
                ..Member::default()
            }
        })
        .collect();
    founders.sort_by_key(|founder| founder.id);
    let membership = Membership {
        voters: founders.iter().map(|founder| founder.id).collect(),
        ..Membership::default()
    };
    let message = MemberListResponse {
        header: None,
        members: founders,
    };
    let payload = Command::encode(
        Kind::MembersFound,
        &Header::default(),
        &message.encode_to_vec(),
    );
    Ok(Beginning {
        cluster_id: config.cluster_id,
        member_id: config.member_id,
        membership,
        founding: Some(Entry {
            index: 1,
            term: 1,
            kind: EntryKind::Normal,
            payload,
        }),
        members: config.initial_cluster.clone(),
    })
}

/// Begins with an empty log, and with a membership that does not name this member: it does not stand for election before
/// an entry or a snapshot of the leader has named it.
fn join(config: &Config) -> Result<Beginning, Exit> {
    let joined = join::join(config)?;
    let ids = |learners: bool| {
        let members = joined.members.iter();
        let chosen = members.filter(|m| m.is_learner == learners && m.id != joined.member_id);
        chosen.map(|member| member.id).collect()
    };
    Ok(Beginning {
        cluster_id: joined.cluster_id,
        member_id: joined.member_id,
        membership: Membership {
            voters: ids(false),
            learners: ids(true),
            ..Membership::default()
        },
        founding: None,
        members: join::as_founders(&joined.members),
    })
}

fn reopen(config: &Config, incarnation: u64, open_files: u64) -> Result<Opened, Exit> {
    let data = DataDir::open(&config.data_dir, config.wal_dir.as_deref(), &program())
        .map_err(datadir_exit)?;
    for note in data.notes() {
        log::warn!("{note}");
    }
    let identity = *data.identity();
    check_expected_cluster(config, identity.cluster_id)?;
    // Who has joined has ids that no settings yield.
    if config.initial_cluster_state == ClusterState::New
        && (identity.cluster_id, identity.member_id) != (config.cluster_id, config.member_id)
    {
        log::warn!(
            "the data directory belongs to member {:x} of cluster {:x}; --name, --initial-* and the token would give {:x} of {:x} and are ignored",
            identity.member_id,
            identity.cluster_id,
            config.member_id,
            config.cluster_id
        );
    }
    let engines = data.engines();
    engines.settle().map_err(datadir_exit)?;
    let (mut store, mut recovered) = recover(config, &data, open_files)?;
    let (options, store_options) = (engine_options(config, open_files), store_config(config));
    let (mark, applied) = (recovered.snapshot, store.applied().0);
    // Closed first: one engine is open at a time.
    if mark.is_some_and(|mark| mark.index > applied) {
        store.into_engine().close().map_err(engine_exit)?;
        if !finish_install(&engines, &options, &store_options, mark, applied)
            .map_err(install_exit)?
        {
            log::debug!("the log's newest mark, {mark:?}, installs nothing");
        }
        (store, recovered) = recover(config, &data, open_files)?;
    } else {
        engines.discard_staged().map_err(datadir_exit)?;
    }
    for finding in &recovered.report.findings {
        log::warn!("WAL: {finding:?}");
    }
    let applied = store.applied().0;
    if recovered.first_index > applied + 1 {
        return Err(Exit::new(
            Code::Safety,
            format!(
                "the store has applied entries up to {applied}, but the WAL in {} begins at {}: entries in between are missing",
                data.wal().display(),
                recovered.first_index
            ),
            "restore this member from a snapshot, or bring the missing WAL segments back",
        ));
    }
    catch_up(&mut store, &mut recovered)?;
    let (applied, applied_term) = store.applied();
    log::info!(
        "reopened {}: applied {applied}, log {}..={}, committed {}",
        data.root().display(),
        recovered.first_index,
        recovered.last_index,
        recovered.hard_state.commit
    );
    let view = store.view();
    if view.members().is_removed(identity.member_id) {
        return Err(removed(identity.member_id, identity.cluster_id));
    }
    let mut restored = Restored {
        membership: membership(
            view.members(),
            applied,
            &recovered.membership,
            recovered.first_index,
        ),
        hard_state: recovered.hard_state,
        snapshot: (applied, applied_term),
        entries: std::mem::take(&mut recovered.entries),
        applied,
    };
    let forced = match config.force_new_cluster {
        None => None,
        Some(forced) => force::plan(config, forced, &identity, view.members(), &restored)?,
    };
    let mut log = Log::resume(
        &data.wal(),
        &recovered,
        wal_options(config)?,
        random_u64()?,
        unix_ms(),
    )
    .map_err(wal_exit)?;
    if let Some(forced) = forced {
        let hard_state = Some(forced.hard_state);
        log.append(&forced.entries, hard_state, true, unix_ms())
            .map_err(wal_exit)?;
        forced.carry_out(&mut restored);
    }
    if restored.membership.voters.len() + restored.membership.learners.len() > 1 {
        let behind = restored.entries.first().map_or(applied, |e| e.index - 1);
        let mut tail = tail(&mut log, behind.min(applied), config.log_keep_entries);
        tail.append(&mut restored.entries);
        restored.entries = tail;
    }
    assemble(config, data, store, log, restored, incarnation)
}

/// The live engine, and the log as far as that has not applied it.
fn recover(config: &Config, data: &DataDir, open_files: u64) -> Result<(Store, Recovered), Exit> {
    let engine = open_engine(config, data, open_files)?;
    if let Some(cut) = engine.cut() {
        log::warn!("the engine's journal had a torn end, kept in quarantine: {cut:?}");
    }
    let store = StateMachine::open(engine, store_config(config)).map_err(store_exit)?;
    let (applied, _) = store.applied();
    let recovered = read_log(&data.wal(), &wal_identity(data.identity()), applied)?;
    Ok((store, recovered))
}

/// Applies what the log says was committed and the store lost with the memory of the process that wrote it, so that what is decided
/// about this member from here on rests on what it knew. Up to the next change of who votes: raft has to carry that out itself.
fn catch_up(store: &mut Store, recovered: &mut Recovered) -> Result<(), Exit> {
    let started = std::time::Instant::now();
    let logged = &recovered.membership;
    let change = recovered
        .entries
        .iter()
        .find(|entry| entry.kind == EntryKind::ConfChange && entry.index > logged.index);
    let commit = recovered.hard_state.commit;
    let upto = change.map_or(commit, |change| commit.min(change.index - 1));
    let (before, _) = store.applied();
    let missing = recovered
        .entries
        .iter()
        .filter(|entry| entry.index > before && entry.index <= upto);
    let missing: Vec<_> = missing.cloned().map(committed).collect();
    for batch in missing.chunks(BATCH_ENTRIES_MAX) {
        store.apply(batch).map_err(store_exit)?;
    }
    if !missing.is_empty() {
        log::info!(
            "applied entries {}..={upto} of the log, which the store did not have, in {:?}",
            before + 1,
            started.elapsed()
        );
    }
    if logged.voters_outgoing.is_empty() {
        let (applied, _) = store.applied();
        recovered.entries.retain(|entry| entry.index > applied);
    }
    Ok(())
}

/// The log behind what is applied. If the newest membership it recorded is a joint one from before that, from there on: what
/// left it is an entry, and the member table does not know of joint configurations.
fn read_log(
    wal: &std::path::Path,
    identity: &WalIdentity,
    applied: u64,
) -> Result<Recovered, Exit> {
    let read = |keep_after| {
        let floors = Floors {
            applied,
            snapshot: 0,
            keep_after,
        };
        dir::recover(wal, identity, floors).map_err(wal_exit)
    };
    let recovered = read(applied)?;
    let logged = &recovered.membership;
    if logged.voters_outgoing.is_empty() || logged.index >= applied {
        return Ok(recovered);
    }
    read(logged.index)
}

/// Applied entries that other members may still lack, as many as memory would hold had this member not stopped: without
/// them it could only send a snapshot to one that is a little behind.
fn tail(log: &mut Log, applied: u64, entries_max: u64) -> Vec<Entry> {
    let first = log
        .first_index()
        .max((applied + 1).saturating_sub(entries_max));
    let mut pieces: Vec<Vec<Entry>> = Vec::new();
    let (mut from, mut bytes) = (applied + 1, 0);
    while from > first && bytes < TAIL_BYTES_MAX {
        let to = from;
        from = first.max(to.saturating_sub(TAIL_PIECE));
        let piece = match log.read(from, to, usize::MAX) {
            Ok(piece) => piece,
            Err(error) => {
                log::warn!("reading back applied entries for members that are behind: {error}");
                break;
            }
        };
        bytes += piece.iter().map(|entry| entry.payload.len()).sum::<usize>();
        pieces.push(piece);
    }
    pieces.into_iter().rev().flatten().collect()
}

/// Who votes as of what is applied: the member table was written with it. The log knows it too, from its newest checkpoint,
/// but that may be older than an applied change whose entry is gone. It may also be newer, where the engine lost its
/// last moments; and it alone knows of a joint configuration, unless the log begins so far behind one that the entry that
/// left it may be gone: then it was left long ago.
fn membership(
    members: &Members,
    applied: u64,
    logged: &Membership,
    first_index: u64,
) -> Membership {
    let joint = !logged.voters_outgoing.is_empty() && first_index <= logged.index + 1;
    if joint || logged.index > applied || members.voters().next().is_none() {
        return logged.clone();
    }
    Membership {
        index: applied,
        voters: members.voters().map(|member| member.id).collect(),
        learners: members.learners().map(|member| member.id).collect(),
        ..Membership::default()
    }
}

/// How a member ends that the others have removed.
pub fn removed(member_id: u64, cluster_id: u64) -> Exit {
    Exit::new(
        Code::Safety,
        format!(
            "member {member_id:x} has been permanently removed from cluster {cluster_id:x}; it keeps its data and stops"
        ),
        "to bring the machine back, `etcdctl member add` it, then start it with an empty data directory and --initial-cluster-state=existing",
    )
}

/// Restores the replica, and hands out everything that is open.
fn assemble(
    config: &Config,
    data: DataDir,
    store: Store,
    log: Log,
    restored: Restored,
    incarnation: u64,
) -> Result<Opened, Exit> {
    let committed_index = restored.hard_state.commit.max(restored.applied);
    let replica =
        Replica::new(replica_config(config, &data, incarnation), restored).map_err(replica_exit)?;
    Ok(Opened {
        data,
        store,
        log,
        replica,
        incarnation,
        committed_index,
        members: None,
    })
}

/// The engine, or a fresh one if it is gone and the log can make it again from its first entry.
fn open_engine(config: &Config, data: &DataDir, open_files: u64) -> Result<FjallEngine, Exit> {
    let path = data.kv();
    if path.exists() {
        return FjallEngine::open(&path, &engine_options(config, open_files)).map_err(engine_exit);
    }
    let segments = dir::segments(&data.wal()).map_err(wal_exit)?;
    let first = segments.first().and_then(|segment| segment.lowest);
    if first.is_some_and(|lowest| lowest > 1) {
        return Err(Exit::new(
            Code::Safety,
            format!(
                "{} is missing, and the WAL begins at entry {}: it cannot make it again",
                path.display(),
                first.unwrap_or(0)
            ),
            "bring the directory back, or restore this member from a snapshot",
        ));
    }
    log::warn!(
        "{} is missing; making it again from the WAL, which has every entry",
        path.display()
    );
    FjallEngine::create(&path, &engine_options(config, open_files)).map_err(engine_exit)
}

fn check_expected_cluster(config: &Config, found: u64) -> Result<(), Exit> {
    match config.expected_cluster_id {
        Some(expected) if expected != found => Err(Exit::new(
            Code::Safety,
            format!(
                "--cluster-id={expected:x}, but {} belongs to cluster {found:x}",
                config.data_dir.display()
            ),
            "check --data-dir, or the flag",
        )),
        _ => Ok(()),
    }
}

fn program() -> Program {
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Program {
        name: "kvnode".into(),
        version: version::KVNODE.into(),
        started: started.as_secs(),
    }
}

fn wal_identity(identity: &datadir::Identity) -> WalIdentity {
    WalIdentity {
        cluster: identity.cluster_id,
        member: identity.member_id,
        instance: identity.instance_id,
    }
}

fn wal_options(config: &Config) -> Result<WalOptions, Exit> {
    let options = WalOptions {
        segment_bytes: config.wal_segment_bytes,
        sync: if config.unsafe_no_fsync {
            SyncMethod::None
        } else {
            SyncMethod::Fdatasync
        },
        ..WalOptions::default()
    };
    let options = options.validated().map_err(wal_exit)?;
    let wanted = entry_bytes_max(config);
    if options.entry_bytes_max < wanted {
        let what = format!(
            "--wal-segment-bytes={}: entries of at most {} bytes fit, --max-request-bytes asks for {wanted}",
            config.wal_segment_bytes, options.entry_bytes_max
        );
        return Err(Exit::new(
            Code::Usage,
            what,
            "make the segments at least three times as large as a request",
        ));
    }
    Ok(options)
}

/// Table files the engine keeps open: a quarter of what the process may have, at most 900.
pub fn engine_files(open_files: u64) -> usize {
    usize::try_from(open_files / 4)
        .unwrap_or(usize::MAX)
        .clamp(16, 900)
}

pub fn engine_options(config: &Config, open_files: u64) -> EngineOptions {
    // A fifth of memory is too much for a machine that also holds page cache for the same tables: what is hot lives in
    // the value cache, and blocks of the rest come from the page cache at the price of a copy.
    EngineOptions {
        cache_bytes: 64 << 20,
        memtable_bytes: config.memtable_bytes,
        open_files: engine_files(open_files),
        ..EngineOptions::default()
    }
}

pub fn store_config(config: &Config) -> kvnode_store::Config {
    kvnode_store::Config {
        quota_bytes: config.quota_bytes,
        lease_ttl_min_seconds: lease_ttl_min_seconds(config),
        ..kvnode_store::Config::default()
    }
}

/// One and a half election timeouts, rounded up: a shorter lease could not survive a change of leader.
fn lease_ttl_min_seconds(config: &Config) -> i64 {
    let ms = config.election_timeout.as_millis() * 3 / 2;
    i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX).max(1)
}

/// Largest payload of an entry: a request and what goes in front of it.
fn entry_bytes_max(config: &Config) -> usize {
    (config.limits.request_bytes_max + ENVELOPE_BYTES).min(kvnode_wal::ENTRY_BYTES_MAX)
}

fn replica_config(config: &Config, data: &DataDir, incarnation: u64) -> kvnode_replica::Config {
    let ticks = config.election_timeout.as_millis() / config.heartbeat_interval.as_millis().max(1);
    kvnode_replica::Config {
        incarnation,
        seed: incarnation,
        election_ticks: usize::try_from(ticks).unwrap_or(10).max(2),
        pre_vote: config.pre_vote,
        entry_bytes_max: entry_bytes_max(config),
        strict_reconfiguration: config.strict_reconfiguration,
        linked_ticks_min: linked_ticks_min(config),
        ..kvnode_replica::Config::new(data.identity().member_id)
    }
}

/// Connections count for membership changes after five seconds.
fn linked_ticks_min(config: &Config) -> u64 {
    let ticks = 5000_u128.div_ceil(config.heartbeat_interval.as_millis().max(1));
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

fn random_u64() -> Result<u64, Exit> {
    let random = getrandom::u64().map_err(|error| {
        Exit::new(
            Code::Failed,
            format!("random numbers: {error}"),
            "a node needs them",
        )
    })?;
    Ok(random.max(1))
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn datadir_exit(error: datadir::Error) -> Exit {
    let code = match &error {
        datadir::Error::Locked { .. } => Code::Locked,
        _ => Code::Safety,
    };
    let hint = error.hint();
    Exit::new(code, error.to_string(), hint)
}

fn install_exit(error: crate::snapshots::InstallError) -> Exit {
    Exit::new(
        Code::Safety,
        format!(
            "the log says that a snapshot was to take the place of the state, and it cannot: {error}"
        ),
        "nothing was changed; remove this member from the cluster and add it anew",
    )
}

fn engine_exit(error: kvnode_store::engine::EngineError) -> Exit {
    use kvnode_store::engine::EngineError;
    let code = match &error {
        EngineError::Locked { .. } => Code::Locked,
        EngineError::Version { .. } => Code::Version,
        EngineError::Io { .. } | EngineError::NoSpace { .. } => Code::Io,
        _ => Code::Safety,
    };
    Exit::new(
        code,
        error.to_string(),
        "nothing was changed; restore this member from a snapshot if the files are damaged",
    )
}

fn store_exit(error: kvnode_store::Error) -> Exit {
    let code = if matches!(error, kvnode_store::Error::Schema { .. }) {
        Code::Version
    } else {
        Code::Safety
    };
    Exit::new(
        code,
        error.to_string(),
        "nothing was changed; restore this member from a snapshot if the records are damaged",
    )
}

fn wal_exit(error: kvnode_wal::Error) -> Exit {
    let hint = match error.damage() {
        Some(damage) => damage.commands().join("; or "),
        None => "check that the directory is readable and writable, and its device healthy".into(),
    };
    let code = if error.damage().is_some() {
        Code::Safety
    } else {
        Code::Io
    };
    Exit::new(code, error.to_string(), hint)
}

fn replica_exit(error: kvnode_replica::Error) -> Exit {
    Exit::new(
        Code::Safety,
        error.to_string(),
        "the log and the store contradict each other; restore this member from a snapshot",
    )
}

#[cfg(test)]
mod tests;
