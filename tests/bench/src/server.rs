//! Servers started for the comparison: each member with its own data directory, ports and log file, all
//! with the same settings, and none outliving its [`Server`].

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kvnode_api::service::Method;
use rustix::process::{Pid, Signal, kill_process};

use crate::data::key;
use crate::load::ranges::{Range, Wants};
use crate::net::{Failure, Net};
use crate::outcome::Meter;
use crate::proto::{bytes_in, number_in};
use crate::tls;
use crate::unary::{self, Span};
use crate::work::{Order, Picker};

/// Longest start, of a large data directory, that is waited for.
const START_PATIENCE: Duration = Duration::from_secs(600);
/// Longest clean stop; after it the process is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(300);

/// A server program.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    /// "kvnode 0.1.0", "etcd 3.5.1": unique within a comparison.
    pub label: String,
    /// All it says of its version, in one line.
    pub version: String,
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
            version: version_of(&text),
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

/// The lines as one, without those that name compilers and platforms.
fn version_of(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let said = lines.filter(|line| !line.is_empty() && !line.contains("OS/Arch"));
    said.collect::<Vec<_>>().join(", ")
}

/// Where a server, of one member or several, lives over its restarts.
pub struct Home {
    program: Program,
    directory: PathBuf,
    places: Vec<Place>,
    quota_bytes: u64,
}

/// One member's ports.
#[derive(Clone, Copy)]
struct Place {
    client: u16,
    peer: u16,
}

impl Home {
    /// Data directories to be made in `directory`, and two free ports for each member.
    pub fn new(
        program: &Program,
        directory: &Path,
        quota_bytes: u64,
        members: usize,
    ) -> Result<Home, Failure> {
        // All are held until all are known, or two could be the same.
        let mut held = Vec::new();
        let mut free = || -> Result<u16, Failure> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let places = (0..members.max(1)).map(|_| {
            Ok(Place {
                client: free()?,
                peer: free()?,
            })
        });
        Ok(Home {
            program: program.clone(),
            directory: directory.to_owned(),
            places: places.collect::<Result<_, Failure>>()?,
            quota_bytes,
        })
    }

    /// Starts the server and waits until every member has answered a linearizable read; the time that took.
    /// `expected` is a key that must be there and the length of its value.
    ///
    /// # Errors
    /// A member ends, or does not answer in time; with the end of its log.
    pub fn start(&self, expected: Option<(u64, usize)>) -> Result<(Server, Duration), Failure> {
        let start = Instant::now();
        let mut server = Server {
            members: Vec::new(),
            address: self.places[0].address(),
        };
        for number in 0..self.places.len() {
            server.members.push(self.start_member(number)?);
        }
        for number in 0..self.places.len() {
            self.until_it_answers(&mut server, number, expected, start)?;
        }
        let took = start.elapsed();
        if self.places.len() > 1 {
            server.address = self.leader()?;
        }
        Ok((server, took))
    }

    /// Client addresses, member by member.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.places.iter().map(|place| place.address()).collect()
    }

    /// Starts a member of `server` that was killed, and waits until it answers a linearizable read.
    ///
    /// # Errors
    /// As [`Home::start`].
    pub fn start_again(&self, server: &mut Server, number: usize) -> Result<(), Failure> {
        server.members[number] = self.start_member(number)?;
        self.until_it_answers(server, number, None, Instant::now())
    }

    /// Waits until a member answers a linearizable read.
    fn until_it_answers(
        &self,
        server: &mut Server,
        number: usize,
        expected: Option<(u64, usize)>,
        start: Instant,
    ) -> Result<(), Failure> {
        while let Err(why) = answers(self.places[number].address(), expected) {
            let log = self.log_path(number);
            if let Some(status) = server.members[number].try_wait()? {
                return Err(Failure(format!("it ended with {status}; {}", tail(&log))));
            }
            if start.elapsed() > START_PATIENCE {
                return Err(Failure(format!(
                    "it does not answer: {why}; {}",
                    tail(&log)
                )));
            }
            // Not there yet, or there but without a leader.
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn start_member(&self, number: usize) -> Result<Child, Failure> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(number))?;
        let mut command = Command::new(&self.program.path);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD_") || text.starts_with("KVNODE_") {
                command.env_remove(&name);
            }
        }
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let Place { client, peer } = self.places[number];
        let served = match tls::is_on() {
            true => format!("https://127.0.0.1:{client}"),
            false => url(client),
        };
        let founders: Vec<String> = (self.places.iter().enumerate())
            .map(|(number, place)| format!("bench{number}={}", url(place.peer)))
            .collect();
        let data = self.data_path(number);
        command
            .arg(format!("--name=bench{number}"))
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--listen-client-urls={served}"))
            .arg(format!("--advertise-client-urls={served}"))
            .arg(format!("--listen-peer-urls={}", url(peer)))
            .arg(format!("--initial-advertise-peer-urls={}", url(peer)))
            .arg(format!("--initial-cluster={}", founders.join(",")))
            .arg(format!("--quota-backend-bytes={}", self.quota_bytes))
            .arg("--logger=zap")
            .arg("--log-level=warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if tls::is_on() {
            command.arg("--auto-tls");
        }
        Ok(command.spawn()?)
    }

    /// The client address of the member that leads.
    ///
    /// # Errors
    /// None does, or one does not answer.
    pub fn leader(&self) -> Result<SocketAddr, Failure> {
        let start = Instant::now();
        while start.elapsed() < START_PATIENCE {
            for place in &self.places {
                if leads(place.address())? {
                    return Ok(place.address());
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(Failure("no member says that it leads".to_owned()))
    }

    fn data_path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("data{number}"))
    }

    fn log_path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("log{number}"))
    }

    /// Bytes of all files of the data directories.
    pub fn disk_bytes(&self) -> u64 {
        let each = (0..self.places.len()).map(|number| bytes_under(&self.data_path(number)));
        each.sum()
    }
}

