//! Listening sockets, and the one thread that accepts from all of them.
//!
//! Sockets are ours from the start: SO_REUSEADDR, so that a restart need not wait; never
//! SO_REUSEPORT unless asked for, under which a second process could share the port unnoticed and
//! connections would be dealt by hash. Accepting is a plain thread in poll(2): it goes on while an executor is busy,
//! and an accept is never cancelled. It deals each connection to the executor with the fewest.
//!
//! Limits: at [`Acceptor::start`]'s connection cap nothing is accepted, so clients wait in the
//! kernel's queue (backlog) until a connection ends. Without file descriptors the thread backs off,
//! after closing the connection at the head of the queue by means of a descriptor kept for that:
//! a clear refusal instead of silence.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::face::{Peer, Role};
use crate::mailbox::{self, Receiver, Sender};
use crate::rt;

/// Connections the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 1024;

/// TCP keepalive: first probe after this silence,
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
/// further ones at this distance,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and the connection is dead after this many without answer.
const KEEPALIVE_PROBES: u32 = 3;

/// How long to leave the listeners alone when descriptors run out; doubled each time.
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// How often to look whether a connection has ended, at the cap.
const CAP_PAUSE: Duration = Duration::from_millis(20);

/// Least time between two log lines about the same trouble.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    pub address: Address,
    #[source]
    pub source: io::Error,
}

/// A listening socket.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    address: Address,
    role: Role,
    encrypted: bool,
}

impl Bound {
    /// Where it listens; with the port the kernel chose if port 0 was asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// For whom it listens, and whether in TLS. At first for clients, in the clear.
    pub fn serving(mut self, role: Role, encrypted: bool) -> Bound {
        self.role = role;
        self.encrypted = encrypted;
        self
    }

    fn new(socket: Socket, address: Address) -> Bound {
        Bound {
            socket,
            address,
            role: Role::Clients,
            encrypted: false,
        }
    }

    /// Takes over a TCP socket that listens already.
    ///
    /// # Errors
    /// It has no address or cannot be made non-blocking.
    pub fn from_listener(listener: TcpListener) -> io::Result<Bound> {
        let address = Address::Tcp(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        Ok(Bound::new(listener.into(), address))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // Nobody can connect to it any more; if somebody removed it, all the better.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Longest path of a unix socket: the kernel's address holds this and a zero.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// As [`bind`], for a unix socket that only its owner may connect to: its file has mode 0600 from the first moment.
///
/// # Errors
/// As [`bind`].
pub fn bind_private(path: &Path) -> Result<Bound, ListenError> {
    bind_unix(path, Some(Mode::RUSR | Mode::WUSR)).map_err(|source| ListenError {
        address: Address::Unix(path.to_owned()),
        source,
    })
}

/// Opens a listening socket. A unix socket's file that nobody listens on any more is replaced.
///
/// # Errors
/// [`ListenError`], such as "address already in use".
pub fn bind(address: &Address) -> Result<Bound, ListenError> {
    bind_as(address, false)
}

/// As [`bind`], on a TCP port that other processes that ask for it as well may listen on.
///
/// # Errors
/// As of [`bind`].
pub fn bind_sharing(address: &Address) -> Result<Bound, ListenError> {
    bind_as(address, true)
}

fn bind_as(address: &Address, share: bool) -> Result<Bound, ListenError> {
    let bound = match address {
        Address::Tcp(tcp) => bind_tcp(*tcp, share),
        Address::Unix(path) => bind_unix(path, None),
    };
    bound.map_err(|source| ListenError {
        address: address.clone(),
        source,
    })
}

fn bind_tcp(address: SocketAddr, share: bool) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `[::]` means every address of the machine, as it does for other servers of this kind.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let actual = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(Bound::new(socket, Address::Tcp(actual)))
}

fn bind_unix(path: &Path, mode: Option<Mode>) -> io::Result<Bound> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Some(mode) = mode {
        // A socket's own mode becomes that of the file that bind makes, so there is no moment with a wider one.
        rustix::fs::fchmod(&socket, mode)?;
    }
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(error);
        }
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        match probe.connect(&address) {
            Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return Err(error),
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Bound::new(socket, Address::Unix(path.to_owned())))
}

/// A connection on its way to its executor.
#[derive(Debug)]
pub struct Arrival {
    socket: Socket,
    peer: Peer,
    permit: Permit,
}

impl Arrival {
    pub(crate) fn into_parts(self) -> (Socket, Peer, Permit) {
        (self.socket, self.peer, self.permit)
    }
}

/// Counts one open connection until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    load: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
}

