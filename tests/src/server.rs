//! A server process under test: start, wait until it serves, stop, kill, restart on the same data.
//!
//! Invariants: a server never outlives the test process (parent-death signal, so even a killed test run
//! leaves nothing behind); signals go to our own child by pid; every wait has a limit; what the server
//! printed is shown when the test that used it fails.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{build, http};

/// How long a start may take before the test gives up; generous because debug builds share two cores.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The same for a member of a cluster: several of them begin at once.
const MEMBER_START_LIMIT: Duration = Duration::from_secs(90);
/// How long a server may take to leave after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What a server prints when it serves; process supervisors wait for it too.
const READY: &str = "ready to serve client requests";

/// What is under test. Expectations that depend on the release ask here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kvnode,
    Etcd { minor: u32 },
}

impl Kind {
    /// True for ours, and for an etcd of at least 3.`minor`.
    pub fn from_3(self, minor: u32) -> bool {
        match self {
            Kind::Kvnode => true,
            Kind::Etcd { minor: have } => have >= minor,
        }
    }

    pub fn is_kvnode(self) -> bool {
        self == Kind::Kvnode
    }

    /// KV.RangeStream exists: etcd from 3.7 on, and ours.
    pub fn has_range_stream(self) -> bool {
        self.from_3(7)
    }

    /// `keys_only` answers still carry the lease: etcd up to 3.6, and ours.
    pub fn keys_only_keeps_lease(self) -> bool {
        self.is_kvnode() || !self.from_3(7)
    }
}

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    arguments: Vec<String>,
    fsync: bool,
    data_dir: Option<PathBuf>,
    client_port: Option<u16>,
    member: Option<Member>,
    announced_peer_port: Option<u16>,
    tls_clients: bool,
    tls_peers: bool,
}

/// A server's place in a cluster.
#[derive(Clone, Debug)]
struct Member {
    name: String,
    peer_port: u16,
    initial_cluster: String,
}

impl Options {
    /// One more command-line argument, as it stands.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Durability is the point of this test: writes are synced.
    pub fn fsync(mut self) -> Self {
        self.fsync = true;
        self
    }

    /// This data directory instead of a new temporary one.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// This client port instead of a free one.
    pub fn client_port(mut self, port: u16) -> Self {
        self.client_port = Some(port);
        self
    }

    /// Clients are served in TLS: needs the flags that name the certificate. Health is then asked for on a plain
    /// listener of its own.
    pub fn tls_clients(mut self) -> Self {
        self.tls_clients = true;
        self
    }

    /// Of the members' urls.
    pub fn peer_scheme(&self) -> &'static str {
        scheme(self.tls_peers)
    }

    /// Members talk in TLS.
    pub fn tls_peers(mut self) -> Self {
        self.tls_peers = true;
        self
    }

    /// Several more command-line arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = String>) -> Self {
        self.arguments.extend(arguments);
        self
    }

    /// A member of this name, with this peer port, of a cluster founded as `--initial-cluster` says; without that flag if
    /// it is empty.
    pub fn member(
        mut self,
        name: impl Into<String>,
        peer_port: u16,
        initial_cluster: impl Into<String>,
    ) -> Self {
        self.member = Some(Member {
            name: name.into(),
            peer_port,
            initial_cluster: initial_cluster.into(),
        });
        self
    }

    /// What it says of its peer port is this one, wherever it listens itself: something lies in between.
    pub fn announce_peer_port(mut self, port: u16) -> Self {
        self.announced_peer_port = Some(port);
        self
    }

    /// Periodic watch progress every so many milliseconds (the flag was renamed in 3.6).
    pub fn watch_progress_every(self, milliseconds: u32) -> Self {
        let name = match build::subject().kind {
            Kind::Etcd { minor } if minor < 6 => "--experimental-watch-progress-notify-interval",
            _ => "--watch-progress-notify-interval",
        };
        self.arg(format!("{name}={milliseconds}ms"))
    }
}

/// A start that did not come to serving.
#[derive(Debug)]
pub struct StartFailure {
    /// None: it neither served nor ended within the limit (and was killed).
    pub status: Option<ExitStatus>,
    pub output: String,
    pub after: Duration,
}

/// A running (or stopped, restartable) server.
pub struct Server {
    child: Option<Child>,
    /// Bytes of output of its earlier starts.
    output_before: usize,
    options: Options,
    client: SocketAddr,
    peer: SocketAddr,
    /// Where health is asked for.
    plain: SocketAddr,
    home: PathBuf,
    data_dir: PathBuf,
    log: PathBuf,
    keep_home: bool,
}

