//! Accepting an encrypted connection on an executor.
//!
//! The executor moves the bytes; what costs CPU (signing, verifying) runs on threads of its own, a whole record at a
//! time, so that neither a storm of handshakes nor one that drips its bytes keeps the open connections waiting.
//!
//! Bounds: [`HANDSHAKES_MAX`] at a time on an executor, further ones wait their turn within their own
//! [`HANDSHAKE_LIMIT`]; one record of at most 16 KiB is held of each.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::{CertificateError, InvalidMessage, ServerConfig, ServerConnection};

use super::address::fits_address;
use super::names::Names;
use super::session::{Pipe as _, Session};
use super::stream::{Polled, Stream};
use crate::mailbox;
use crate::peers::said::Seldom;
use crate::rt;

/// Time for a handshake, waiting for its turn included.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How long somebody who is refused gets to read why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Handshakes of one executor at a time.
const HANDSHAKES_MAX: usize = 256;

/// Handshakes that wait for a thread, over all executors: no more than are admitted.
const STEPS_MAX: usize = 64 * HANDSHAKES_MAX;

/// A record's head, and the longest record the protocol allows.
const HEAD_BYTES: usize = 5;
const RECORD_BYTES_MAX: usize = HEAD_BYTES + (16 << 10) + 2048;

/// The first byte of every handshake.
const HANDSHAKE_RECORD: u8 = 0x16;

thread_local! {
    static TURNS: Turns = const { Turns { taken: Cell::new(0), waiting: RefCell::new(Vec::new()) } };
    static SAID: Seldom = Seldom::default();
}

/// What a verified certificate says about who is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Empty if the certificate has none.
    pub common_name: String,
    /// In hex.
    pub serial: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// It only connected, as a health check or a scan does.
    #[error("it said nothing")]
    Left,
    #[error("it ended within the TLS handshake")]
    Torn,
    #[error("it was too slow: the TLS handshake was not done within {HANDSHAKE_LIMIT:?}")]
    Slow,
    #[error("it speaks plain HTTP to a TLS port: its url must begin with https://")]
    PlainHttp,
    #[error("it does not speak TLS (its first byte is {0:#04x}), and this port does")]
    NoTls(u8),
    #[error("it speaks TLS to a port that does not: its url must begin with http://")]
    TlsOnPlain,
    #[error("TLS: {}", told(.0))]
    Tls(rustls::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its certificate does not fit its address: {0}")]
    Address(String),
    #[error("this listener has no certificate yet")]
    NotReady,
}

/// The library's reasons in the operator's words.
fn told(error: &rustls::Error) -> String {
    use rustls::Error;
    match error {
        Error::NoCertificatesPresented => {
            "it has shown no client certificate, and one is required".to_owned()
        }
        Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => {
                "its client certificate is of no trusted authority".to_owned()
            }
            CertificateError::Revoked => "its client certificate is revoked".to_owned(),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its client certificate has expired".to_owned()
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "its certificate is not for clients (extended key usage clientAuth)".to_owned()
            }
            CertificateError::Other(other) => format!("its client certificate is refused: {other}"),
            other => format!("its client certificate is refused: {other:?}"),
        },
        Error::AlertReceived(alert) => {
            format!(
                "it refused this server, with the alert {alert:?}: it may not trust the certificate"
            )
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS".to_owned()
        }
        other => other.to_string(),
    }
}

impl HandshakeError {
    /// Tells the log, at most every ten seconds; who only looked is not worth a line.
    pub(crate) fn log(&self, port: &str, address: Option<SocketAddr>) {
        let address = address.map_or_else(|| "a unix socket".to_owned(), |one| one.to_string());
        if matches!(self, HandshakeError::Left) {
            log::debug!("{port}: connection from {address} closed: {self}");
            return;
        }
        if let Some(more) = SAID.with(Seldom::due) {
            log::warn!(
                "{port}: connection from {address} closed: {self} ({more} more since the last such line)"
            );
        }
    }
}

/// What TLS hears on a plain port: the alert "handshake failure".
pub(crate) const NOT_HERE: &[u8] = &[0x15, 3, 1, 0, 2, 2, 40];

/// What plain HTTP hears on a TLS port.
const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Does the server's part of a handshake, within [`HANDSHAKE_LIMIT`].
///
/// # Errors
/// Why there is no encrypted connection; the socket is closed then.
pub(crate) async fn accept(
    socket: rt::Stream,
    config: Option<Arc<ServerConfig>>,
) -> Result<Stream, HandshakeError> {
    let config = config.ok_or(HandshakeError::NotReady)?;
    let shaken = async {
        let _turn = Turn::take().await;
        shake(socket, config).await
    };
    rt::timeout(HANDSHAKE_LIMIT, shaken)
        .await
        .unwrap_or(Err(HandshakeError::Slow))
}

