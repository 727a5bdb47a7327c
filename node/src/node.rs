//! Start and stop order of the process.
//!
//! Start: listening sockets first (a busy port must not leave a data directory behind), then the data directory and its
//! lock, engine, store, log; then threads from the inside out; then clients, once this member leads and has applied
//! everything it had committed. Stop: the same way back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvnode_replica::Replica;
use kvnode_store::datadir::{self, Presence};
use kvnode_store::engine::Engine as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin;
use crate::auth::Provider;
use crate::compactor;
use crate::config::{self, AdminSocket, Config};
use crate::cores::client::{ClientCore, Start};
use crate::cores::replica::{Links, ReplicaCore};
use crate::cores::{ApplyJob, CoreMessage, Mailboxes, ReplicaMessage, View, apply, post};
use crate::discovery;
use crate::disk::{self, DiskJob};
use crate::exit::{Code, Exit};
use crate::grpc::NodeService;
use crate::http::{self, Acceptor, Address, Bound, Door, Role, Way};
use crate::mailbox::{self, Receiver, Sender};
use crate::maintenance;
use crate::metrics::Limit;
use crate::notify::Notify;
use crate::open::{self, Opened};
use crate::pool::Pool;
use crate::preflight::{self, Machine};
use crate::reload::Reload;
use crate::rt::{self, Executor, Kicker};
use crate::shared::Shared;
use crate::snapshots::{Installer, PersisterSlot, Snapshots};
use crate::tls::Tls;

/// Threads for reads.
const READERS: usize = 2;
/// How often the main thread looks whether the node is up.
const START_POLL: Duration = Duration::from_millis(2);
/// How far a start that goes on moves the service manager's time-out.
const START_EXTENSION: Duration = Duration::from_secs(30);
/// Longest wait for another member to take leadership over from one that stops.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
/// Connections an executor that also replicates counts as having, where others only serve.
const REPLICA_HANDICAP: usize = 1000;

/// Runs the node until a signal ends it.
pub fn run(config: Config, reload: Reload) -> Result<(), Exit> {
    let started = Instant::now();
    let notify = Notify::new(std::env::var_os("NOTIFY_SOCKET").as_deref());
    let machine = preflight::run().map_err(|failure| {
        Exit::new(
            Code::Preflight,
            format!("{}: {}", failure.what, failure.why),
            failure.fix,
        )
    })?;
    // Before any other thread, so that all of them leave these signals to the one that waits for them.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| {
        Exit::new(
            Code::Failed,
            format!("signals: {error}"),
            "this should not happen; report it",
        )
    })?;
    let tls = Tls::open(&config).map_err(|error| {
        let hint = error.hint.clone();
        Exit::new(Code::Usage, error.what, hint)
    })?;
    let listeners = listen(&config)?;
    let peer_listeners = listen_for_peers(&config)?;
    let mut config = config;
    discover(&mut config, &notify)?;
    notify.busy("opening the data directory", START_EXTENSION);
    let mut opened = open::open(&config, machine.open_files)?;
    tls.settle(opened.data.root())
        .map_err(|error| Exit::new(Code::Failed, error.what.clone(), error.hint))?;
    if let Some(members) = opened.members.take() {
        config.initial_cluster = members;
    }
    let recovered_index = opened.committed_index;
    let (mut node, shared) = Node::start(config, opened, machine.open_files, peer_listeners, tls)?;
    shared.reload_hooks.add("TLS files", shared.tls.reloader());
    node.take_reloads(reload);
    node.open_admin_socket()?;
    let tls_files = shared.tls.watch().map_err(|error| {
        Exit::new(
            Code::Failed,
            format!("threads: {error}"),
            "raise the limit on threads",
        )
    })?;
    shared.departure.wakes(signals.handle());
    let mut told = Instant::now();
    while !shared.vitals.announced.load(Ordering::Acquire)
        || shared.vitals.applied.load(Ordering::Acquire) < recovered_index
    {
        if let Some(signal) = signals.pending().find(|signal| *signal != SIGHUP) {
            log::info!("signal {signal} while starting");
            return node.stop(None);
        }
        if shared.departure.is_leaving() {
            return removed(node, None, &shared);
        }
        if told.elapsed() >= START_EXTENSION / 2 {
            told = Instant::now();
            let applied = shared.vitals.applied.load(Ordering::Relaxed);
            notify.busy(
                &format!("replaying: {applied} of {recovered_index}"),
                START_EXTENSION,
            );
        }
        std::thread::sleep(START_POLL);
    }
    let addresses: Vec<String> = listeners
        .iter()
        .map(|bound| bound.address().to_string())
        .collect();
    let (node, acceptor) = node.accept(listeners, connections_max(&machine))?;
    shared.vitals.serving.store(true, Ordering::Release);
    notify.ready();
    log::info!(
        "ready to serve client requests on {} after {:?}",
        addresses.join(", "),
        started.elapsed()
    );
    for signal in signals.forever() {
        if signal == SIGHUP {
            log::info!("signal {signal}: reading the settings again");
            shared.reload();
            continue;
        }
        log::info!("signal {signal}: stopping; a second one ends the process at once");
        notify.stopping();
        break;
    }
    tls_files.stop();
    if shared.departure.is_leaving() {
        notify.stopping();
        return removed(node, Some(acceptor), &shared);
    }
    std::thread::Builder::new()
        .name("kv-signal".into())
        .spawn(move || {
            if signals.forever().any(|signal| signal != SIGHUP) {
                std::process::exit(Code::Failed as i32);
            }
        })
        .map_err(|error| {
            Exit::new(
                Code::Failed,
                format!("threads: {error}"),
                "raise the limit on threads",
            )
        })?;
    node.stop(Some(acceptor))
}

