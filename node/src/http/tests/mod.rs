//! Real sockets, a real client, and a service that does what the tests ask.

mod client;
mod connections;
mod plain;
mod raw;
mod streams;
mod unary;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use kvnode_api::service::Method;
use kvnode_api::status::{Code, Status};

use super::*;
use crate::mailbox::{self, Sender};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a port of its own, with one executor.
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    acceptor: Option<Acceptor>,
    stop: Option<Sender<()>>,
    executor: Option<rt::Executor<()>>,
}

/// What the service has seen.
#[derive(Debug, Default)]
struct Seen {
    entered: AtomicUsize,
    dropped: AtomicUsize,
    sent_bytes: AtomicUsize,
    closed_elsewhere: AtomicUsize,
    turned_away: Mutex<Vec<TurnedAway>>,
    confirmations: AtomicUsize,
    confirmed: AtomicBool,
    /// How often all places for connections were taken.
    full: AtomicUsize,
}

impl Seen {
    fn turned_away(&self) -> Vec<TurnedAway> {
        self.turned_away.lock().unwrap().clone()
    }
}

impl Server {
    fn start(options: Options) -> Server {
        Server::start_at(
            &Address::Tcp("127.0.0.1:0".parse().unwrap()),
            options,
            10_000,
        )
    }

    fn start_at(address: &Address, options: Options, connections_max: usize) -> Server {
        let bound = bind(address).unwrap();
        let address = match bound.address() {
            Address::Tcp(address) => *address,
            Address::Unix(_) => "127.0.0.1:0".parse().unwrap(),
        };
        let seen = Arc::new(Seen::default());
        let (way, door) = door(0);
        let (stop, mut stopped) = mailbox::bounded::<()>(1);
        let kicker = rt::Kicker::start().unwrap();
        let theirs = Arc::clone(&seen);
        let executor = rt::Executor::spawn(&rt::Options::named("net"), &kicker, || async move {
            let shutdown = rt::Shutdown::new();
            let latch = shutdown.clone();
            rt::spawn_local(async move {
                let _ = stopped.take(&mut Vec::new()).await;
                latch.fire();
            });
            serve(door, Rc::new(Echo { seen: theirs }), options, shutdown).await;
        })
        .unwrap();
        let counting = Arc::clone(&seen);
        let full = Box::new(move || {
            counting.full.fetch_add(1, Ordering::SeqCst);
        });
        let acceptor = Acceptor::start_counting(vec![bound], vec![way], connections_max, full);
        let acceptor = acceptor.unwrap();
        Server {
            address,
            seen,
            acceptor: Some(acceptor),
            stop: Some(stop),
            executor: Some(executor),
        }
    }

    /// Begins the orderly end; [`Server::join`] waits for it.
    fn shut_down(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        self.stop = None;
    }

    fn join(&mut self) {
        self.shut_down();
        if let Some(executor) = self.executor.take() {
            executor.join().unwrap();
        }
    }

    fn connections(&self) -> usize {
        self.acceptor.as_ref().map_or(0, Acceptor::connections)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.join();
        }
    }
}

/// Waits until `condition` holds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

/// The service: which method does what is written at each.
struct Echo {
    seen: Arc<Seen>,
}

