//! Real executors on loopback: each member is one, driven from the test's thread.

mod flow;
mod greeting;
mod snapshots;
mod speed;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvnode_replica::{Kind, Message};
use kvnode_wal::{Entry, EntryKind};

use super::greeting::{GREETING_BYTES, Hello, Reply};
use super::{Identity, Limits, PeerAddress, PeerEvent, Peers};
use crate::{mailbox, rt};

/// How long anything may take that must happen.
const LIMIT: Duration = Duration::from_secs(60);

const CLUSTER: u64 = 77;

pub(super) fn message(kind: Kind, from: u64, to: u64) -> Message {
    Message {
        kind,
        from,
        to,
        term: 1,
        log_term: 0,
        index: 0,
        commit: 0,
        commit_term: 0,
        hint: 0,
        rejected: false,
        by_transfer: false,
        context: Bytes::new(),
        membership: None,
        entries: Vec::new(),
    }
}

pub(super) fn heartbeat(from: u64, to: u64) -> Message {
    message(Kind::Heartbeat, from, to)
}

/// An append of one entry of `bytes` payload bytes behind `index`.
pub(super) fn append(from: u64, to: u64, index: u64, bytes: usize) -> Message {
    Message {
        index,
        log_term: 1,
        entries: vec![Entry {
            index: index + 1,
            term: 1,
            kind: EntryKind::Normal,
            payload: vec![7; bytes].into(),
        }],
        ..message(Kind::Append, from, to)
    }
}

/// A proposal sent on to the leader, known by its ticket.
fn forward(from: u64, to: u64, ticket: u64) -> Message {
    Message {
        kind: Kind::Forward,
        term: 0,
        log_term: 0,
        hint: ticket,
        ..append(from, to, 0, 100)
    }
}

/// Limits for tests: quick to try again, patient with a busy machine.
fn quick() -> Limits {
    Limits {
        back_off_min: Duration::from_millis(5),
        back_off_max: Duration::from_millis(50),
        ping_after: Duration::from_secs(5),
        dead_after: Duration::from_secs(30),
        greeting_limit: Duration::from_secs(30),
        snapshot_bytes_per_second: 0,
        ..Limits::default()
    }
}

fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn at(member: u64, addresses: &[SocketAddr]) -> PeerAddress {
    PeerAddress {
        member,
        urls: addresses.iter().map(|a| format!("http://{a}")).collect(),
    }
}

type Act = Box<dyn FnOnce(&Peers) + Send>;

/// A member with its executor.
struct Member {
    id: u64,
    acts: Option<mailbox::Sender<Act>>,
    events: mpsc::Receiver<PeerEvent>,
    executor: Option<rt::Executor<()>>,
}

impl Member {
    fn start(id: u64, incarnation: u64, listeners: Vec<TcpListener>, limits: Limits) -> Member {
        let identity = Identity {
            cluster: CLUSTER,
            member: id,
            incarnation,
        };
        let kicker = rt::Kicker::start().unwrap();
        let (acts, mut taken) = mailbox::by_admission::<Act>();
        let (sender, events) = mpsc::channel();
        let options = rt::Options::named(format!("m{id}"));
        let executor = rt::Executor::spawn(&options, &kicker, move || async move {
            let events = move |batch: Vec<PeerEvent>| {
                for event in batch {
                    // The test may have seen enough.
                    let _ = sender.send(event);
                }
            };
            let peers = Peers::start(identity, listeners, limits, events).unwrap();
            let mut batch = Vec::new();
            while taken.take(&mut batch).await.is_ok() {
                batch.drain(..).for_each(|act| act(&peers));
            }
            peers.stop();
        })
        .unwrap();
        Member {
            id,
            acts: Some(acts),
            events,
            executor: Some(executor),
        }
    }

