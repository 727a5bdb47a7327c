//! Who has a directory open: one program that writes, or several that only read.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Error, LOCK_FILE};

/// Who opens a directory; shown to the next one who tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub name: String,
    pub version: String,
    /// Start of the process, seconds since 1970 UTC.
    pub started: u64,
}

/// An flock on a directory's `LOCK` file. The lock decides; the text in the file is only for the
/// message to the next one who tries. Released on drop, also by the kernel when the process ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
    writes_text: bool,
}

impl Lock {
    /// For anyone who may write. Fails at once if anyone has it.
    pub fn exclusive(directory: &Path, program: &Program) -> Result<Self, Error> {
        let path = directory.join(LOCK_FILE);
        let mut file = open_lock(&path)?;
        Self::granted(&path, &mut file, |file| file.try_lock())?;
        let text = format!(
            "pid {}\nboot {}\nstarted {}\nprogram {}\nversion {}\n",
            std::process::id(),
            boot_id(),
            program.started,
            one_line(&program.name),
            one_line(&program.version),
        );
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|e| Error::io("write", path, e))?;
        Ok(Self {
            file,
            writes_text: true,
        })
    }

    /// For tools that only read a directory nobody runs on; several may share it.
    pub fn shared(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(LOCK_FILE);
        let mut file = open_lock(&path)?;
        Self::granted(&path, &mut file, |file| file.try_lock_shared())?;
        Ok(Self {
            file,
            writes_text: false,
        })
    }

    /// As [`Lock::shared`], but makes no lock file: where there is none, nobody holds it.
    pub(super) fn shared_if_there(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(LOCK_FILE);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", path, e)),
        };
        Self::granted(&path, &mut file, |file| file.try_lock_shared())?;
        Ok(Some(Self {
            file,
            writes_text: false,
        }))
    }

    fn granted(
        path: &Path,
        file: &mut File,
        ask: impl Fn(&File) -> Result<(), fs::TryLockError>,
    ) -> Result<(), Error> {
        match ask(file) {
            Ok(()) => Ok(()),
            Err(fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Best effort: the holder may be writing its text just now.
                let _ = file.take(4096).read_to_string(&mut text);
                Err(Error::Locked {
                    path: path.to_owned(),
                    holder: Holder::parse(&text),
                })
            }
            Err(fs::TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.writes_text {
            // Only cosmetic: an empty text says nobody is here.
            let _ = self.file.set_len(0);
        }
    }
}

/// Who has a directory open, as far as the text in its lock file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub program: String,
    pub version: String,
    /// Seconds since 1970 UTC.
    pub started: u64,
    /// False if the text was written before this machine's last boot (or on another machine), so
    /// the pid means nothing here.
    pub this_boot: bool,
}

impl Holder {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        };
        Some(Self {
            pid: field("pid")?.parse().ok()?,
            program: field("program")?.to_owned(),
            version: field("version")?.to_owned(),
            started: field("started")?.parse().ok()?,
            this_boot: field("boot")? == boot_id(),
        })
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            pid,
            program,
            version,
            started,
            this_boot,
        } = self;
        write!(
            f,
            "{program} {version}, pid {pid}, running since {}",
            utc(*started)
        )?;
        if !this_boot {
            f.write_str(" (on another boot or machine)")?;
        }
        Ok(())
    }
}

pub(super) fn holder_text(holder: &Option<Holder>) -> String {
    holder
        .as_ref()
        .map_or_else(|| "another process".to_owned(), Holder::to_string)
}

/// Seconds since 1970 as `2026-01-31 12:00:00 UTC`, by the usual count of days in 400-year cycles from March 1st.
pub fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + cycle * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day_of_month:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn open_lock(path: &Path) -> Result<File, Error> {
    let opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    opened.map_err(|e| {
        if e.kind() != io::ErrorKind::PermissionDenied {
            return Error::io("open", path, e);
        }
        let directory = path.parent().unwrap_or(path);
        let meta = fs::metadata(directory);
        Error::Access {
            path: directory.to_owned(),
            user: rustix::process::geteuid().as_raw(),
            owner: meta.as_ref().map_or(0, MetadataExt::uid),
            mode: meta.as_ref().map_or(0, |m| m.mode() & 0o7777),
        }
    })
}