impl Server {
    /// Starts a server and waits until it is healthy. Panics with its output if it does not get there.
    pub fn start(options: Options) -> Server {
        let mut last = None;
        // Another process may take a port between our probe and the server's bind.
        for _ in 0..3 {
            match Server::try_start(options.clone()) {
                Ok(server) => return server,
                Err(failure) if failure.output.contains("address already in use") => {
                    last = Some(failure);
                }
                Err(failure) => panic!("{}", describe(&failure)),
            }
        }
        panic!("{}", describe(&last.expect("the loop ran")));
    }

    /// As [`Server::start`], but a server that refuses to serve is an answer, not a failure.
    pub fn try_start(options: Options) -> Result<Server, StartFailure> {
        let mut server = Server::prepare(options);
        server.launch()?;
        Ok(server)
    }

    /// Starts a server and does not wait: members of a cluster need each other to serve.
    pub fn begin(options: Options) -> Server {
        let mut server = Server::prepare(options);
        server.begin_again();
        server
    }

    /// As [`Server::restart`] without the wait.
    pub fn begin_again(&mut self) {
        assert!(self.child.is_none(), "still running");
        let output_before = self.output().len();
        let child = self.spawn();
        self.child = Some(child);
        self.output_before = output_before;
    }

    /// Waits until a server that was begun is healthy. Panics with its output if it does not get there.
    pub fn wait_until_serving(&mut self) {
        let child = self.child.take().expect("it was begun");
        if let Err(failure) = self.wait_for(child, Instant::now()) {
            panic!("{}", describe(&failure));
        }
    }

