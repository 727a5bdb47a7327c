//! `snapshot save`: the state of one member, checked while it arrives, in its place only when it is whole.

use std::fs::{self, File};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvnode_client::{Client, api, cluster_of, snapshot_source};
use sha2::{Digest as _, Sha256};

use crate::context::Context;
use crate::failure::{Failure, Result, code};
use crate::golang;
use crate::output::say_line;

/// Length of the SHA-256 at the end.
const DIGEST_BYTES: usize = 32;

pub async fn save(context: &Context<'_>) -> Result<()> {
    let words = context.texts();
    let [file] = &words[..] else {
        return Err(Failure::usage(
            "snapshot save expects one argument <filename>",
            "snapshot save",
        ));
    };
    let client = context.client()?;
    let client = chosen(&client, &context.settings.endpoints)
        .await
        .map_err(interrupted)?;
    let saving = receive(&client, Path::new(file));
    let saved = match context.settings.command_timeout_given {
        false => saving.await,
        true => match tokio::time::timeout(context.settings.command_timeout, saving).await {
            Ok(result) => result,
            Err(_) => {
                let _ = fs::remove_file(part_of(Path::new(file)));
                Err(Failure::new(code::INTERRUPTED, "context deadline exceeded")
                    .next("--command-timeout=10m"))
            }
        },
    };
    let saved = saved.map_err(interrupted)?;
    say_line(&format!("Snapshot saved at {file}"))?;
    if !saved.version.is_empty() {
        say_line(&format!("Server version {}", saved.version))?;
    }
    eprintln!("{}", contents(&client, Path::new(file), &saved).await);
    Ok(())
}

/// What was saved.
struct Saved {
    /// The server's.
    version: String,
    /// Bytes of the file.
    length: u64,
    /// Its last 32 bytes, in hexadecimal.
    sha256: String,
}

/// What the file holds, for people. Header and footer say it, of a `.kvs` file; how many keys that are, the member they came
/// from knows as long as it has not compacted the revision.
async fn contents(client: &Client, file: &Path, saved: &Saved) -> String {
    let size = golang::size(i64::try_from(saved.length).unwrap_or(i64::MAX));
    let tail = format!("size {size}, sha256 {}", saved.sha256);
    let opened = File::open(file)
        .ok()
        .and_then(|file| kvnode_snapshot::Snapshot::open(BufReader::new(file)).ok());
    let Some(snapshot) = opened else {
        return tail;
    };
    let revision = snapshot.info().revision;
    let all = api::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        count_only: true,
        serializable: true,
        ..Default::default()
    };
    let keys = match client.range(all).await {
        Ok(answer) => format!("keys {}, ", answer.count),
        Err(_) => String::new(),
    };
    // As `kvutil snapshot status` shows it.
    let hash = snapshot.logical_hash() as u32;
    format!("revision {revision}, {keys}hash {hash:x}, {tail}")
}

fn interrupted(failure: Failure) -> Failure {
    failure.with_code(code::INTERRUPTED)
}

/// Of several endpoints, the one whose member is best taken: see [`snapshot_source`].
async fn chosen(client: &Client, endpoints: &[String]) -> Result<Client> {
    if let [only] = endpoints {
        return Ok(client.only(only)?);
    }
    let next = "kvctl endpoint status --write-out=table";
    let (mut seen, mut statuses, mut last) = (Vec::new(), Vec::new(), None);
    for endpoint in endpoints {
        let client = client.only(endpoint)?;
        match client.status().await {
            Ok(status) => {
                seen.push((endpoint, client));
                statuses.push(status);
            }
            Err(error) => last = Some(error),
        }
    }
    if statuses
        .windows(2)
        .any(|two| cluster_of(&two[0]) != cluster_of(&two[1]))
    {
        let text = format!("{} are of more than one cluster", endpoints.join(", "));
        return Err(Failure::new(code::INTERRUPTED, text).next(next));
    }
    let (best, unfit) = snapshot_source(&statuses);
    match (best, last) {
        (Some(best), _) => {
            let (endpoint, client) = seen.swap_remove(best);
            eprintln!("taking the snapshot from {endpoint}");
            Ok(client)
        }
        (None, Some(error)) if seen.is_empty() => Err(error.into()),
        (None, None) if seen.is_empty() => {
            Err(Failure::new(code::INTERRUPTED, "no endpoint is given")
                .next("--endpoints=HOST:PORT"))
        }
        (None, _) => {
            let why = seen.iter().zip(&unfit);
            let why = why.filter_map(|((endpoint, _), unfit)| {
                unfit.map(|unfit| format!("{endpoint} {unfit}"))
            });
            let why: Vec<String> = why.collect();
            let text = format!("no member is fit to give a snapshot: {}", why.join("; "));
            Err(Failure::new(code::INTERRUPTED, text).next(next))
        }
    }
}

