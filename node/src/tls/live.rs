//! What is served and asked for as of now: the files of both sides, taken over again when they change.
//!
//! One thread looks once a second whether time, length or inode of a file have changed, and reads all files of that side
//! when they have been the same twice: a pair is replaced one file after the other. What cannot be used is told to the
//! log, and what was in use stays in use. Connections take what is there when they begin.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{ClientConfig, ServerConfig};

use super::auto::{self, Wish};
use super::context::{self, Moment, Pair};
use super::files::FileError;
use crate::config::security::{Side, TlsSide};
use crate::config::{Address, Config, Security, Url};
use crate::reload::Hook;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const DAY: i64 = 86_400;

/// So long before a certificate's end the log begins to say so, in seconds.
const WARN_BEFORE: i64 = 30 * DAY;

/// Both sides' files.
#[derive(Debug)]
pub struct Tls {
    pub(crate) client: Arc<Live>,
    pub(crate) peer: Arc<Live>,
}

/// One side's files and what they come to.
#[derive(Debug)]
pub(crate) struct Live {
    side: Side,
    security: Security,
    wish: Wish,
    /// Where a pair of our own making lies, once there is a data directory.
    own: Mutex<Option<PathBuf>>,
    moment: Mutex<Arc<Moment>>,
    seen: Mutex<Stamps>,
    pub(super) refused: AtomicU64,
    pub(super) reloads: AtomicU64,
    pub(super) reload_failures: AtomicU64,
}

/// What tells that a file has changed.
type Stamp = (i64, i64, u64, u64);
type Stamps = Vec<Option<Stamp>>;

impl Tls {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// The first thing that is wrong with a file.
    pub fn open(config: &Config) -> Result<Tls, FileError> {
        let open = |side, listeners: &[&[Url]]| Live::open(config, side, listeners).map(Arc::new);
        Ok(Tls {
            client: open(
                Side::Client,
                &[
                    &config.listen_client_urls,
                    &config.listen_client_http_urls,
                    &config.listen_metrics_urls,
                    &config.advertise_client_urls,
                ],
            )?,
            peer: open(
                Side::Peer,
                &[&config.listen_peer_urls, &config.advertise_peer_urls],
            )?,
        })
    }

    /// Makes the self-signed certificates that are wanted, in the data directory.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn settle(&self, data_dir: &Path) -> Result<(), FileError> {
        for live in [&self.client, &self.peer] {
            live.settle(data_dir)?;
        }
        Ok(())
    }

    fn used(&self) -> Vec<Arc<Live>> {
        let sides = [&self.client, &self.peer].into_iter();
        sides.filter(|live| live.is_used()).cloned().collect()
    }

    /// What a reload does: all files are read again, changed or not. Of those that cannot be used the earlier ones stay.
    pub(crate) fn reloader(&self) -> Hook {
        let sides = self.used();
        Box::new(move |_| {
            let mut failed = Vec::new();
            for live in &sides {
                if let Err(error) = live.reload(live.stamps()) {
                    failed.push(format!("{}: {error}; {}", live.listener(), error.hint));
                }
            }
            match (failed.is_empty(), sides.is_empty()) {
                (false, _) => Err(failed.join("; ")),
                (true, true) => Ok(None),
                (true, false) => Ok(Some("read again".to_owned())),
            }
        })
    }

    /// Starts to look at the files, if there are any.
    ///
    /// # Errors
    /// No thread to be had.
    pub(crate) fn watch(&self) -> io::Result<Watcher> {
        let sides = self.used();
        if sides.is_empty() {
            return Ok(Watcher(None));
        }
        let (sender, end) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("kv-tls".to_owned())
            .spawn(move || watch(&sides, &end))?;
        Ok(Watcher(Some((sender, thread))))
    }
}

/// What to call members with at a start, before there is a [`Tls`] with a data directory.
///
/// # Errors
/// Why https:// urls cannot be called.
pub(crate) fn calls(config: &Config) -> Result<Arc<ClientConfig>, String> {
    let security = &config.security;
    let pair = &security.peer.pair;
    let moment = context::read(security, Side::Peer, pair, None);
    let known = moment.map_err(|error| error.to_string())?.client;
    known.unwrap_or_else(|| context::calling_by_default(security))
}

