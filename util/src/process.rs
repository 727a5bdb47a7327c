//! What can be told of another process, and what is to be cleaned up when this one is interrupted.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The systemd unit a process belongs to.
pub fn service(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let unit = |line: &str| {
        let parts = line.rsplit('/');
        parts
            .into_iter()
            .find(|part| part.ends_with(".service"))
            .map(str::to_owned)
    };
    text.lines().find_map(unit)
}

/// Directories to remove when the process is told to stop. Whoever makes one of them live takes it off the
/// list under the lock, so that an interruption finds either the list or the finished work.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

pub fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory on the list until dropped.
pub struct Guarded(PathBuf);

pub fn guard(path: PathBuf) -> Guarded {
    unfinished().push(path.clone());
    Guarded(path)
}

impl Drop for Guarded {
    fn drop(&mut self) {
        unfinished().retain(|path| *path != self.0);
    }
}

/// Ends the process on SIGINT and SIGTERM with 128 + the signal, after removing what is unfinished.
pub fn clean_up_on_signals() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else {
        return;
    };
    let thread = std::thread::Builder::new().name("signals".into());
    // Without the thread a signal leaves a directory that the next run drops.
    let _ = thread.spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let paths = unfinished();
            for path in paths.iter() {
                let _ = std::fs::remove_dir_all(path);
            }
            eprintln!("interrupted; nothing was changed");
            std::process::exit(128 + signal);
        }
    });
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Not predictable, not repeated: for salts.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let state = std::collections::hash_map::RandomState::new();
    state.build_hasher().finish() | 1
}