/// Finds the founders where nobody listed them. A member that has been founded needs no look.
fn discover(config: &mut Config, notify: &Notify) -> Result<(), Exit> {
    let Some(discovery) = &config.discovery else {
        return Ok(());
    };
    // What cannot be looked at is told when it is opened.
    if !matches!(
        datadir::presence(&config.data_dir),
        Ok(Presence::Absent | Presence::Unfinished)
    ) {
        return Ok(());
    }
    let list = discovery::find(config, discovery, notify)?;
    config.set_founders(&list).map_err(|error| {
        let hint = error.hint.unwrap_or_default();
        Exit::new(Code::Usage, error.message, hint)
    })
}

/// Stops a member that the others have removed, with the reason as its last word.
fn removed(node: Node, acceptor: Option<Acceptor>, shared: &Shared) -> Result<(), Exit> {
    node.stop(acceptor)?;
    Err(open::removed(shared.member_id, shared.cluster_id))
}

/// Connections that leave descriptors for the engine's tables as well.
fn connections_max(machine: &Machine) -> usize {
    machine
        .connections_max()
        .saturating_sub(open::engine_files(machine.open_files))
        .max(1)
}

/// All listening sockets: those for clients first, HTTP's own after gRPC's, and how many of them there are.
fn listen(config: &Config) -> Result<Vec<Bound>, Exit> {
    let clients = match config.listen_client_http_urls.is_empty() {
        true => Role::Clients,
        false => Role::Grpc,
    };
    let mut all = Vec::new();
    for (urls, flag, role) in [
        (&config.listen_client_urls, "--listen-client-urls", clients),
        (
            &config.listen_client_http_urls,
            "--listen-client-http-urls",
            Role::Http,
        ),
        (
            &config.listen_metrics_urls,
            "--listen-metrics-urls",
            Role::Metrics,
        ),
    ] {
        for url in urls {
            let share = config.socket_reuse_port;
            let bound = bind_all(url, flag, share)?.into_iter();
            all.extend(bound.map(|bound| bound.serving(role, url.scheme.is_tls())));
        }
    }
    Ok(all)
}

/// The listening sockets for other members.
fn listen_for_peers(config: &Config) -> Result<Vec<Bound>, Exit> {
    let mut listeners = Vec::new();
    for url in &config.listen_peer_urls {
        let bound = bind_all(url, "--listen-peer-urls", config.socket_reuse_port)?.into_iter();
        let encrypted = url.scheme.is_tls();
        listeners.extend(bound.map(|bound| bound.serving(Role::Clients, encrypted)));
    }
    Ok(listeners)
}