/// The thread that looks at the files.
#[derive(Debug)]
pub(crate) struct Watcher(Option<(mpsc::Sender<Infallible>, JoinHandle<()>)>);

impl Watcher {
    pub(crate) fn stop(self) {
        if let Some((sender, thread)) = self.0 {
            drop(sender);
            if thread.join().is_err() {
                log::error!("the thread that looks at TLS files had panicked");
            }
        }
    }
}

/// Ends when the other end of `end` is gone.
fn watch(sides: &[Arc<Live>], end: &mpsc::Receiver<Infallible>) {
    let mut before: Vec<Stamps> = sides.iter().map(|live| live.stamps()).collect();
    let mut told_at = None;
    loop {
        let now = unix_now();
        if told_at.is_none_or(|at| now - at >= DAY) {
            told_at = Some(now);
            for live in sides {
                live.renew(now);
                live.warn(now);
            }
        }
        match end.recv_timeout(LOOK_EVERY) {
            Ok(never) => match never {},
            Err(mpsc::RecvTimeoutError::Timeout) => {
                for (live, before) in sides.iter().zip(&mut before) {
                    let stamps = live.stamps();
                    if stamps == *before && stamps != *live.seen() {
                        // Told to the log.
                        let _ = live.reload(stamps.clone());
                    }
                    *before = stamps;
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Live {
    fn open(config: &Config, side: Side, listeners: &[&[Url]]) -> Result<Live, FileError> {
        let security = config.security.clone();
        let mut hosts = vec!["localhost".to_owned()];
        for url in listeners.iter().copied().flatten() {
            if let Address::Tcp { host, .. } = &url.address
                && !hosts.contains(host)
            {
                hosts.push(host.clone());
            }
        }
        for loopback in ["127.0.0.1", "::1"] {
            if !hosts.iter().any(|host| host == loopback) {
                hosts.push(loopback.to_owned());
            }
        }
        let wish = Wish {
            hosts,
            years: security.self_signed_years,
        };
        let pair = security.side(side).pair.clone();
        let paths = paths(security.side(side), &pair);
        let stamps = stamps(&paths);
        let moment = context::read(&security, side, &pair, None)?;
        Ok(Live {
            side,
            security,
            wish,
            own: Mutex::new(None),
            moment: Mutex::new(Arc::new(moment)),
            seen: Mutex::new(stamps),
            refused: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reload_failures: AtomicU64::new(0),
        })
    }

    /// To accept with, from now on; none while there is no certificate.
    pub(crate) fn server(&self) -> Option<Arc<ServerConfig>> {
        self.moment().server.clone()
    }

    /// To call members with. May read the system's authorities, so it is for threads.
    ///
    /// # Errors
    /// Why they cannot be called.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, String> {
        let known = self.moment().client.clone();
        known.unwrap_or_else(|| context::calling_by_default(&self.security))
    }

    /// Whether a caller's address must fit its certificate.
    pub(crate) fn checks_address(&self) -> bool {
        let settings = self.settings();
        self.side == Side::Peer && settings.verifies() && !settings.skip_san
    }

    /// Whether those who connect show certificates that are verified.
    pub(crate) fn verifies(&self) -> bool {
        self.settings().verifies()
    }

    /// Counts a connection that did not come about.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn moment(&self) -> Arc<Moment> {
        Arc::clone(&locked(&self.moment))
    }

    pub(super) fn listener(&self) -> &'static str {
        match self.side {
            Side::Client => "client",
            Side::Peer => "peer",
        }
    }

    fn settings(&self) -> &TlsSide {
        self.security.side(self.side)
    }

    fn is_used(&self) -> bool {
        let settings = self.settings();
        settings.auto || !paths(settings, &settings.pair).is_empty()
    }

    fn seen(&self) -> MutexGuard<'_, Stamps> {
        locked(&self.seen)
    }

    fn stamps(&self) -> Stamps {
        stamps(&paths(self.settings(), &self.pair()))
    }

    fn pair(&self) -> Pair {
        let own = locked(&self.own);
        let own = own.as_ref().map(|at| auto::paths(at));
        self.settings().pair.clone().or(own)
    }

    fn settle(&self, data_dir: &Path) -> Result<(), FileError> {
        if !self.settings().auto {
            return Ok(());
        }
        let directory = data_dir.join("fixtures").join(self.listener());
        let made = auto::ensure(&directory, &self.wish, unix_now());
        let (_, made) = made.map_err(|error| {
            let flag = self.side.flags().auto;
            FileError::new(
                format!(
                    "--{flag}: cannot make a certificate in {}: {error}",
                    directory.display()
                ),
                "check the space and the owner of the data directory; a damaged pair there may simply be deleted",
            )
        })?;
        if made {
            log::info!("made a self-signed certificate in {}", directory.display());
        }
        *locked(&self.own) = Some(directory);
        let stamps = self.stamps();
        let moment = context::read(&self.security, self.side, &self.pair(), None)?;
        *locked(&self.moment) = Arc::new(moment);
        *self.seen() = stamps;
        Ok(())
    }

    fn reload(&self, stamps: Stamps) -> Result<(), FileError> {
        let listener = self.listener();
        *self.seen() = stamps;
        // A good certificate is not given up for an expired one.
        let now = unix_now();
        let served = self.moment().served.clone();
        let is_good = served.is_none_or(|served| served.names.not_after >= now);
        match context::read(
            &self.security,
            self.side,
            &self.pair(),
            is_good.then_some(now),
        ) {
            Ok(moment) => {
                let about = moment.served.as_ref().map_or_else(String::new, |served| {
                    format!(
                        ": serial {}, valid until {}",
                        served.names.serial_text(),
                        served.names.not_after_text
                    )
                });
                log::info!("TLS files of the {listener} side are taken over{about}");
                *locked(&self.moment) = Arc::new(moment);
                self.reloads.fetch_add(1, Ordering::Relaxed);
                self.warn(unix_now());
                Ok(())
            }
            Err(error) => {
                self.reload_failures.fetch_add(1, Ordering::Relaxed);
                log::error!(
                    "TLS files of the {listener} side have changed and are not taken over, the earlier ones stay in use: {error}; {}",
                    error.hint
                );
                Err(error)
            }
        }
    }

    /// Replaces a certificate of our own making before its end.
    fn renew(&self, now: i64) {
        let Some(directory) = locked(&self.own).clone() else {
            return;
        };
        match auto::ensure(&directory, &self.wish, now) {
            Ok((_, true)) => {
                let _ = self.reload(self.stamps());
            }
            Ok((_, false)) => {}
            Err(error) => log::error!(
                "cannot renew the self-signed certificate in {}: {error}",
                directory.display()
            ),
        }
    }

    /// Says what will have to be renewed soon.
    fn warn(&self, now: i64) {
        let (moment, listener) = (self.moment(), self.listener());
        if let Some(served) = &moment.served {
            let (path, until) = (served.path.display(), &served.names.not_after_text);
            let left = served.names.not_after - now;
            if left < 0 {
                log::error!(
                    "the certificate of the {listener} side ({path}) has expired ({until}): whoever verifies it does not connect until the file is replaced; the new one is taken over by itself"
                );
            } else if left < WARN_BEFORE {
                log::warn!(
                    "the certificate of the {listener} side ({path}) expires in {} days ({until}): replace the file, it is taken over by itself",
                    left / DAY
                );
            }
            if served.names.not_before > now {
                log::warn!(
                    "the certificate of the {listener} side ({path}) is not valid yet: is this machine's clock right?"
                );
            }
        }
        if let Some((_, Some(next))) = moment.revoked
            && next < now
        {
            log::warn!(
                "the revocation list of the {listener} side (--{}) should have been replaced {} days ago; it is used as it is",
                self.side.flags().crl,
                (now - next) / DAY
            );
        }
    }
}

/// The files of a side, in a fixed order.
fn paths(settings: &TlsSide, pair: &Pair) -> Vec<PathBuf> {
    let pairs = [pair, &settings.dial_pair].into_iter().flatten();
    let pairs = pairs.flat_map(|(cert, key)| [cert, key]);
    pairs
        .chain(&settings.trusted_ca)
        .chain(&settings.crl)
        .cloned()
        .collect()
}

fn stamps(paths: &[PathBuf]) -> Stamps {
    let stamp = |path: &PathBuf| {
        let data = fs::metadata(path).ok()?;
        Some((data.mtime(), data.mtime_nsec(), data.len(), data.ino()))
    };
    paths.iter().map(stamp).collect()
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