impl Place {
    fn address(self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.client))
    }
}

/// A running server; killed when dropped.
pub struct Server {
    members: Vec<Child>,
    /// Where clients ask; of several members the one that led at the start.
    pub address: SocketAddr,
}

impl Server {
    /// The process of each member.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Child::id).collect()
    }

    /// Asks it to stop and waits; how long that took.
    ///
    /// # Errors
    /// It does not stop in time; it is killed then.
    pub fn stop(mut self) -> Result<Duration, Failure> {
        let start = Instant::now();
        for member in &self.members {
            terminate(member)?;
        }
        for member in &mut self.members {
            while member.try_wait()?.is_none() {
                if start.elapsed() > STOP_PATIENCE {
                    return Err(Failure("it does not stop".to_owned()));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(start.elapsed())
    }

    /// Kills one member at once.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn kill_member(&mut self, number: usize) -> Result<(), Failure> {
        self.members[number].kill()?;
        self.members[number].wait()?;
        Ok(())
    }

    /// Kills it at once, as a crash of the process would.
    pub fn kill(mut self) -> Result<(), Failure> {
        for member in &mut self.members {
            member.kill()?;
        }
        for member in &mut self.members {
            member.wait()?;
        }
        Ok(())
    }
}

fn terminate(member: &Child) -> Result<(), Failure> {
    let pid = i32::try_from(member.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure("no process id".to_owned()))?;
    Ok(kill_process(pid, Signal::TERM)?)
}

/// Whether a linearizable read is answered, and rightly.
fn answers(address: SocketAddr, expected: Option<(u64, usize)>) -> Result<(), Failure> {
    let (number, value_bytes) = expected.unwrap_or((0, 0));
    let read = Range::<false> {
        picker: Picker::new(Order::Random, 1, 0),
        width: 1,
        serializable: false,
        wants: Wants::Pairs,
        revision: 0,
        value_bytes,
        calls: None,
    };
    once(address, &mut One(read, Some(number)))
}

/// Whether the member there says that it leads.
fn leads(address: SocketAddr) -> Result<bool, Failure> {
    let mut status = Status::default();
    once(address, &mut status)?;
    Ok(status.leads)
}

fn once<W: crate::work::Work>(address: SocketAddr, work: &mut W) -> Result<(), Failure> {
    let mut net = Net::connect(address, 1, Duration::from_secs(10))?;
    let outcome = unary::run(&mut net, work, 1, Span::ALL, Meter::new(&[]))?;
    match outcome.first_error {
        None => Ok(()),
        Some(reason) => Err(Failure(reason)),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for member in &mut self.members {
            // Both do nothing for a child that has been waited for.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// A read of one key, once.
struct One(Range<false>, Option<u64>);

impl crate::work::Work for One {
    fn method(&self, slot: usize) -> Method {
        self.0.method(slot)
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

/// Asks a member once how it is.
#[derive(Default)]
struct Status {
    asked: bool,
    leads: bool,
}

impl crate::work::Work for Status {
    const WANTS_BODY: bool = true;

    fn method(&self, _slot: usize) -> Method {
        Method::Status
    }

    fn next(&mut self, _slot: usize, _out: &mut Vec<u8>) -> bool {
        !std::mem::replace(&mut self.asked, true)
    }

    fn answered(&mut self, _slot: usize, _bytes: usize, body: &[u8]) -> Result<(), String> {
        let answer = body.get(5..).unwrap_or(&[]);
        let (own, leader) = (number_in(bytes_in(answer, 1), 2), number_in(answer, 4));
        self.leads = own != 0 && own == leader;
        Ok(())
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