struct Guard(Arc<Seen>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Echo {
    fn enter(&self) -> Guard {
        self.seen.entered.fetch_add(1, Ordering::SeqCst);
        Guard(Arc::clone(&self.seen))
    }
}

fn number(message: &[u8]) -> usize {
    message.iter().fold(0, |n, b| n << 8 | usize::from(*b))
}

impl Service for Echo {
    fn turned_away(&self, why: TurnedAway) {
        self.seen.turned_away.lock().unwrap().push(why);
    }

    type Begun = Option<Guard>;

    fn at_once(&self, call: &Call, _message: &Bytes) -> Glance<Option<Guard>> {
        match call.method {
            Method::Range | Method::LeaseGrant => Glance::Ready(None),
            Method::LeaseTimeToLive => Glance::Confirm(Some(self.enter())),
            Method::LeaseRevoke => Glance::Pending(Some(self.enter())),
            _ => Glance::Long,
        }
    }

    /// When the test lets it.
    async fn confirm(self: Rc<Self>) -> Result<(), Status> {
        self.seen.confirmations.fetch_add(1, Ordering::SeqCst);
        while !self.seen.confirmed.load(Ordering::SeqCst) {
            rt::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// An empty message has to wait for more.
    fn confirmed(
        self: Rc<Self>,
        call: Call,
        message: Bytes,
        begun: Option<Guard>,
        _result: &Result<(), Status>,
    ) -> Confirmed {
        // As many zero bytes as the message says.
        if call.method == Method::LeaseGrant {
            return Confirmed::Answer(Ok(frame(&vec![0; number(&message)])));
        }
        if message.is_empty() && begun.is_some() {
            return Confirmed::Long(Box::pin(async move {
                let _begun = begun;
                rt::yield_now().await;
                Ok(frame(b"long"))
            }));
        }
        Confirmed::Answer(Ok(frame(&message)))
    }

    /// When the test lets it.
    fn poll_begun(
        &self,
        _call: &Call,
        message: &Bytes,
        begun: &mut Option<Guard>,
        cx: &mut Context<'_>,
    ) -> Poll<Reply> {
        if !self.seen.confirmed.load(Ordering::SeqCst) {
            let waker = cx.waker().clone();
            rt::spawn_local(async move {
                rt::sleep(Duration::from_millis(5)).await;
                waker.wake();
            });
            return Poll::Pending;
        }
        *begun = None;
        Poll::Ready(Ok(frame(message)))
    }

    async fn unary(self: Rc<Self>, call: Call, message: Bytes) -> Reply {
        let _guard = self.enter();
        match call.method {
            Method::Put => {
                rt::yield_now().await;
                Ok(frame(&message))
            }
            // Never ends.
            Method::DeleteRange => std::future::pending().await,
            // Takes a while.
            Method::Txn => {
                rt::sleep(Duration::from_millis(100)).await;
                Ok(frame(&message))
            }
            // A text that needs encoding.
            Method::Compact => Err(Status::new(Code::OutOfRange, "50% is\ntoo much")),
            // Metadata comes back.
            Method::Status => Ok(frame(call.get("hasleader").unwrap_or(b"none"))),
            Method::Range | Method::LeaseGrant => Ok(frame(&message)),
            _ => Err(Status::unknown_method()),
        }
    }

    async fn stream(
        self: Rc<Self>,
        call: Call,
        mut requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        let _guard = self.enter();
        match call.method {
            // Echoes until the client half-closes.
            Method::Watch => {
                responses
                    .headers()
                    .map_err(|_| Status::context_canceled())?;
                while let Some(message) = requests.next().await? {
                    let sent = responses.send(frame(&message)).await;
                    sent.map_err(|_| Status::context_canceled())?;
                }
                Ok(())
            }
            // Sends 64 KiB messages, as many as the request says.
            Method::Snapshot => {
                let Some(request) = requests.next().await? else {
                    return Err(Status::missing_message());
                };
                let piece = frame(&vec![7; 64 << 10]);
                for _ in 0..number(&request) {
                    let sent = responses.send(piece.clone()).await;
                    sent.map_err(|_| Status::context_canceled())?;
                    self.seen
                        .sent_bytes
                        .fetch_add(piece.len(), Ordering::SeqCst);
                }
                Ok(())
            }
            // The sink lives in a task of its own; the handler waits for the client's end.
            Method::LeaseKeepAlive => {
                let seen = Arc::clone(&self.seen);
                rt::spawn_local(async move {
                    while responses.send(frame(&[1; 32 << 10])).await.is_ok() {
                        seen.sent_bytes.fetch_add(32 << 10, Ordering::SeqCst);
                    }
                    responses.closed().await;
                    seen.closed_elsewhere.fetch_add(1, Ordering::SeqCst);
                });
                while requests.next().await?.is_some() {}
                Ok(())
            }
            // Ends with an error after one message, or at once without a request.
            Method::Observe => {
                let first = requests.next().await?;
                if let Some(first) = first {
                    let _ = responses.send(frame(&first)).await;
                }
                responses.finish(Err(Status::election_no_leader())).await;
                Ok(())
            }
            _ => Err(Status::unknown_method()),
        }
    }

    async fn http(self: Rc<Self>, request: HttpRequest) -> HttpResponse {
        match request.path() {
            "/health" => ResponseBody::text(StatusCode::OK, "healthy"),
            "/query" => {
                let query = request.query().unwrap_or("").to_owned();
                ResponseBody::text(StatusCode::OK, query)
            }
            "/echo" => match request.body.bytes(1000, |bytes| bytes != 999).await {
                Ok(body) => ResponseBody::json(StatusCode::OK, body),
                Err(error) => ResponseBody::text(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
            },
            "/pieces" => {
                let pieces = futures_util::stream::iter(["one ", "two ", "three"]);
                let pieces =
                    futures_util::StreamExt::map(pieces, |p| Bytes::from_static(p.as_bytes()));
                http::Response::new(ResponseBody::Stream(Box::pin(pieces)))
            }
            _ => ResponseBody::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}