    fn prepare(options: Options) -> Server {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let home = build::scratch().join(format!("run-{run}"));
        std::fs::create_dir_all(&home).expect("scratch is writable");
        let client_port = options.client_port.unwrap_or_else(free_port);
        let member = options.member.as_ref();
        let peer_port = member.map_or_else(free_port, |member| member.peer_port);
        Server {
            child: None,
            output_before: 0,
            client: SocketAddr::from((Ipv4Addr::LOCALHOST, client_port)),
            plain: SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                match options.tls_clients {
                    true => free_port(),
                    false => client_port,
                },
            )),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, peer_port)),
            data_dir: options
                .data_dir
                .clone()
                .unwrap_or_else(|| home.join("data")),
            log: home.join("output.txt"),
            home,
            options,
            keep_home: false,
        }
    }

    /// Starts a stopped or killed server again on the same data and ports; waits until it is healthy.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "still running");
        if let Err(failure) = self.launch() {
            panic!("{}", describe(&failure));
        }
    }

    /// As [`Server::restart`] for starts that may be refused.
    pub fn try_restart(&mut self) -> Result<(), StartFailure> {
        assert!(self.child.is_none(), "still running");
        self.launch()
    }

    /// How it was started.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Another peer port for the next [`Server::restart`].
    pub fn move_peer_port(&mut self, port: u16) {
        self.peer.set_port(port);
    }

    /// Other options for the next [`Server::restart`]; ports and data stay.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// SIGTERM, then waits; panics when the server does not leave in time.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let mut child = self.child.take().expect("signal() checked that it runs");
        match wait(&mut child, STOP_LIMIT) {
            Some(status) => status,
            None => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the server did not leave within {STOP_LIMIT:?} after SIGTERM");
            }
        }
    }

    /// SIGKILL: the process is gone when this returns; nothing of it had a chance to tidy up.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be waited for");
    }

    /// Sends a signal to the server process.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.raw_pid(), signal).expect("our own child can be signalled");
    }

    /// The exit status if the server has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self
            .child
            .as_mut()?
            .try_wait()
            .expect("our own child can be asked");
        if status.is_some() {
            self.child = None;
        }
        status
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    pub fn kind(&self) -> Kind {
        build::subject().kind
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// Where metrics and health are served in the clear.
    pub fn plain_address(&self) -> SocketAddr {
        self.plain
    }

    /// `http://host:port` of the client side, or `https`.
    pub fn url(&self) -> String {
        format!("{}://{}", scheme(self.options.tls_clients), self.client)
    }

    pub fn peer_url(&self) -> String {
        format!("{}://{}", scheme(self.options.tls_peers), self.peer)
    }

    /// What other members are told; differs from [`Server::peer_url`] where something lies in between.
    pub fn announced_peer_url(&self) -> String {
        match self.options.announced_peer_port {
            Some(port) => format!("{}://127.0.0.1:{port}", scheme(self.options.tls_peers)),
            None => self.peer_url(),
        }
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A directory of this server's own for whatever a test wants to leave beside it.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Everything the server printed so far, over all its starts.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Anonymous resident memory in bytes (file-backed pages are the kernel's cache, not a leak).
    pub fn anonymous_memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("a running child has /proc/<pid>/status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|rest| {
            rest.trim()
                .trim_end_matches(" kB")
                .trim()
                .parse::<u64>()
                .ok()
        });
        kib.expect("RssAnon is listed in kB") * 1024
    }

    /// Prints the end of the output; for the test that fails.
    pub fn print_output(&self) {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let tail = &lines[lines.len().saturating_sub(60)..];
        println!(
            "--- the server's output, last {} of {} lines ---",
            tail.len(),
            lines.len()
        );
        for line in tail {
            println!("{}", line.chars().take(400).collect::<String>());
        }
        println!("--- end of output; data: {} ---", self.data_dir.display());
    }

    /// The data directory and output stay after the test (for a failure worth looking at).
    pub fn keep(&mut self) {
        self.keep_home = true;
    }

    fn raw_pid(&self) -> Pid {
        let id = self.child.as_ref().expect("the server runs").id();
        Pid::from_raw(id.try_into().expect("pids are small")).expect("pids are not zero")
    }

    fn launch(&mut self) -> Result<(), StartFailure> {
        // Found, and perhaps built, before the clock of the start runs.
        build::subject();
        let begun = Instant::now();
        self.output_before = self.output().len();
        let child = self.spawn();
        self.wait_for(child, begun)
    }

    fn spawn(&self) -> Child {
        let subject = build::subject();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("scratch");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(&subject.path);
        let (name, initial_cluster) = match &self.options.member {
            Some(member) => (member.name.as_str(), member.initial_cluster.clone()),
            None => ("test", format!("test={}", self.peer_url())),
        };
        command
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", self.data_dir.display()))
            .arg(format!("--listen-client-urls={}", self.url()))
            .arg(format!("--advertise-client-urls={}", self.url()))
            .arg(format!("--listen-peer-urls={}", self.peer_url()))
            .arg(format!(
                "--initial-advertise-peer-urls={}",
                self.announced_peer_url()
            ))
            .args(&self.options.arguments);
        // Founders that are found in another way are listed nowhere.
        if !initial_cluster.is_empty() {
            command.arg(format!("--initial-cluster={initial_cluster}"));
        }
        if self.options.tls_clients {
            command.arg(format!("--listen-metrics-urls=http://{}", self.plain));
        }
        if !self.options.fsync {
            command.arg("--unsafe-no-fsync");
        }
        for (name, _) in std::env::vars_os() {
            // Configuration of the caller's own servers must not leak into ours.
            let text = name.to_string_lossy();
            if text.starts_with("ETCD") || text.starts_with("KVNODE_") {
                command.env_remove(&name);
            }
        }
        command.current_dir(&self.home);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be cloned"));
        command.stderr(log);
        spawn(command)
    }

    fn wait_for(&mut self, mut child: Child, begun: Instant) -> Result<(), StartFailure> {
        loop {
            if let Some(status) = child.try_wait().expect("our own child can be asked") {
                return Err(self.failure(Some(status), begun));
            }
            // Its own word first: another process may be answering on a port it failed to get.
            let output = self.output();
            if output
                .get(self.output_before..)
                .is_some_and(|output| output.contains(READY))
                && http::get(self.plain, "/health").is_ok_and(|answer| serves(&answer))
            {
                break;
            }
            let limit = match self.options.member {
                Some(_) => MEMBER_START_LIMIT,
                None => START_LIMIT,
            };
            if begun.elapsed() > limit {
                let _ = child.kill();
                let _ = child.wait();
                return Err(self.failure(None, begun));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
        Ok(())
    }

    fn failure(&self, status: Option<ExitStatus>, begun: Instant) -> StartFailure {
        StartFailure {
            status,
            output: self.output(),
            after: begun.elapsed(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            self.print_output();
        } else if !self.keep_home {
            let _ = std::fs::remove_dir_all(&self.home);
        }
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// Healthy, or unhealthy only because an alarm from before the restart is still raised.
fn serves(health: &http::Answer) -> bool {
    health.status == 200 || (health.status == 503 && health.body.contains("ALARM"))
}

/// Waits for a child at most so long.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child can be asked") {
            return Some(status);
        }
        if begun.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port nobody listens on, outside the range outgoing connections are given.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(7919);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).expect("below 32000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1");
}

/// Spawns from a thread that lives as long as the process: the parent-death signal is tied to the
/// spawning thread, and test threads come and go.
fn spawn(command: Command) -> Child {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in queue {
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(jobs)
    });
    let (reply, answer) = mpsc::channel();
    let sent = spawner
        .lock()
        .expect("the lock holder cannot panic")
        .send((command, reply));
    sent.expect("the spawner never ends");
    let child = answer.recv().expect("the spawner answers");
    child.expect("setpriv (util-linux) and the server binary can be started")
}

fn describe(failure: &StartFailure) -> String {
    let ending = match failure.status {
        Some(status) => format!("ended with {status}"),
        None => "did not become healthy".to_owned(),
    };
    let lines: Vec<&str> = failure.output.lines().collect();
    let tail = lines[lines.len().saturating_sub(40)..].join("\n");
    format!(
        "the server {ending} after {:?}; its output ends:\n{tail}",
        failure.after
    )
}
