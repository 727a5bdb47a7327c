//! What a client is made from.

use std::fmt;
use std::time::Duration;

use crate::tls::Tls;

/// Everything a client needs to know. Nothing is read from the environment.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where servers listen: `host:port`, `http://`, `https://`, `unix://`, `unixs://`. At least one.
    pub endpoints: Vec<String>,
    /// How long one endpoint may take to be connected to, and how long a call looks for one that can.
    pub connect_timeout: Duration,
    /// How long a call may take, connecting included; `None` is for ever. Streams are not held to it.
    pub call_timeout: Option<Duration>,
    /// Pause between two pings while calls are open. Less than ten seconds counts as ten: servers
    /// take more pings for an attack.
    pub keepalive_time: Duration,
    /// How long a ping may go unanswered before the connection counts as broken.
    pub keepalive_timeout: Duration,
    /// Longest request in bytes.
    pub send_bytes_max: usize,
    /// Longest answer in bytes.
    pub receive_bytes_max: usize,
    /// Certificates, for `https` and `unixs`. Without it the system's roots are trusted.
    pub tls: Option<Tls>,
    /// An endpoint without scheme is spoken to over TLS.
    pub bare_endpoints_use_tls: bool,
    /// Who asks.
    pub credentials: Option<Credentials>,
}

impl Config {
    /// These endpoints, and the defaults that etcd's client has.
    pub fn new<I: IntoIterator<Item = S>, S: Into<String>>(endpoints: I) -> Config {
        Config {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            connect_timeout: Duration::from_secs(2),
            call_timeout: Some(Duration::from_secs(5)),
            keepalive_time: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(6),
            send_bytes_max: 2 << 20,
            receive_bytes_max: i32::MAX as usize,
            tls: None,
            bare_endpoints_use_tls: false,
            credentials: None,
        }
    }

    /// Logs in with name and password when the server wants it.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Config {
        self.credentials = Some(Credentials::Password {
            name: name.into(),
            password: password.into(),
        });
        self
    }

    /// Certificates to show and to trust.
    pub fn tls(mut self, tls: Tls) -> Config {
        self.tls = Some(tls);
        self
    }
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A token is fetched with these, and fetched again when the server no longer takes it.
    Password { name: String, password: String },
    /// A token made elsewhere.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Password { name, .. } => write!(f, "Password {{ name: {name:?}, .. }}"),
            Credentials::Token(_) => f.write_str("Token(..)"),
        }
    }
}
