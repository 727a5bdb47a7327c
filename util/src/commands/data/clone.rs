//! `kvutil data clone`: a copy of a data directory that appears whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kvnode_store::datadir::{ADMIN_SOCKET, LOCK_FILE, QUARANTINE_DIR, Reading, replace};
use serde::Serialize;

use super::DataArgs;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::output::human;
use crate::process;
use crate::progress::Progress;
use crate::shell::Shell;

/// Unit in which a device refuses to read.
const SECTOR_BYTES: usize = 512;
/// What stands in for bytes that could not be read. Not zero: zero means "never written" in a log, and a hole must not
/// look like a torn tail.
const UNREADABLE: u8 = 0xEE;

/// Copy a data directory to a new place
///
/// The copy is built beside DST, synced, and gets its name last. It has the same identity: never start both. With
/// --skip-bad what the device refuses to read is filled with a pattern that every check reports. What is kept in
/// quarantine/ is not copied.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Pass over what cannot be read
    #[arg(long)]
    skip_bad: bool,
    /// Where to; must not exist
    dst: PathBuf,
}

#[derive(Serialize)]
struct Cloned {
    schema: &'static str,
    from: String,
    to: String,
    files: u64,
    bytes: u64,
    unreadable_bytes: u64,
    unreadable: Vec<String>,
}

struct Copying {
    skip_bad: bool,
    files: u64,
    bytes: u64,
    unreadable_bytes: u64,
    unreadable: Vec<String>,
    progress: Progress,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let reading = Reading::open(&args.data.data_dir, args.data.wal_dir.as_deref())?;
    let dst = std::path::absolute(&args.dst).map_err(|e| Failure::io("resolve", &args.dst, &e))?;
    if dst.exists() {
        return Err(Failure::new(
            Code::Refused,
            format!(
                "{} exists: a clone is only made where nothing is",
                dst.display()
            ),
            format!("ls -la {}", dst.display()),
        ));
    }
    if let Some(elsewhere) = reading.wal_elsewhere() {
        return Err(Failure::new(
            Code::Refused,
            format!(
                "the log is in {}, and a clone of it would still name that place",
                elsewhere.display()
            ),
            format!("cp -a {} {}.wal", elsewhere.display(), dst.display()),
        ));
    }
    let total = replace::tree_bytes(reading.root()).0;
    let parent = dst.parent().unwrap_or(Path::new("/")).to_path_buf();
    shell.need_space(&parent, total, &format!("df -h {}", parent.display()))?;
    let mut name = dst.as_os_str().to_owned();
    name.push(".kvutil-clone");
    let beside = PathBuf::from(name);
    if beside.exists() {
        shell.note(&format!(
            "dropped {}, which had been interrupted",
            beside.display()
        ));
        fs::remove_dir_all(&beside).map_err(|e| Failure::io("remove", &beside, &e))?;
    }
    let make = || -> Result<_> {
        fs::create_dir(&beside).map_err(|e| Failure::io("create", &beside, &e))?;
        Ok(((), vec![beside.clone()]))
    };
    let ((), guards) = process::make_guarded(make)?;
    let mut copying = Copying {
        skip_bad: args.skip_bad,
        files: 0,
        bytes: 0,
        unreadable_bytes: 0,
        unreadable: Vec::new(),
        progress: shell.progress.bytes("copying", total),
    };
    let copied = copying.directory(reading.root(), &beside, true);
    if let Err(failure) = copied {
        let _ = fs::remove_dir_all(&beside);
        return Err(failure.then(format!(
            "kvutil data clone --data-dir {} --skip-bad {}",
            args.data.data_dir.display(),
            dst.display()
        )));
    }
    drop(guards);
    fs::rename(&beside, &dst).map_err(|e| Failure::io("rename", &beside, &e))?;
    sync(&parent)?;
    let Copying {
        files,
        bytes,
        unreadable_bytes,
        unreadable,
        progress,
        ..
    } = copying;
    drop(progress);
    let cloned = Cloned {
        schema: "kvutil.data.clone.1",
        from: args.data.data_dir.display().to_string(),
        to: dst.display().to_string(),
        files,
        bytes,
        unreadable_bytes,
        unreadable,
    };
    shell.output.print(&cloned, |cloned| {
        let mut text = format!(
            "{}: {} files, {}",
            cloned.to,
            cloned.files,
            human(cloned.bytes)
        );
        for place in &cloned.unreadable {
            text.push_str(&format!("\n  not readable: {place}"));
        }
        text
    });
    if cloned.unreadable.is_empty() {
        return Ok(Outcome::Fine);
    }
    eprintln!("next:  kvutil data check --data-dir {}", cloned.to);
    Ok(Outcome::Damage)
}

impl Copying {
    /// Fills `to`, which is there and empty.
    fn directory(&mut self, from: &Path, to: &Path, top: bool) -> Result<()> {
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(to, mode).map_err(|e| Failure::io("chmod", to, &e))?;
        let entries = fs::read_dir(from).map_err(|e| Failure::io("list", from, &e))?;
        for entry in entries {
            let entry = entry.map_err(|e| Failure::io("list", from, &e))?;
            let name = entry.file_name();
            if top
                && [LOCK_FILE, ADMIN_SOCKET, QUARANTINE_DIR]
                    .iter()
                    .any(|left_out| name == *left_out)
            {
                continue;
            }
            let (source, target) = (entry.path(), to.join(&name));
            let kind = entry
                .file_type()
                .map_err(|e| Failure::io("look at", &source, &e))?;
            if kind.is_dir() {
                fs::create_dir(&target).map_err(|e| Failure::io("create", &target, &e))?;
                self.directory(&source, &target, false)?;
            } else if kind.is_file() {
                self.file(&source, &target)
                    .map_err(|e| Failure::io("copy", &source, &e))?;
                self.files += 1;
            }
        }
        if top {
            let quarantine = to.join(QUARANTINE_DIR);
            fs::create_dir(&quarantine).map_err(|e| Failure::io("create", &quarantine, &e))?;
        }
        sync(to)
    }

    fn file(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let source = File::open(from)?;
        let target = File::create_new(to)?;
        // A file system that can share blocks does so at once.
        if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
            self.bytes_of(from, &source, &target)?;
        }
        let length = source.metadata()?.len();
        self.bytes += length;
        self.progress.set(self.bytes);
        target.sync_all()
    }

    fn bytes_of(&mut self, from: &Path, source: &File, mut target: &File) -> io::Result<()> {
        let length = source.metadata()?.len();
        target.set_len(length)?;
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < length {
            let left = usize::try_from(length - offset).unwrap_or(usize::MAX);
            let step = left.min(buffer.len());
            let piece = &mut buffer[..step];
            match source.read_exact_at(piece, offset) {
                Ok(()) => {}
                Err(_) if self.skip_bad => {
                    for (number, sector) in piece.chunks_mut(SECTOR_BYTES).enumerate() {
                        let at = offset + (number * SECTOR_BYTES) as u64;
                        if source.read_exact_at(sector, at).is_err() {
                            sector.fill(UNREADABLE);
                            self.unreadable_bytes += sector.len() as u64;
                            if self.unreadable.len() < 1000 {
                                self.unreadable.push(format!("{} at {at}", from.display()));
                            }
                        }
                    }
                }
                Err(error) => return Err(error),
            }
            // Holes stay holes.
            if piece.iter().any(|byte| *byte != 0) {
                io::Seek::seek(&mut target, io::SeekFrom::Start(offset))?;
                target.write_all(piece)?;
            }
            offset += step as u64;
        }
        Ok(())
    }
}

fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| Failure::io("sync", path, &e))
}
