//! Several endpoints as one: calls go round among those that can be reached; one that fails is left
//! alone for a moment.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_rustls::TlsConnector;

use crate::config::Config;
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::error::{Attempts, Error, Result};

/// How long an endpoint that failed is asked only when no other is left.
const LEFT_ALONE: Duration = Duration::from_secs(3);

pub(crate) struct Pool {
    slots: Vec<Slot>,
    next: AtomicUsize,
    tls: Option<TlsConnector>,
}

struct Slot {
    endpoint: Endpoint,
    /// Held while connecting, so that many calls make one connection.
    connection: tokio::sync::Mutex<Option<Connection>>,
    failed: Mutex<Option<Instant>>,
}

/// A connection and where it leads.
pub(crate) struct Picked {
    pub connection: Connection,
    pub index: usize,
}

impl Pool {
    pub fn new(config: &Config) -> Result<Pool> {
        if config.endpoints.is_empty() {
            return Err(Error::Config("no endpoint is given".to_owned()));
        }
        let mut slots = Vec::new();
        for text in &config.endpoints {
            slots.push(Slot {
                endpoint: Endpoint::parse(text, config.bare_endpoints_use_tls)?,
                connection: tokio::sync::Mutex::new(None),
                failed: Mutex::new(None),
            });
        }
        let tls = match slots.iter().any(|slot| slot.endpoint.tls) {
            true => {
                let tls = config.tls.clone().unwrap_or_default();
                Some(TlsConnector::from(tls.client_config()?))
            }
            false => None,
        };
        Ok(Pool {
            slots,
            next: AtomicUsize::new(0),
            tls,
        })
    }

    pub fn name(&self, index: usize) -> &str {
        &self.slots[index].endpoint.text
    }

    /// A live connection, the endpoints in turn. `None` if all were tried and none can be reached;
    /// the reasons are noted.
    pub async fn pick(&self, config: &Config, attempts: &mut Attempts) -> Option<Picked> {
        let count = self.slots.len();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = |step: usize| start.wrapping_add(step) % count;
        let (well, ill): (Vec<usize>, Vec<usize>) = (0..count)
            .map(turn)
            .partition(|&index| !self.slots[index].is_left_alone());
        for index in well.into_iter().chain(ill) {
            let slot = &self.slots[index];
            let mut held = slot.connection.lock().await;
            if let Some(connection) = &*held {
                return Some(Picked {
                    connection: connection.clone(),
                    index,
                });
            }
            match Connection::open(&slot.endpoint, config, self.tls.as_ref()).await {
                Ok(connection) => {
                    *held = Some(connection.clone());
                    slot.set_failed(None);
                    return Some(Picked { connection, index });
                }
                Err(reason) => {
                    slot.set_failed(Some(Instant::now()));
                    attempts.note(&slot.endpoint.text, reason);
                }
            }
        }
        None
    }

    /// The connection there broke: the next call makes another.
    pub async fn broke(&self, index: usize) {
        let slot = &self.slots[index];
        *slot.connection.lock().await = None;
        slot.set_failed(Some(Instant::now()));
    }

    /// The server there cannot serve for now, though it can be reached.
    pub fn unwell(&self, index: usize) {
        self.slots[index].set_failed(Some(Instant::now()));
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }
}

impl Slot {
    fn is_left_alone(&self) -> bool {
        let failed = self
            .failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        failed.is_some_and(|failed| failed.elapsed() < LEFT_ALONE)
    }

    fn set_failed(&self, when: Option<Instant>) {
        *self
            .failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = when;
    }
}