fn bind_all(url: &config::Url, flag: &str, share: bool) -> Result<Vec<Bound>, Exit> {
    let addresses = match &url.address {
        config::Address::Unix(path) => vec![Address::Unix(path.clone())],
        config::Address::Tcp { .. } => {
            let found = url.bind_addresses().map_err(|error| {
                Exit::new(
                    Code::Safety,
                    format!("{flag}={url}: {error}"),
                    "listen on an address of this machine, or on a name that leads to one",
                )
            })?;
            found.into_iter().map(Address::Tcp).collect()
        }
    };
    // A name may lead to several machines' addresses: those of this one count.
    let several = addresses.len() > 1;
    let (mut bound, mut elsewhere) = (Vec::new(), None);
    for address in addresses {
        let result = match share {
            true => http::bind_sharing(&address),
            false => http::bind(&address),
        };
        let absent =
            |error: &http::ListenError| error.source.kind() == std::io::ErrorKind::AddrNotAvailable;
        if several
            && let Err(error) = &result
            && absent(error)
        {
            elsewhere = Some(address.to_string());
            continue;
        }
        bound.push(result.map_err(|error| {
            let hint = match error.source.kind() {
                std::io::ErrorKind::AddrNotAvailable => format!(
                    "{address} is no address of this machine (`ip address` lists them); change {flag}"
                ),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotFound => {
                    format!("check that the server's user may listen there; change {flag}")
                }
                _ => format!("another process listens on {address}; stop it or change {flag}"),
            };
            Exit::new(Code::Safety, error_chain(&error), hint)
        })?);
    }
    match elsewhere {
        Some(address) if bound.is_empty() => Err(Exit::new(
            Code::Safety,
            format!("{flag}={url} leads to no address of this machine, but to {address}"),
            "`ip address` lists this machine's addresses; correct the name or list an address",
        )),
        _ => Ok(bound),
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// Everything that runs, from the inside out.
struct Node {
    shared: Arc<Shared>,
    executors: Vec<Executor<()>>,
    ways: Vec<Way>,
    cores: Mailboxes,
    stops: Vec<Sender<()>>,
    replica: Sender<ReplicaMessage>,
    apply: (Sender<ApplyJob>, JoinHandle<()>),
    disk: (Sender<DiskJob>, JoinHandle<()>),
    maintenance: JoinHandle<()>,
    pools: Vec<(Pool, Vec<JoinHandle<()>>)>,
    admin: Option<Acceptor>,
    /// Holds the lock on the data directory until the end.
    _data: kvnode_store::datadir::DataDir,
}

/// What one executor is made of; travels to its thread.
struct Seat {
    number: usize,
    shared: Arc<Shared>,
    start: Start,
    inbox: Receiver<CoreMessage>,
    door: Door,
    stop: Receiver<()>,
    /// On the first executor only.
    replica: Option<ReplicaSeat>,
}

struct ReplicaSeat {
    replica: Replica,
    view: View,
    links: Links,
    inbox: Receiver<ReplicaMessage>,
    peer_listeners: Vec<Bound>,
    snapshots: Snapshots,
}

impl Node {
    fn start(
        config: Config,
        opened: Opened,
        open_files: u64,
        peer_listeners: Vec<Bound>,
        tls: Tls,
    ) -> Result<(Node, Arc<Shared>), Exit> {
        let Opened {
            data,
            store,
            log,
            replica,
            incarnation,
            ..
        } = opened;
        let provider = Provider::open(&config).map_err(|error| {
            Exit::new(
                Code::Usage,
                format!("--auth-token: {error}"),
                "correct --auth-token, or use --auth-token=simple",
            )
        })?;
        let identity = *data.identity();
        let shared = Arc::new(Shared::new(
            config,
            identity.cluster_id,
            identity.member_id,
            incarnation,
            data.root().to_path_buf(),
            data.wal(),
            tls,
        ));
        shared
            .vitals
            .applied
            .store(store.applied().0, Ordering::Release);
        let thread = |error: std::io::Error| {
            Exit::new(
                Code::Failed,
                format!("cannot start a thread: {error}"),
                "raise the limit on threads of this user",
            )
        };

        let count = executors_count(&shared.config);
        let (core_senders, core_inboxes): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mailbox::by_admission()).unzip();
        let cores: Mailboxes = core_senders.into();
        let (replica_sender, replica_inbox) = mailbox::by_admission();
        let (apply_sender, apply_inbox) = mailbox::by_admission();
        let (disk_sender, disk_inbox) = mailbox::by_admission();

        let (readers, background, hashers) = (Pool::default(), Pool::default(), Pool::default());
        let pools = vec![
            (
                readers.clone(),
                readers.start("kv-read", READERS, &cores).map_err(thread)?,
            ),
            (
                background.clone(),
                background
                    .start("kv-background", 1, &cores)
                    .map_err(thread)?,
            ),
            (
                hashers.clone(),
                hashers.start("kv-hash", 1, &cores).map_err(thread)?,
            ),
        ];
        let view = store.view();
        let persisters = PersisterSlot::new(store.engine().persister());
        let maintenance = maintenance::spawn(
            Arc::clone(&shared),
            persisters.clone(),
            replica_sender.clone(),
        )
        .map_err(thread)?;
        let fences = apply_sender.clone();
        let options = open::engine_options(&shared.config, open_files);
        let snapshots = Snapshots::new(Arc::clone(&shared), data.engines(), options.clone());
        let installer = Installer {
            engines: data.engines(),
            options,
            config: open::store_config(&shared.config),
            persisters: persisters.clone(),
        };
        let (apply, in_place) = apply::spawn(
            store,
            installer,
            Arc::clone(&shared),
            apply_inbox,
            fences,
            replica_sender.clone(),
            Arc::clone(&cores),
        )
        .map_err(thread)?;
        let (disk, log) = disk::spawn(
            log,
            Arc::clone(&shared),
            disk_inbox,
            replica_sender.clone(),
            apply_sender.clone(),
            in_place,
        )
        .map_err(thread)?;

        let links = Links {
            disk: disk_sender.clone(),
            log,
            apply: apply_sender.clone(),
            cores: Arc::clone(&cores),
        };
        let mut replica = Some(ReplicaSeat {
            replica,
            view: view.clone(),
            links,
            inbox: replica_inbox,
            peer_listeners,
            snapshots,
        });
        let kicker = Kicker::start().map_err(|error| {
            Exit::new(
                Code::Failed,
                error.to_string(),
                "raise the limit on threads",
            )
        })?;
        let (mut executors, mut ways, mut stops) = (Vec::new(), Vec::new(), Vec::new());
        for (number, inbox) in core_inboxes.into_iter().enumerate() {
            let handicap = if number == 0 && count > 1 {
                REPLICA_HANDICAP
            } else {
                0
            };
            let (way, door) = http::door(handicap);
            let (stop_sender, stop) = mailbox::bounded(1);
            let start = Start {
                number,
                replica: replica_sender.clone(),
                readers: readers.clone(),
                background: background.clone(),
                persisters: persisters.clone(),
                hashers: hashers.clone(),
                provider: provider.clone(),
                view: view.clone(),
            };
            let seat = Seat {
                number,
                shared: Arc::clone(&shared),
                start,
                inbox,
                door,
                stop,
                replica: replica.take(),
            };
            let options = rt::Options::named(format!("kv-core-{number}"));
            let executor =
                Executor::spawn(&options, &kicker, move || seat.run()).map_err(|error| {
                    Exit::new(
                        Code::Preflight,
                        error.to_string(),
                        "see the first messages of this start",
                    )
                })?;
            executors.push(executor);
            ways.push(way);
            stops.push(stop_sender);
        }
        let node = Node {
            shared: Arc::clone(&shared),
            executors,
            ways,
            cores,
            stops,
            replica: replica_sender,
            apply: (apply_sender, apply),
            disk: (disk_sender, disk),
            maintenance,
            pools,
            admin: None,
            _data: data,
        };
        Ok((node, shared))
    }

    /// From now on SIGHUP and the admin socket reload settings.
    fn take_reloads(&self, reload: Reload) {
        let apply = self.apply.0.clone();
        self.shared.set_reload(reload, move |config| {
            post(&apply, ApplyJob::Quota(config.quota_bytes));
        });
    }

    /// The operator's own way in. Only a socket that was asked for is worth refusing to start.
    fn open_admin_socket(&mut self) -> Result<(), Exit> {
        let Some(AdminSocket { path, explicit }) = &self.shared.config.admin_socket else {
            return Ok(());
        };
        let bound = match admin::open(path) {
            Ok(bound) => bound,
            Err((what, hint)) if *explicit => return Err(Exit::new(Code::Safety, what, hint)),
            Err((what, hint)) => {
                log::warn!("{what}; there is none now; {hint}");
                return Ok(());
            }
        };
        log::info!("admin socket on {}", path.display());
        let acceptor = Acceptor::start(vec![bound], self.ways.clone(), admin::CONNECTIONS_MAX);
        self.admin = Some(acceptor.map_err(|error| {
            Exit::new(
                Code::Failed,
                format!("admin socket: {error}"),
                "raise the limit on threads",
            )
        })?);
        Ok(())
    }

    fn accept(
        mut self,
        listeners: Vec<Bound>,
        connections_max: usize,
    ) -> Result<(Node, Acceptor), Exit> {
        let ways = std::mem::take(&mut self.ways);
        let shared = Arc::clone(&self.shared);
        let full = Box::new(move || shared.metrics.limits.refused(Limit::Connections));
        let started = Acceptor::start_counting(listeners, ways, connections_max, full);
        let acceptor = started.map_err(|error| {
            Exit::new(
                Code::Failed,
                format!("cannot accept connections: {error}"),
                "raise the limit on threads",
            )
        })?;
        let counted = (acceptor.counter(), connections_max);
        let _ = self.shared.metrics.queues.connections.set(counted);
        Ok((self, acceptor))
    }

    /// Back from the outside in. What clients were promised is on disk already; this only makes it orderly.
    fn stop(mut self, acceptor: Option<Acceptor>) -> Result<(), Exit> {
        self.shared.vitals.serving.store(false, Ordering::Release);
        // Before the doors are shut: an executor without connections ends with them, and with it the replica.
        self.hand_over();
        for acceptor in acceptor.into_iter().chain(self.admin.take()) {
            acceptor.stop();
        }
        for core in self.cores.iter() {
            post(core, CoreMessage::Stop);
        }
        for stop in &self.stops {
            post(stop, ());
        }
        for executor in self.executors {
            executor.join().map_err(|error| {
                Exit::new(Code::Failed, error.to_string(), "see the log for the cause")
            })?;
        }
        self.shared.vitals.stopping.store(true, Ordering::Release);
        for (pool, threads) in self.pools {
            pool.stop();
            threads.into_iter().for_each(ended);
        }
        ended(self.maintenance);
        post(&self.disk.0, DiskJob::Stop);
        ended(self.disk.1);
        post(&self.apply.0, ApplyJob::Stop);
        ended(self.apply.1);
        log::info!("stopped");
        log::logger().flush();
        Ok(())
    }
}

impl Node {
    /// A leader that stops leaves its place to the most advanced voter, so that clients need not wait for an election. Waits
    /// until that is done or cannot be, three election timeouts at the most.
    fn hand_over(&self) {
        let vitals = &self.shared.vitals;
        if !vitals.is_leader.load(Ordering::Acquire) {
            return;
        }
        post(&self.replica, ReplicaMessage::HandOver);
        let started = Instant::now();
        let patience = (self.shared.config.election_timeout * 3).min(HAND_OVER_MAX);
        while vitals.is_leader.load(Ordering::Acquire)
            && !vitals.handed_over.load(Ordering::Acquire)
        {
            if started.elapsed() >= patience {
                log::warn!(
                    "nobody took leadership over within {patience:?}, stopping all the same"
                );
                return;
            }
            std::thread::sleep(START_POLL);
        }
    }
}

fn ended(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("a thread ended by a panic");
    }
}

