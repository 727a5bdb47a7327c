//! What a member that has missed very much costs the others: three members, one of them away while keys are written,
//! then back. It needs the state itself, so what it takes is sent while clients go on; their latency is measured before and
//! meanwhile.
//!
//! The load is a client's few puts in flight through the leader. On a small machine all members, the receiver's work
//! included, share the processors with it: the figures are an upper bound of what separate machines show.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::load::{Kind, Load};
use crate::net::Failure;
use crate::outcome::Outcome;
use crate::server::Program;

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(300);
const MEMBERS: usize = 3;
/// What a member of kvnode, or of etcd, says when a snapshot has taken the place of its state.
const TOOK_OVER: [&str; 2] = ["took over the state of index", "applied snapshot"];
/// Entries a member may be behind and count as caught up.
const BEHIND: i64 = 2_000;
/// etcd keeps 5000 entries behind its last snapshot; with its usual 100 000 between snapshots it would send its log.
const ETCD_SNAPSHOT_COUNT: &str = "--snapshot-count=1000";

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    pub programs: Vec<Program>,
    /// Written while the member is away, a hundred per transaction.
    pub keys: u64,
    pub value_bytes: usize,
    /// Puts in flight while it is measured.
    pub in_flight: usize,
    /// Measured seconds before, and of each slice meanwhile.
    pub measured: Duration,
    pub directory: PathBuf,
}

struct Member {
    child: Option<Child>,
    client: u16,
    peer: u16,
    home: PathBuf,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Member {
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.client))
    }

    fn start(&mut self, number: usize, program: &Program, all: &str) -> Result<(), Failure> {
        let client = format!("http://127.0.0.1:{}", self.client);
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.join("log"))?;
        let mut command = Command::new(&program.path);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD_") || text.starts_with("KVNODE_") {
                command.env_remove(&name);
            }
        }
        command
            .arg(format!("--name=m{number}"))
            .arg(format!("--data-dir={}", self.home.join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={all}"))
            .arg("--quota-backend-bytes=8589934592")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if program.label.starts_with("etcd") {
            command.args([ETCD_SNAPSHOT_COUNT, "--logger=zap"]);
        }
        self.child = Some(command.spawn()?);
        Ok(())
    }

    fn took_over(&self) -> bool {
        let log = std::fs::read_to_string(self.home.join("log")).unwrap_or_default();
        TOOK_OVER.iter().any(|words| log.contains(words))
    }

    /// One of its numbers; `None` while it does not answer.
    fn number(&self, name: &str) -> Option<i64> {
        let mut socket =
            TcpStream::connect_timeout(&self.address(), Duration::from_secs(1)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let line = answer.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    }

    fn applied(&self) -> Option<i64> {
        self.number("etcd_server_proposals_applied_total ")
    }
}

/// Runs it and prints what was found.
///
/// # Errors
/// A member that does not start, a load that fails, or a member that does not catch up.
pub fn run(plan: &Plan) -> Result<(), Failure> {
    for program in &plan.programs {
        println!("{}", program.label);
        one(plan, program).map_err(|failure| Failure(format!("{}: {failure}", program.label)))?;
    }
    Ok(())
}

fn one(plan: &Plan, program: &Program) -> Result<(), Failure> {
    let place = TempDir::new_in(&plan.directory)?;
    let mut members = prepare(place.path())?;
    let entries = members.iter().enumerate();
    let entries = entries.map(|(at, member)| format!("m{at}=http://127.0.0.1:{}", member.peer));
    let all = entries.collect::<Vec<_>>().join(",");
    for (at, member) in members.iter_mut().enumerate() {
        member.start(at, program, &all)?;
    }
    let leads = |member: &Member| member.number("etcd_server_is_leader ") == Some(1);
    let leader = until("a leader", || members.iter().position(leads))?;
    until("all members serve", || {
        let knows = |member: &Member| member.number("etcd_server_has_leader ") == Some(1);
        members.iter().all(knows).then_some(())
    })?;

    let away = (leader + 1) % MEMBERS;
    members[away].kill();
    let server = members[leader].address();
    let fill = Load {
        kind: Kind::Fill,
        connections: 4,
        in_flight: 16,
        keys: plan.keys,
        value_bytes: plan.value_bytes,
        ..Load::default()
    };
    let filled = fill.run(server, &[])?;
    println!(
        "written while one member was away: {} keys of {} bytes in {:.1} s",
        plan.keys, plan.value_bytes, filled.seconds
    );
    // What the filling has left to do is not what is measured.
    std::thread::sleep(Duration::from_secs(5));
    let puts = Load {
        kind: Kind::Put,
        connections: plan.in_flight.clamp(1, 4),
        in_flight: plan.in_flight,
        keys: plan.keys,
        value_bytes: plan.value_bytes,
        measured: plan.measured,
        ..Load::default()
    };
    let before = puts.run(server, &[])?;
    tell("undisturbed", &before);

    let begun = Instant::now();
    members[away].start(away, program, &all)?;
    let mut worst: Option<Outcome> = None;
    let mut slices = 0;
    let mut caught_up = false;
    while !caught_up {
        if begun.elapsed() > PATIENCE {
            return Err(Failure("the member does not catch up".to_owned()));
        }
        let slice = puts.run(server, &[])?;
        slices += 1;
        tell(&format!("slice {slices} of catching up"), &slice);
        if worst
            .as_ref()
            .is_none_or(|worst| slice.p99_us > worst.p99_us)
        {
            worst = Some(slice);
        }
        let target = members[leader].applied();
        caught_up = matches!(
            (members[away].applied(), target),
            (Some(has), Some(target)) if has + BEHIND > target
        );
    }
    let took = begun.elapsed();
    let after = puts.run(server, &[])?;
    tell("afterwards", &after);
    println!(
        "caught up within {took:.1?}, {}",
        match members[away].took_over() {
            true => "by snapshot",
            false => "by its log alone: write more keys",
        }
    );
    if let Some(worst) = worst {
        println!(
            "put p99: {:.0} us undisturbed, {:.0} us in the worst slice meanwhile: {:.2} times",
            before.p99_us,
            worst.p99_us,
            worst.p99_us / before.p99_us
        );
    }
    Ok(())
}

fn prepare(place: &Path) -> Result<Vec<Member>, Failure> {
    // All are held until all are known, or two could be the same.
    let mut held = Vec::new();
    let mut members = Vec::new();
    for number in 0..MEMBERS {
        let client = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let home = place.join(format!("m{number}"));
        std::fs::create_dir(&home)?;
        members.push(Member {
            child: None,
            client: client.local_addr()?.port(),
            peer: peer.local_addr()?.port(),
            home,
        });
        held.push((client, peer));
    }
    Ok(members)
}

fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> Result<T, Failure> {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if begun.elapsed() > PATIENCE {
            return Err(Failure(format!("waited {PATIENCE:?} for {what}")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn tell(when: &str, outcome: &Outcome) {
    println!(
        "{when}: {:.0} puts/s, p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us, {} errors",
        outcome.ops_per_second,
        outcome.p50_us,
        outcome.p99_us,
        outcome.p999_us,
        outcome.max_us,
        outcome.errors
    );
}
