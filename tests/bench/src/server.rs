//! Servers started for the comparison: each with its own data directory, ports and log file, all
//! with the same settings, and none outliving its [`Server`].

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::data::key;
use crate::net::{Failure, Net};
use crate::outcome::Meter;
use crate::unary::{self, Span};
use crate::work::{Order, Picker, Range};

/// Longest start, of a large data directory, that is waited for.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// Longest clean stop; after it the process is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// A server program.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    /// "kvnode 0.1.0", "etcd 3.5.1": unique within a comparison.
    pub label: String,
}

impl Program {
    /// Asks the program for its version.
    ///
    /// # Errors
    /// It cannot be run or says nothing.
    pub fn new(path: &Path) -> Result<Program, Failure> {
        let output = Command::new(path)
            .arg("--version")
            .output()
            .map_err(|error| Failure(format!("{}: {error}", path.display())))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let label = label_of(&text);
        let label = label.ok_or_else(|| Failure(format!("{}: no version", path.display())))?;
        Ok(Program {
            path: path.to_owned(),
            label,
        })
    }
}

/// "etcd Version: 3.4.23" and "kvnode 0.1.0 (...)" as name and version.
fn label_of(version: &str) -> Option<String> {
    let mut words = version
        .lines()
        .next()?
        .split_whitespace()
        .filter(|word| *word != "Version:");
    let name = words.next()?.trim_end_matches(':');
    let number = words.next()?.trim_end_matches([',', ';']);
    Some(format!("{name} {number}"))
}

/// Where a server lives over its restarts.
pub struct Home {
    program: Program,
    directory: PathBuf,
    client: u16,
    peer: u16,
    quota_bytes: u64,
}

impl Home {
    /// A data directory to be made in `directory`, and two free ports.
    pub fn new(program: &Program, directory: &Path, quota_bytes: u64) -> Result<Home, Failure> {
        // Both are held until both are known, or they could be the same.
        let client = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Home {
            program: program.clone(),
            directory: directory.to_owned(),
            client: client.local_addr()?.port(),
            peer: peer.local_addr()?.port(),
            quota_bytes,
        })
    }

    /// Starts the server and waits for its first answered linearizable read; the time that took.
    /// `expected` is a key that must be there and the length of its value.
    ///
    /// # Errors
    /// The server ends, or does not answer in time; with the end of its log.
    pub fn start(&self, expected: Option<(u64, usize)>) -> Result<(Server, Duration), Failure> {
        let client = format!("http://127.0.0.1:{}", self.client);
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let log_path = self.directory.join("log");
        let log = File::options().create(true).append(true).open(&log_path)?;
        let mut command = Command::new(&self.program.path);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD_") || text.starts_with("KVNODE_") {
                command.env_remove(&name);
            }
        }
        command
            .arg("--name=bench")
            .arg(format!(
                "--data-dir={}",
                self.directory.join("data").display()
            ))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=bench={peer}"))
            .arg(format!("--quota-backend-bytes={}", self.quota_bytes))
            .arg("--logger=zap")
            .arg("--log-level=warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let start = Instant::now();
        let child = command.spawn()?;
        let mut server = Server {
            child,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, self.client)),
        };
        while start.elapsed() < START_PATIENCE {
            if let Some(status) = server.child.try_wait()? {
                return Err(Failure(format!(
                    "it ended with {status}; {}",
                    tail(&log_path)
                )));
            }
            match server.answers(expected) {
                Ok(()) => return Ok((server, start.elapsed())),
                // Not there yet, or there but without a leader.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        Err(Failure(format!("it does not answer; {}", tail(&log_path))))
    }

    /// Bytes of all files of the data directory.
    pub fn disk_bytes(&self) -> u64 {
        bytes_under(&self.directory.join("data"))
    }
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether a linearizable read is answered, and rightly.
    fn answers(&self, expected: Option<(u64, usize)>) -> Result<(), Failure> {
        let (number, value_bytes) = expected.unwrap_or((0, 0));
        let mut net = Net::connect(self.address, 1, Duration::from_secs(10))?;
        let mut work = One(
            Range {
                picker: Picker::new(Order::Random, 1, 0),
                width: 1,
                serializable: false,
                value_bytes,
            },
            Some(number),
        );
        let outcome = unary::run(&mut net, &mut work, 1, Span::ALL, Meter::new(None))?;
        match outcome.first_error {
            None => Ok(()),
            Some(reason) => Err(Failure(reason)),
        }
    }

    /// Asks it to stop and waits; how long that took.
    ///
    /// # Errors
    /// It does not stop in time; it is killed then.
    pub fn stop(mut self) -> Result<Duration, Failure> {
        let start = Instant::now();
        self.signal(Signal::TERM)?;
        while start.elapsed() < STOP_PATIENCE {
            if self.child.try_wait()?.is_some() {
                return Ok(start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Failure("it does not stop".to_owned()))
    }

    /// Kills it at once, as a crash of the process would.
    pub fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure("no process id".to_owned()))?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both do nothing for a child that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A read of one key, once.
struct One(Range, Option<u64>);

impl crate::work::Work for One {
    fn method(&self) -> kvnode_api::service::Method {
        self.0.method()
    }

    fn next(&mut self, _slot: usize, out: &mut Vec<u8>) -> bool {
        let number = self.1.take();
        if let Some(number) = number {
            crate::proto::bytes(1, &key(number), out);
        }
        number.is_some()
    }

    fn answered(&mut self, slot: usize, bytes: usize, body: &[u8]) -> Result<(), String> {
        self.0.answered(slot, bytes, body)
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("its last words:\n{}", lines.join("\n"))
}

fn bytes_under(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
            // What is allocated: files made ahead may have holes.
            Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_from_what_programs_say() {
        for (text, label) in [
            ("etcd Version: 3.4.23\nGit SHA: x", Some("etcd 3.4.23")),
            ("kvnode 0.1.0 (etcd 3.6.7)\n", Some("kvnode 0.1.0")),
            ("kvnode Version: 0.1.0", Some("kvnode 0.1.0")),
            ("", None),
        ] {
            assert_eq!(label_of(text).as_deref(), label);
        }
    }

    #[test]
    fn all_files_of_a_directory_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("in")).unwrap();
        for name in ["in/file", "other"] {
            let mut file = File::create(directory.path().join(name)).unwrap();
            std::io::Write::write_all(&mut file, &[1; 100_000]).unwrap();
            // Blocks are counted only once they are allocated.
            file.sync_all().unwrap();
        }
        assert!(bytes_under(directory.path()) >= 200_000);
        assert_eq!(bytes_under(&directory.path().join("missing")), 0);
    }
}