fn part_of(file: &Path) -> PathBuf {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// Writes the stream beside `file`, checks it and renames.
async fn receive(client: &Client, file: &Path) -> Result<Saved> {
    let part = part_of(file);
    let written = write(client, &part).await;
    let saved = match written {
        Ok(saved) => saved,
        Err(failure) => {
            let _ = fs::remove_file(&part);
            return Err(failure);
        }
    };
    fs::rename(&part, file).map_err(|error| failed("rename", &part, &error))?;
    let directory = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| failed("sync", directory, &error))?;
    Ok(saved)
}

async fn write(client: &Client, part: &Path) -> Result<Saved> {
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(part)
        .map_err(|error| failed("create", part, &error))?;
    let mut snapshot = client.snapshot().await?;
    let mut check = Check::default();
    let mut version = String::new();
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    while let Some(next) = snapshot.next().await? {
        check.take(&next.bytes);
        file.write_all(&next.bytes)
            .map_err(|error| failed("write", part, &error))?;
        if !next.version.is_empty() {
            version = next.version;
        }
        bar.set_length(check.length + next.remaining_bytes);
        bar.set_position(check.length);
    }
    bar.finish_and_clear();
    let length = check.length;
    let sha256 = check.verdict(snapshot.endpoint())?;
    file.sync_all()
        .map_err(|error| failed("sync", part, &error))?;
    Ok(Saved {
        version,
        length,
        sha256,
    })
}

/// Digest of all but the last 32 bytes, which are compared with it at the end.
#[derive(Default)]
struct Check {
    hash: Sha256,
    /// Bytes that may turn out to be the last; at most [`DIGEST_BYTES`].
    tail: Vec<u8>,
    length: u64,
}

impl Check {
    fn take(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let body = self.tail.len().saturating_sub(DIGEST_BYTES);
        self.hash.update(&self.tail[..body]);
        self.tail.drain(..body);
    }

    /// The digest in hexadecimal, if it is that of the bytes.
    fn verdict(self, endpoint: &str) -> Result<String> {
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let broken = |text: String| {
            Err(Failure::new(code::INTERRUPTED, text).next(format!(
                "kvctl --endpoints {endpoint} snapshot save FILE   # again"
            )))
        };
        if self.tail.len() < DIGEST_BYTES || self.length % 512 != DIGEST_BYTES as u64 {
            let length = self.length;
            return broken(format!(
                "sha256 checksum not found: {length} bytes came from {endpoint}, expected a multiple of 512 and 32 more"
            ));
        }
        let found = self.hash.finalize();
        if found[..] != self.tail[..] {
            return broken(format!(
                "the snapshot from {endpoint} is damaged: its digest says {}, its bytes give {}",
                hex(&self.tail),
                hex(&found)
            ));
        }
        Ok(hex(&found))
    }
}

fn failed(action: &str, path: &Path, error: &io::Error) -> Failure {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let path = path.display();
    let next = match (error.kind(), directory) {
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => format!("df -h {path}"),
        (io::ErrorKind::NotFound, Some(directory)) => format!("mkdir -p {}", directory.display()),
        _ => format!("ls -ld {path}"),
    };
    Failure::new(
        code::INTERRUPTED,
        format!("cannot {action} {path}: {error}"),
    )
    .next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(mut bytes: Vec<u8>, damage: Option<usize>, piece: usize) -> Result<String> {
        bytes.resize(1024, 7);
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        if let Some(at) = damage {
            bytes[at] ^= 1;
        }
        let mut check = Check::default();
        bytes.chunks(piece).for_each(|piece| check.take(piece));
        check.verdict("a:1")
    }

    #[test]
    fn a_digest_is_checked_however_the_stream_is_cut() {
        for piece in [1, 31, 32, 33, 500, 2000] {
            assert!(judged(b"state".to_vec(), None, piece).is_ok(), "{piece}");
            for damage in [0, 1023, 1024, 1055] {
                let failure = judged(b"state".to_vec(), Some(damage), piece).expect_err("damaged");
                assert!(failure.text().contains("damaged"), "{}", failure.text());
            }
        }
        let mut short = Check::default();
        short.take(b"half");
        assert!(
            short
                .verdict("a:1")
                .expect_err("short")
                .text()
                .contains("4 bytes")
        );
    }
}
