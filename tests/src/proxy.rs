//! A network between members that a test can spoil: everything one member says to another passes through here.
//!
//! Each member listens on a port nobody is told and announces a port of ours. Who calls whom is read from the first bytes of
//! the connection (the greeting of the peer protocol names both members); whatever begins otherwise, such as a look at the
//! member list, belongs to nobody and always passes.
//!
//! A [`Way`] is one direction between two members, whoever dialled the connection its bytes travel on. What a way does
//! holds at once for open connections too:
//!
//! | | what is said | connections |
//! |---|---|---|
//! | [`Way::Pass`] | arrives, after a delay if one is set | stay |
//! | [`Way::Hold`] | waits, and arrives when the way passes again | stay, as over a link that lost its packets |
//! | [`Way::Cut`] | is lost | are closed, new ones as well |
//!
//! No privileges are needed, unlike for network namespaces; loss, delay and reordering below TCP is what it cannot do.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::server::free_port;

/// The greeting, as the peer protocol lays it out: magic, and where the ids of both stand.
const MAGIC: [u8; 4] = [0x93, b'k', b'v', b'p'];
const GREETING_BYTES: usize = 48;
const CALLER_AT: usize = 16;
const CALLED_AT: usize = 24;

/// What happens to what one member says to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    #[default]
    Pass,
    /// As `Pass`, so much later.
    Late(Duration),
    Hold,
    Cut,
}

/// The ports the members announce, and what lies behind them.
pub struct Network {
    /// Its own, so that bytes move while a test waits for a process.
    runtime: Option<Runtime>,
    ways: Arc<Ways>,
}

/// By member ids: who says it, to whom.
#[derive(Default)]
struct Ways {
    table: Mutex<HashMap<(u64, u64), watch::Sender<Way>>>,
}

impl Ways {
    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), watch::Sender<Way>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, from: u64, to: u64) -> watch::Receiver<Way> {
        let mut table = self.lock();
        table.entry((from, to)).or_default().subscribe()
    }

    fn set(&self, from: u64, to: u64, way: Way) {
        let mut table = self.lock();
        table.entry((from, to)).or_default().send_replace(way);
    }
}

impl Default for Network {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("network")
            .enable_all()
            .build()
            .expect("a runtime can be made");
        Network {
            runtime: Some(runtime),
            ways: Arc::default(),
        }
    }
}