impl Permit {
    fn new(load: &Arc<AtomicUsize>, total: &Arc<AtomicUsize>) -> Permit {
        load.fetch_add(1, Ordering::Relaxed);
        total.fetch_add(1, Ordering::Relaxed);
        Permit {
            load: Arc::clone(load),
            total: Arc::clone(total),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The acceptor's way to one executor.
#[derive(Clone, Debug)]
pub struct Way {
    sender: Sender<Arrival>,
    load: Arc<AtomicUsize>,
    /// Connections the executor counts as having before it has any: more for one that does other
    /// work as well.
    handicap: usize,
}

/// Where an executor takes its connections from; see [`super::serve`].
#[derive(Debug)]
pub struct Door {
    receiver: Receiver<Arrival>,
}

impl Door {
    /// Waits for connections; `false` when there will be no more or `shutdown` is fired.
    pub(crate) async fn take(&mut self, into: &mut Vec<Arrival>, shutdown: &rt::Shutdown) -> bool {
        if shutdown.is_fired() {
            return false;
        }
        matches!(
            rt::unless(shutdown, self.receiver.take(into)).await,
            Some(Ok(()))
        )
    }
}

/// A way for an executor's connections. What is under way is bounded by the connection cap.
pub fn door(handicap: usize) -> (Way, Door) {
    let (sender, receiver) = mailbox::by_admission();
    let way = Way {
        sender,
        load: Arc::new(AtomicUsize::new(0)),
        handicap,
    };
    (way, Door { receiver })
}

/// The accepting thread.
#[derive(Debug)]
pub struct Acceptor {
    thread: JoinHandle<()>,
    waker: UnixStream,
    total: Arc<AtomicUsize>,
}

impl Acceptor {
    /// Starts to accept from `listeners` and to deal to `ways`, up to `connections_max` at a time.
    ///
    /// # Errors
    /// No thread or descriptor to be had.
    ///
    /// # Panics
    /// If `ways` is empty.
    pub fn start(
        listeners: Vec<Bound>,
        ways: Vec<Way>,
        connections_max: usize,
    ) -> io::Result<Acceptor> {
        Acceptor::start_counting(listeners, ways, connections_max, Box::new(|| ()))
    }

    /// As [`Acceptor::start`]; `full` is called each time the last place is taken, and for each connection refused for
    /// want of a descriptor.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn start_counting(
        listeners: Vec<Bound>,
        ways: Vec<Way>,
        connections_max: usize,
        full: Box<dyn Fn() + Send>,
    ) -> io::Result<Acceptor> {
        assert!(!ways.is_empty(), "somebody must take the connections");
        let (waker, woken) = UnixStream::pair()?;
        let total = Arc::new(AtomicUsize::new(0));
        let work = Work {
            listeners,
            ways,
            connections_max: connections_max.max(1),
            total: Arc::clone(&total),
            woken,
            reserve: Some(reserve()?),
            serial: 0,
            back_off: BACK_OFF_MIN,
            full,
            was_at_cap: false,
            cap_logged: None,
            trouble_logged: None,
        };
        let thread = std::thread::Builder::new()
            .name("acceptor".to_owned())
            .spawn(move || work.run())?;
        Ok(Acceptor {
            thread,
            waker,
            total,
        })
    }

    /// Connections that are open now, over all executors.
    pub fn connections(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// The count behind [`Acceptor::connections`], for whoever wants to look at it later.
    pub fn counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.total)
    }

    /// Closes the listening sockets. Connections already accepted reach their executors.
    pub fn stop(mut self) {
        // Fails only if the thread is gone.
        let _ = self.waker.write_all(&[1]);
        if self.thread.join().is_err() {
            log::error!("the acceptor thread had panicked");
        }
    }
}

fn reserve() -> io::Result<File> {
    File::open("/dev/null")
}

struct Work {
    listeners: Vec<Bound>,
    ways: Vec<Way>,
    connections_max: usize,
    total: Arc<AtomicUsize>,
    woken: UnixStream,
    /// Given up for a moment to refuse a connection when there is no other descriptor.
    reserve: Option<File>,
    serial: u64,
    back_off: Duration,
    full: Box<dyn Fn() + Send>,
    was_at_cap: bool,
    cap_logged: Option<Instant>,
    trouble_logged: Option<Instant>,
}

impl Work {
    fn run(mut self) {
        loop {
            let at_cap = self.total.load(Ordering::Relaxed) >= self.connections_max;
            if at_cap && !std::mem::replace(&mut self.was_at_cap, at_cap) {
                (self.full)();
            }
            self.was_at_cap = at_cap;
            if at_cap && due(&mut self.cap_logged) {
                log::warn!(
                    "{} connections are open, which is the limit; further clients wait",
                    self.connections_max
                );
            }
            let (stop, ready) = if at_cap {
                (self.wait_stop(CAP_PAUSE), Vec::new())
            } else {
                let mut ready = vec![false; self.listeners.len()];
                (self.wait_ready(&mut ready), ready)
            };
            if stop {
                return;
            }
            for (index, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
                if let Some(pause) = self.accept_from(index)
                    && self.wait_stop(pause)
                {
                    return;
                }
            }
        }
    }