/// Who holds the certificate shown, if one was asked for and verified.
pub(crate) fn holder(stream: &Stream) -> Option<Holder> {
    let Stream::Tls(sealed) = stream else {
        return None;
    };
    let names = Names::read(sealed.session().holder()?).ok()?;
    Some(Holder {
        serial: names.serial_text(),
        common_name: names.common_name,
    })
}

/// Whether the caller's certificate, if it has shown one, fits the address it calls from. Asks the resolver, on a thread of
/// its own; bounded by whoever bounds the handshakes.
///
/// # Errors
/// It does not, or no thread is to be had.
pub(crate) async fn check_address(
    stream: &Stream,
    address: Option<SocketAddr>,
) -> Result<(), HandshakeError> {
    let (Stream::Tls(sealed), Some(address)) = (stream, address) else {
        return Ok(());
    };
    let Some(certificate) = sealed.session().holder().map(|one| one.to_vec()) else {
        return Ok(());
    };
    let (sender, mut receiver) = mailbox::bounded(1);
    std::thread::Builder::new()
        .name("peer-address".to_owned())
        .spawn(move || {
            // Nobody waits any more if the connection was given up.
            let _ = sender.push(fits_address(&certificate, address.ip()));
        })?;
    let mut verdict = Vec::new();
    // Closed without a result: the thread has panicked, which it reported itself.
    let _ = receiver.take(&mut verdict).await;
    match verdict.pop() {
        Some(Ok(())) => Ok(()),
        Some(Err(why)) => Err(HandshakeError::Address(why)),
        None => Err(HandshakeError::Address(
            "it could not be checked".to_owned(),
        )),
    }
}

async fn shake(
    mut socket: rt::Stream,
    config: Arc<ServerConfig>,
) -> Result<Stream, HandshakeError> {
    let connection = ServerConnection::new(config).map_err(HandshakeError::Tls)?;
    let mut connection = Box::new(connection);
    let mut held = Vec::new();
    let mut chunk = [0; 4096];
    let mut begun = false;
    loop {
        let whole = whole_records(&held);
        if whole == 0 {
            let read = poll_fn(|cx| socket.poll_read(cx, &mut chunk)).await?;
            if read == 0 {
                return Err(match begun {
                    true => HandshakeError::Torn,
                    false => HandshakeError::Left,
                });
            }
            if !begun && chunk[0] != HANDSHAKE_RECORD {
                return Err(refuse_plain(&mut socket, chunk[0]).await);
            }
            begun = true;
            held.extend_from_slice(&chunk[..read]);
            continue;
        }
        let step = Step {
            connection,
            bytes: std::mem::take(&mut held),
            whole,
        };
        let (back, result) = step.run_beside().await?;
        connection = back.connection;
        held = back.bytes;
        let flushed = flush(&mut socket, &mut connection).await;
        if let Err(error) = result {
            linger(&mut socket).await;
            return Err(HandshakeError::Tls(error));
        }
        flushed?;
        if !connection.is_handshaking() {
            let session = Session::new((*connection).into(), held);
            return Ok(Stream::sealed(socket, Box::new(session)));
        }
    }
}