impl Network {
    /// A port to announce, which leads to `hidden`.
    pub fn open(&self, hidden: u16) -> u16 {
        let announced = free_port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, announced));
        let listener = std::net::TcpListener::bind(address).expect("a port that was just free");
        listener
            .set_nonblocking(true)
            .expect("a listener can be so");
        let runtime = self.runtime.as_ref().expect("until it is dropped");
        let ways = Arc::clone(&self.ways);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("it does not block");
            serve(listener, hidden, ways).await;
        });
        announced
    }

    /// What `from` says to `to`.
    pub fn set(&self, from: u64, to: u64, way: Way) {
        self.ways.set(from, to, way);
    }

    /// What each says to the other.
    pub fn set_both(&self, one: u64, other: u64, way: Way) {
        self.set(one, other, way);
        self.set(other, one, way);
    }

    /// All ways pass.
    pub fn heal(&self) {
        for way in self.ways.lock().values() {
            way.send_if_modified(|way| std::mem::take(way) != Way::Pass);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, hidden: u16, ways: Arc<Ways>) {
    loop {
        match listener.accept().await {
            Ok((caller, _)) => {
                let ways = Arc::clone(&ways);
                tokio::spawn(async move { join(caller, hidden, &ways).await });
            }
            // Out of descriptors: the test has other worries.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// One connection from its first byte to its end.
async fn join(mut caller: TcpStream, hidden: u16, ways: &Ways) {
    let mut first = Vec::with_capacity(GREETING_BYTES);
    while first.len() < GREETING_BYTES && MAGIC.starts_with(&first[..first.len().min(4)]) {
        if !matches!(caller.read_buf(&mut first).await, Ok(read) if read > 0) {
            return;
        }
    }
    let id = |at: usize| {
        let bytes = first.get(at..at + 8).filter(|_| first.starts_with(&MAGIC));
        bytes.map_or(0, |id| {
            u64::from_le_bytes(id.try_into().expect("eight bytes"))
        })
    };
    // Ways between nobody and nobody pass for ever.
    let (from, to) = (id(CALLER_AT), id(CALLED_AT));
    let (there, back) = (ways.follow(from, to), ways.follow(to, from));
    if *there.borrow() == Way::Cut || *back.borrow() == Way::Cut {
        return;
    }
    let Ok(called) = TcpStream::connect((Ipv4Addr::LOCALHOST, hidden)).await else {
        return;
    };
    let _ = (caller.set_nodelay(true), called.set_nodelay(true));
    let (caller_reads, caller_writes) = caller.into_split();
    let (called_reads, called_writes) = called.into_split();
    // The end of one direction is the end of both.
    tokio::select! {
        () = pump(first, caller_reads, called_writes, there) => (),
        () = pump(Vec::new(), called_reads, caller_writes, back) => (),
    }
}

/// Moves bytes one way until either side ends it or it is cut.
async fn pump(
    mut bytes: Vec<u8>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
) {
    loop {
        if bytes.is_empty() {
            bytes.reserve(64 << 10);
            tokio::select! {
                read = from.read_buf(&mut bytes) => match read {
                    Ok(read) if read > 0 => (),
                    _ => return,
                },
                changed = way.changed() => match changed {
                    Ok(()) if *way.borrow() != Way::Cut => continue,
                    _ => return,
                },
            }
        }
        let now = *way.borrow_and_update();
        match now {
            Way::Cut => return,
            Way::Hold => {
                if way.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Way::Late(delay) => tokio::time::sleep(delay).await,
            Way::Pass => (),
        }
        tokio::select! {
            written = to.write(&bytes) => match written {
                Ok(written) if written > 0 => drop(bytes.drain(..written)),
                _ => return,
            },
            // Looked at again at the top; what is left of the bytes still is.
            changed = way.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const SOON: Duration = Duration::from_millis(200);

    fn greeting(from: u64, to: u64) -> Vec<u8> {
        let mut bytes = vec![0; GREETING_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[CALLER_AT..CALLER_AT + 8].copy_from_slice(&from.to_le_bytes());
        bytes[CALLED_AT..CALLED_AT + 8].copy_from_slice(&to.to_le_bytes());
        bytes
    }

    /// The two ends of a connection from one member to another.
    fn connected(
        network: &Network,
        from: u64,
        to: u64,
    ) -> (std::net::TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let hidden = listener.local_addr().expect("bound").port();
        let announced = network.open(hidden);
        let mut caller = std::net::TcpStream::connect(("127.0.0.1", announced)).expect("open");
        caller.write_all(&greeting(from, to)).expect("taken");
        let (mut called, _) = listener.accept().expect("passed on");
        let mut first = [0; GREETING_BYTES];
        called.read_exact(&mut first).expect("the greeting");
        assert_eq!(first[..], greeting(from, to));
        (caller, called)
    }

    fn hears(stream: &mut std::net::TcpStream, within: Duration) -> Option<Vec<u8>> {
        stream.set_read_timeout(Some(within)).expect("set");
        let mut bytes = [0; 64];
        let read = stream.read(&mut bytes).ok()?;
        Some(bytes[..read].to_vec())
    }

    #[test]
    fn each_direction_is_held_by_itself_and_goes_on_where_it_stopped() {
        let network = Network::default();
        let (mut caller, mut called) = connected(&network, 1, 2);
        network.set(1, 2, Way::Hold);
        caller.write_all(b"waits").expect("taken");
        assert_eq!(hears(&mut called, SOON), None);
        called.write_all(b"back").expect("taken");
        let long = Duration::from_secs(20);
        assert_eq!(hears(&mut caller, long).as_deref(), Some(&b"back"[..]));
        network.heal();
        assert_eq!(hears(&mut called, long).as_deref(), Some(&b"waits"[..]));
    }

    #[test]
    fn a_cut_ends_open_connections_and_refuses_new_ones() {
        let network = Network::default();
        let (mut caller, mut called) = connected(&network, 1, 2);
        network.set(2, 1, Way::Cut);
        let long = Duration::from_secs(20);
        assert_eq!(hears(&mut caller, long).as_deref(), Some(&b""[..]));
        assert_eq!(hears(&mut called, long).as_deref(), Some(&b""[..]));
    }
}