    /// Waits for any listener; returns whether to stop.
    fn wait_ready(&self, ready: &mut [bool]) -> bool {
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        for listener in &self.listeners {
            fds.push(PollFd::from_borrowed_fd(
                listener.socket.as_fd(),
                PollFlags::IN,
            ));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                // Nothing we could have done wrong here ends by itself.
                log::error!("acceptor: poll failed: {error}");
                std::thread::sleep(BACK_OFF_MAX);
            }
        }
        for (ready, fd) in ready.iter_mut().zip(&fds[1..]) {
            *ready = !fd.revents().is_empty();
        }
        !fds[0].revents().is_empty()
    }

    /// Waits for the stop alone, for this long; returns whether to stop.
    fn wait_stop(&self, limit: Duration) -> bool {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.woken, PollFlags::IN)];
        // Interrupted or failed counts as waited.
        let _ = poll(&mut fds, Some(&limit));
        !fds[0].revents().is_empty()
    }

    /// Accepts what waits at one listener; returns how long to leave the listeners alone if there
    /// was trouble.
    fn accept_from(&mut self, index: usize) -> Option<Duration> {
        while self.total.load(Ordering::Relaxed) < self.connections_max {
            let listener = self.listeners.get(index)?;
            match listener.socket.accept() {
                Ok((socket, address)) => {
                    self.back_off = BACK_OFF_MIN;
                    self.deal(index, socket, &address);
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN | Errno::INTR) => return None,
                    // This one connection failed before we took it.
                    Some(Errno::CONNABORTED | Errno::PROTO | Errno::PERM | Errno::NETDOWN) => {}
                    errno => {
                        if matches!(errno, Some(Errno::MFILE | Errno::NFILE)) {
                            (self.full)();
                            self.refuse_one(index);
                        }
                        if due(&mut self.trouble_logged) {
                            log::error!("cannot accept connections: {error}");
                        }
                        let pause = self.back_off;
                        self.back_off = (pause * 2).min(BACK_OFF_MAX);
                        return Some(pause);
                    }
                },
            }
        }
        None
    }

    fn deal(&mut self, listener: usize, socket: Socket, address: &SockAddr) {
        let address = address.as_socket();
        if address.is_some() && set_options(&socket).is_err() {
            // The peer has gone already.
            return;
        }
        let Some(bound) = self.listeners.get(listener) else {
            return;
        };
        self.serial += 1;
        let peer = Peer {
            address,
            role: bound.role,
            encrypted: bound.encrypted,
            holder: None,
            serial: self.serial,
        };
        let (mut socket, mut peer) = (socket, peer);
        // Not more tries than executors: one that is gone is not asked again.
        while let Some(way) = self
            .ways
            .iter()
            .filter(|way| !way.sender.is_closed())
            .min_by_key(|way| way.load.load(Ordering::Relaxed) + way.handicap)
        {
            let permit = Permit::new(&way.load, &self.total);
            let arrival = Arrival {
                socket,
                peer,
                permit,
            };
            match way.sender.push(arrival) {
                Ok(()) => return,
                Err((back, _)) => (socket, peer) = (back.socket, back.peer),
            }
        }
    }

    /// Takes one connection and closes it, with the descriptor kept for that.
    fn refuse_one(&mut self, index: usize) {
        drop(self.reserve.take());
        if let Some(listener) = self.listeners.get(index) {
            drop(listener.socket.accept());
        }
        self.reserve = reserve().ok();
    }
}

fn set_options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// Whether it is time for another log line.
fn due(last: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    let due = last.is_none_or(|last| now - last >= LOG_EVERY);
    if due {
        *last = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_private_socket_is_its_owners_alone_and_replaces_a_stale_one() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bound = bind_private(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = bind_private(&path).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        drop(bound);
        assert!(!path.exists());
        // One left behind by a killed process: nobody listens.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = bind_private(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn connections_go_to_the_executor_with_the_fewest() {
        let bound = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let Address::Tcp(address) = *bound.address() else {
            unreachable!("it was bound as TCP")
        };
        let (ways, mut doors): (Vec<_>, Vec<_>) = [0, 3, 0].into_iter().map(door).unzip();
        let acceptor = Acceptor::start(vec![bound], ways, 100).unwrap();
        let clients: Vec<_> = (0..9)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        while acceptor.connections() < clients.len() {
            std::thread::yield_now();
        }
        let mut taken: Vec<Vec<Arrival>> = vec![Vec::new(), Vec::new(), Vec::new()];
        let mut wait = |counts: [usize; 3]| {
            while taken.iter().map(Vec::len).ne(counts) {
                for (door, taken) in doors.iter_mut().zip(&mut taken) {
                    let mut more = Vec::new();
                    door.receiver.try_take(&mut more);
                    taken.append(&mut more);
                }
                assert!(taken.iter().map(Vec::len).sum::<usize>() <= counts.iter().sum());
                std::thread::yield_now();
            }
            if counts == [4, 1, 4] {
                // One of them loses its connections and gets the next.
                taken[0].clear();
            }
        };
        wait([4, 1, 4]);
        let more: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        wait([3, 1, 4]);
        drop((clients, more));
        acceptor.stop();
        assert!(TcpStream::connect(address).is_err());
    }
}