/// Ends the sending direction and reads on for a moment: closing a socket with unread bytes would take back the last
/// words, and the other side would not learn why.
async fn linger(socket: &mut rt::Stream) {
    let mut unread = [0; 1024];
    let rest = async {
        poll_fn(|cx| socket.poll_close(cx)).await?;
        while poll_fn(|cx| socket.poll_read(cx, &mut unread)).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Whatever comes of it, the connection is over.
    let _ = rt::timeout(LAST_WORDS, rest).await;
}

async fn refuse_plain(socket: &mut rt::Stream, first: u8) -> HandshakeError {
    if !first.is_ascii_uppercase() {
        return HandshakeError::NoTls(first);
    }
    // As much of it as the socket takes at once: nobody is waited for.
    let _ = poll_fn(|cx| socket.poll_write(cx, PLAIN_ANSWER)).await;
    linger(socket).await;
    HandshakeError::PlainHttp
}

async fn flush(socket: &mut rt::Stream, connection: &mut ServerConnection) -> io::Result<()> {
    struct Out<'a, 'b, 'c>(&'a mut Polled<'b, 'c>);
    impl io::Write for Out<'_, '_, '_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    poll_fn(|cx| {
        let mut pipe = Polled { socket, cx };
        while connection.wants_write() {
            match connection.write_tls(&mut Out(&mut pipe)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// Bytes of the whole records at the front. What is longer than any record is given on as it is, for the library to
/// refuse.
fn whole_records(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(head) = bytes.get(end..end + HEAD_BYTES) {
        let body = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let next = end + HEAD_BYTES + body;
        if HEAD_BYTES + body > RECORD_BYTES_MAX {
            return bytes.len();
        }
        if next > bytes.len() {
            break;
        }
        end = next;
    }
    end
}

/// A step of a handshake: the part that costs CPU.
struct Step {
    connection: Box<ServerConnection>,
    bytes: Vec<u8>,
    /// So many of them are whole records.
    whole: usize,
}

type Stepped = (Step, Result<(), rustls::Error>);

impl Step {
    /// Runs it on a thread.
    async fn run_beside(self) -> io::Result<Stepped> {
        let (sender, mut receiver) = mailbox::bounded(1);
        steppers()?
            .try_send(Box::new(move || {
                // Nobody waits any more if the connection was given up.
                let _ = sender.push(self.run());
            }))
            .map_err(|_| io::Error::other("too many handshakes wait for a thread"))?;
        let mut done = Vec::new();
        // Closed without a result: the thread has panicked, which it reported itself.
        let _ = receiver.take(&mut done).await;
        done.pop()
            .ok_or_else(|| io::Error::other("the handshake's thread is gone"))
    }

    fn run(mut self) -> Stepped {
        let mut rest = &self.bytes[..self.whole];
        let mut result = Ok(());
        while !rest.is_empty() && self.connection.is_handshaking() {
            if !matches!(self.connection.read_tls(&mut rest), Ok(read) if read > 0) {
                break;
            }
            if let Err(error) = self.connection.process_new_packets() {
                result = Err(error);
                break;
            }
        }
        let fed = self.whole - rest.len();
        self.bytes.drain(..fed);
        self.whole = 0;
        (self, result)
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads for steps; started with the first handshake, they live as long as the process.
fn steppers() -> io::Result<&'static mpsc::SyncSender<Job>> {
    static STEPPERS: OnceLock<mpsc::SyncSender<Job>> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(steppers) = STEPPERS.get() {
        return Ok(steppers);
    }
    let (sender, jobs) = mpsc::sync_channel::<Job>(STEPS_MAX);
    let jobs = Arc::new(Mutex::new(jobs));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..(cpus / 4).clamp(1, 4) {
        let jobs = Arc::clone(&jobs);
        std::thread::Builder::new()
            .name("kv-handshake".to_owned())
            .spawn(move || {
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match job {
                        Ok(job) => job(),
                        Err(mpsc::RecvError) => return,
                    }
                }
            })?;
    }
    Ok(STEPPERS.get_or_init(|| sender))
}

/// Turns of one executor.
struct Turns {
    taken: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

/// A place among the handshakes of this executor, until dropped. To be dropped where it was taken.
struct Turn;

impl Turn {
    fn take() -> TakeTurn {
        TakeTurn
    }
}

struct TakeTurn;

impl Future for TakeTurn {
    type Output = Turn;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn> {
        TURNS.with(|turns| {
            if turns.taken.get() < HANDSHAKES_MAX {
                turns.taken.set(turns.taken.get() + 1);
                return Poll::Ready(Turn);
            }
            let mut waiting = turns.waiting.borrow_mut();
            if !waiting.iter().any(|known| known.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let woken = TURNS.with(|turns| {
            turns.taken.set(turns.taken.get() - 1);
            turns.waiting.take()
        });
        // All of them: one that has given up meanwhile must not swallow the only word.
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_records_go_to_a_thread() {
        let record = [0x16, 3, 1, 0, 3, 1, 2, 3];
        assert_eq!(whole_records(&[]), 0);
        assert_eq!(whole_records(&record[..4]), 0);
        assert_eq!(whole_records(&record[..7]), 0);
        assert_eq!(whole_records(&record), 8);
        let two = [&record[..], &record[..], &record[..6]].concat();
        assert_eq!(whole_records(&two), 16);
        // Longer than any record: not waited for.
        assert_eq!(whole_records(&[0x16, 3, 1, 0xff, 0xff, 0]), 6);
    }
}