    /// Runs `act` on the member's executor and returns what it returns.
    fn run<T: Send + 'static>(&self, act: impl FnOnce(&Peers) -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let act = move |peers: &Peers| sender.send(act(peers)).unwrap();
        let acts = self.acts.as_ref().unwrap();
        assert!(acts.push(Box::new(act)).is_ok(), "the executor is gone");
        receiver.recv_timeout(LIMIT).expect("the executor answers")
    }

    fn know(&self, members: &[PeerAddress]) {
        let members = members.to_vec();
        self.run(move |peers| peers.set_members(&members, &[]));
    }

    fn send(&self, messages: Vec<Message>) {
        self.run(move |peers| {
            messages.into_iter().for_each(|m| peers.send(m));
            peers.flush();
        });
    }

    /// The next event that `pick` wants; the others are dropped.
    fn wait<T>(&self, what: &str, mut pick: impl FnMut(PeerEvent) -> Option<T>) -> T {
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left);
            let event = event.unwrap_or_else(|_| panic!("member {}: no {what}", self.id));
            if let Some(picked) = pick(event) {
                return picked;
            }
        }
    }

    fn wait_connected(&self, member: u64) {
        self.wait("connection", |event| {
            matches!(event, PeerEvent::Connected(m) if m == member).then_some(())
        });
    }

    fn wait_disconnected(&self, member: u64) {
        self.wait("end of the connection", |event| {
            matches!(event, PeerEvent::Disconnected(m) if m == member).then_some(())
        });
    }

    fn wait_message(&self) -> Message {
        self.wait("message", |event| match event {
            PeerEvent::Message(message) => Some(message),
            _ => None,
        })
    }

    fn stop(&mut self) {
        self.acts = None;
        if let Some(executor) = self.executor.take() {
            executor.join().unwrap();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Two members that know each other, connected both ways.
fn pair(limits: &Limits) -> (Member, Member) {
    let ((one, one_at), (two, two_at)) = (bind(), bind());
    let members = [at(1, &[one_at]), at(2, &[two_at])];
    let one = Member::start(1, 11, vec![one], limits.clone());
    let two = Member::start(2, 22, vec![two], limits.clone());
    one.know(&members);
    two.know(&members);
    one.wait_connected(2);
    two.wait_connected(1);
    (one, two)
}

/// Reads a hello and welcomes whoever it is as `us`.
fn welcome(mut socket: TcpStream, us: u64) -> TcpStream {
    let mut hello = [0; GREETING_BYTES];
    socket.read_exact(&mut hello).unwrap();
    let hello = Hello::decode(&hello).unwrap();
    let us = Identity {
        cluster: CLUSTER,
        member: us,
        incarnation: 5,
    };
    let reply = Reply::new(&us, &hello, Ok(()));
    socket.write_all(&reply.encode()).unwrap();
    socket
}

/// Waits until `done`.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < LIMIT, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A wire between two members that can be cut.
struct Proxy {
    address: SocketAddr,
    state: Arc<ProxyState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct ProxyState {
    stop: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    connections: AtomicU64,
    /// Bytes each further connection may carry before it is cut; none left: any number.
    budgets: Mutex<Vec<u64>>,
}

impl Proxy {
    fn to(target: SocketAddr, budgets: Vec<u64>) -> Proxy {
        let (listener, address) = bind();
        let state = Arc::new(ProxyState {
            budgets: Mutex::new(budgets),
            ..ProxyState::default()
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for inward in listener.incoming() {
                let inward = inward.unwrap();
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(outward) = TcpStream::connect(target) else {
                    continue;
                };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let budget = shared.budgets.lock().unwrap().pop().unwrap_or(u64::MAX);
                let mut open = shared.open.lock().unwrap();
                for (mut from, mut to, budget) in [
                    (
                        inward.try_clone().unwrap(),
                        outward.try_clone().unwrap(),
                        budget,
                    ),
                    (
                        outward.try_clone().unwrap(),
                        inward.try_clone().unwrap(),
                        u64::MAX,
                    ),
                ] {
                    open.push(from.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut left = budget;
                        let mut buffer = [0; 4096];
                        while left > 0 {
                            let room = buffer.len().min(usize::try_from(left).unwrap_or(4096));
                            match from.read(&mut buffer[..room]) {
                                Ok(read @ 1..) if to.write_all(&buffer[..read]).is_ok() => {
                                    left -= read as u64;
                                }
                                _ => break,
                            }
                        }
                        let _ = from.shutdown(Shutdown::Both);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Proxy {
            address,
            state,
            thread: Some(thread),
        }
    }

    fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Cuts all connections there are.
    fn cut(&self) {
        for socket in self.state.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
