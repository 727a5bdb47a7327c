//! What can be told of another process, and what is to be cleaned up when this one is interrupted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often a directory is removed in which files may still appear.
const REMOVE_TRIES: usize = 100;

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

/// Files and directories to remove when the process is told to stop. Whoever makes one of them live takes it off the
/// list under the lock, so that an interruption finds either the list or the finished work.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

pub fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Set before anything is removed: whoever fails from then on fails because of it, and has nothing to report.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A path on the list until dropped.
pub struct Guarded(PathBuf);

/// Puts a path on the list that is removed before all others.
pub fn guard_first(path: PathBuf) -> Guarded {
    unfinished().insert(0, path.clone());
    Guarded(path)
}

/// Takes all of them off the list at one moment.
pub fn release(guards: Vec<Guarded>) {
    let mut list = unfinished();
    list.retain(|path| guards.iter().all(|guarded| guarded.0 != *path));
    drop(list);
    drop(guards);
}

/// To be called before the process ends by itself: an interruption under way ends it instead, once it has cleaned up.
pub fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::Acquire) {
        std::thread::park();
    }
}

/// Makes something, and puts the paths it takes on the list. A signal meanwhile waits until they are there.
///
/// # Errors
/// Those of `make`, which must not guard anything itself.
pub fn make_guarded<T, E>(
    make: impl FnOnce() -> Result<(T, Vec<PathBuf>), E>,
) -> Result<(T, Vec<Guarded>), E> {
    let mut list = unfinished();
    let (made, paths) = make()?;
    list.extend(paths.iter().cloned());
    Ok((made, paths.into_iter().map(Guarded).collect()))
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
            INTERRUPTED.store(true, Ordering::Release);
            paths.iter().for_each(|path| remove(path));
            // Last, when whoever worked there has failed over them.
            paths
                .iter()
                .for_each(|path| drop(std::fs::remove_file(path)));
            eprintln!("interrupted; nothing was changed");
            std::process::exit(128 + signal);
        }
    });
}

/// The other threads go on meanwhile: a directory they work in loses its name, and a file takes its place, so that they can
/// neither write there nor make it anew. The file is the caller's to remove.
fn remove(path: &Path) {
    let is_dir = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    if !is_dir {
        let _ = std::fs::remove_file(path);
        return;
    }
    let away = |number: usize| {
        let mut away = path.as_os_str().to_owned();
        away.push(format!(".dropped-{}.{number}", std::process::id()));
        PathBuf::from(away)
    };
    let mut moved = Vec::new();
    for number in 0..REMOVE_TRIES {
        let to = away(number);
        if std::fs::rename(path, &to).is_ok() {
            moved.push(to);
        }
        if std::fs::File::create_new(path).is_ok() {
            break;
        }
    }
    for path in moved {
        for _ in 0..REMOVE_TRIES {
            match std::fs::remove_dir_all(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
    }
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