/// One executor plays client and replica on small machines; from 4 CPUs on, clients have executors of their own.
fn executors_count(config: &Config) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = config.cores.map_or(cpus, usize::from);
    if cpus < 4 {
        1
    } else {
        1 + (cpus / 4).clamp(2, 16)
    }
}

impl Seat {
    async fn run(mut self) {
        let shared = self.shared;
        let persisters = self.start.persisters.clone();
        let core = ClientCore::new(Arc::clone(&shared), self.start);
        core.start(self.inbox);
        let replica = self.replica.map(|seat| {
            let replica = ReplicaCore::new(
                Arc::clone(&shared),
                seat.replica,
                seat.view,
                seat.links,
                seat.snapshots,
            );
            core.share_executor(&replica);
            ReplicaCore::attach(&replica, seat.peer_listeners);
            ReplicaCore::start(&replica, seat.inbox);
            replica
        });
        if self.number == 0 {
            rt::spawn_local(crate::announce::run(std::rc::Rc::clone(&core)));
            rt::spawn_local(compactor::run(std::rc::Rc::clone(&core)));
            rt::spawn_local(crate::quota::run(std::rc::Rc::clone(&core)));
            rt::spawn_local(crate::integrity::run(std::rc::Rc::clone(&core)));
            rt::spawn_local(crate::prefixes::run(std::rc::Rc::clone(&core)));
        }
        let shutdown = rt::Shutdown::new();
        let latch = shutdown.clone();
        rt::spawn_local(async move {
            let mut told = Vec::new();
            // An ended sender is as good as a word.
            let _ = self.stop.take(&mut told).await;
            latch.fire();
        });
        let service = NodeService::new(core, persisters);
        http::serve(self.door, service, http_options(&shared), shutdown).await;
        if let Some(replica) = replica {
            replica.borrow_mut().detach();
        }
    }
}

fn http_options(shared: &Shared) -> http::Options {
    let config = &shared.config;
    http::Options {
        tls: Some(Arc::clone(&shared.tls.client)),
        max_concurrent_streams: config.limits.concurrent_streams_max,
        message_bytes_max: config.limits.request_bytes_max + (512 << 10),
        keepalive_min_time: config.keepalive.min_time,
        keepalive_interval: config.keepalive.interval.unwrap_or_default(),
        keepalive_timeout: config.keepalive.timeout,
        ..http::Options::default()
    }
}
