//! Connecting to a member: resolve, connect, encrypt where its url is https, greet. All of it blocks, so it runs on a thread that
//! lives for one round over the member's urls; there is at most one such thread per link and
//! snapshot. The threads are not pooled: a resolver that hangs for a minute must keep nobody
//! else from dialling.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use super::Limits;
use super::greeting::{GREETING_BYTES, GreetingError, Hello, Refusal, Reply};
use super::stream::Blocking;
use crate::config::urls::{Address, Url};
use crate::mailbox;
use crate::tls::{Calling, Live};

/// One round of tries.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub urls: Vec<String>,
    /// Which url to begin with; beyond the last one counts on from the first.
    pub first: usize,
    pub hello: Hello,
    pub limits: Limits,
    /// What https:// urls are called with.
    pub tls: Option<Arc<Live>>,
}

/// A connection on which both sides have agreed.
#[derive(Debug)]
pub(super) struct Dialled {
    pub stream: Blocking,
    pub url: String,
    /// The called member's incarnation.
    pub incarnation: u64,
}

/// Why one url did not lead to the member.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Url(String),
    #[error("only http:// and https:// can be dialled")]
    Scheme,
    #[error("{0}")]
    NoTls(String),
    #[error("{address}: TLS: {source}")]
    Tls {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the name is not known: {0}")]
    Resolve(#[source] io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("{address}: {source}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{address} does not answer as a member: {source}")]
    Silent {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{address} is not the peer port of a member of this kind: {source}")]
    Stranger {
        address: SocketAddr,
        #[source]
        source: GreetingError,
    },
    #[error("{refusal}; {}", refusal.advice())]
    Refused { refusal: Refusal },
    #[error("no thread to dial: {0}")]
    Thread(#[source] io::Error),
}

/// Why no url led to the member.
#[derive(Debug)]
pub(super) struct Failures(pub Vec<(String, DialError)>);

impl Failures {
    /// The refusal among them, if there is one: it says more than an address that is silent.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.0.iter().find_map(|(_, error)| match error {
            DialError::Refused { refusal } => Some(*refusal),
            _ => None,
        })
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the member has no peer url");
        }
        for (position, (url, error)) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "; " };
            write!(f, "{comma}{url}: {error}")?;
        }
        Ok(())
    }
}

impl Dial {
    /// Tries the urls in turn, on this thread.
    pub(super) fn run(&self) -> Result<Dialled, Failures> {
        let mut failures = Vec::new();
        for position in 0..self.urls.len() {
            let url = &self.urls[(self.first + position) % self.urls.len()];
            match self.try_url(url) {
                Ok((stream, incarnation)) => {
                    return Ok(Dialled {
                        stream,
                        url: url.clone(),
                        incarnation,
                    });
                }
                Err(error) => failures.push((url.clone(), error)),
            }
        }
        Err(Failures(failures))
    }

    /// [`Dial::run`] on a thread of its own. Dropped, it leaves the thread to end by itself.
    pub(super) async fn run_beside(self) -> Result<Dialled, Failures> {
        let (sender, mut receiver) = mailbox::bounded(1);
        let urls = self.urls.join(",");
        let thread = std::thread::Builder::new()
            .name("peer-dial".to_owned())
            .spawn(move || {
                // Nobody waits any more if the link was given up.
                let _ = sender.push(self.run());
            });
        if let Err(error) = thread {
            return Err(Failures(vec![(urls, DialError::Thread(error))]));
        }
        let mut results = Vec::new();
        // Closed without a result: the thread panicked, which it reported itself.
        let _ = receiver.take(&mut results).await;
        results.pop().unwrap_or(Err(Failures(Vec::new())))
    }

    fn try_url(&self, url: &str) -> Result<(Blocking, u64), DialError> {
        let url = Url::parse(url).map_err(DialError::Url)?;
        let Address::Tcp { host, .. } = &url.address else {
            return Err(DialError::Scheme);
        };
        let secure = match (url.scheme.is_tls(), &self.tls) {
            (false, _) => None,
            (true, Some(tls)) => Some((tls.client().map_err(DialError::NoTls)?, host.as_str())),
            (true, None) => return Err(DialError::NoTls("TLS is not set up".to_owned())),
        };
        let mut last = DialError::NoAddress;
        for address in url.bind_addresses().map_err(DialError::Resolve)? {
            match self.try_address(address, secure.as_ref()) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn try_address(
        &self,
        address: SocketAddr,
        secure: Option<&(Calling, &str)>,
    ) -> Result<(Blocking, u64), DialError> {
        let socket = TcpStream::connect_timeout(&address, self.limits.connect_limit)
            .and_then(Blocking::connected);
        let mut stream = socket.map_err(|source| DialError::Connect { address, source })?;
        if let Some((config, host)) = secure {
            let limit = self.limits.greeting_limit;
            stream = stream
                .set_limits(limit, limit)
                .and_then(|()| stream.secure(config, host))
                .map_err(|source| DialError::Tls { address, source })?;
        }
        let reply = self
            .greet(&mut stream)
            .map_err(|source| DialError::Silent { address, source })?;
        let reply =
            Reply::decode(&reply).map_err(|source| DialError::Stranger { address, source })?;
        reply
            .judge(&self.hello)
            .map_err(|refusal| DialError::Refused { refusal })?;
        Ok((stream, reply.incarnation))
    }

    fn greet(&self, stream: &mut Blocking) -> io::Result<[u8; GREETING_BYTES]> {
        stream.set_limits(self.limits.greeting_limit, self.limits.greeting_limit)?;
        stream.write_all(&self.hello.encode())?;
        stream.flush()?;
        let mut reply = [0; GREETING_BYTES];
        // One that drips its bytes is held by the limit on each; nobody waits for this thread.
        stream.read_exact(&mut reply)?;
        Ok(reply)
    }
}
