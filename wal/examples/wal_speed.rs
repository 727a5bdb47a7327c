//! Figures of the log on the disk of a given directory, beside a bare write and fdatasync:
//! `cargo run --release -p kvnode-wal --example wal_speed -- /some/dir`

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvnode_wal::{
    Entry, EntryKind, Floors, HardState, Identity, Log, Membership, Options, SyncMethod, dir,
};

const ROUNDS: u64 = 3000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let home = std::env::args()
        .nth(1)
        .ok_or("usage: wal_speed DIRECTORY")?;
    let home = Path::new(&home).join(format!("wal_speed-{}", std::process::id()));
    std::fs::create_dir_all(&home)?;
    // Turn by turn, so that a noisy neighbour meets both.
    for _ in 0..3 {
        bare(&home)?;
        one_in_flight(&home)?;
    }
    million(&home)?;
    std::fs::remove_dir_all(&home)?;
    Ok(())
}

fn bare(home: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let path = home.join("bare");
    std::fs::write(&path, vec![0u8; 64 << 20])?;
    let file = OpenOptions::new().write(true).open(&path)?;
    file.sync_all()?;
    let block = vec![7u8; 4096];
    let before = cpu();
    let times = (0..ROUNDS).map(|round| {
        let start = Instant::now();
        file.write_at(&block, round * 4096)?;
        file.sync_data()?;
        Ok(start.elapsed())
    });
    let times = times.collect::<std::io::Result<_>>()?;
    report("bare write + fdatasync", cpu() - before, times);
    Ok(())
}

fn one_in_flight(home: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let wal = home.join("one");
    let start = Instant::now();
    let mut log = create(&wal, SyncMethod::Fdatasync)?;
    println!("create with a 64 MiB segment: {:?}", start.elapsed());
    // The spare is made meanwhile; let it finish.
    std::thread::sleep(Duration::from_secs(1));
    let (before, mut times) = (cpu(), Vec::new());
    for index in 1..=ROUNDS {
        let entry = [entry(index, 256)];
        let hard_state = HardState {
            term: 1,
            vote: 1,
            commit: index - 1,
        };
        let start = Instant::now();
        log.append(&entry, Some(hard_state), true, 0)?;
        times.push(start.elapsed());
    }
    report("append of 256 bytes, one in flight", cpu() - before, times);
    drop(log);
    std::fs::remove_dir_all(&wal)?;
    Ok(())
}

fn million(home: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let wal = home.join("million");
    let mut log = create(&wal, SyncMethod::None)?;
    let (start, before) = (Instant::now(), cpu());
    for first in (1..=1_000_000).step_by(50) {
        let group: Vec<_> = (first..first + 50).map(|index| entry(index, 300)).collect();
        log.append(&group, None, true, 0)?;
    }
    let (took, used) = (start.elapsed(), cpu() - before);
    println!("1 M entries of 300 bytes, 50 per batch, unsynced: {took:?}, cpu {used:?}");
    log.close(0)?;
    drop(log);
    for keep_after in [0, 999_000] {
        let (start, before) = (Instant::now(), cpu());
        let floors = Floors {
            keep_after,
            ..Floors::default()
        };
        let found = dir::recover(&wal, &IDENTITY, floors)?;
        println!(
            "recovered {} entries, kept {}, {} MiB: {:?}, cpu {:?}",
            found.report.entries,
            found.entries.len(),
            found.report.bytes >> 20,
            start.elapsed(),
            cpu() - before
        );
    }
    Ok(())
}

const IDENTITY: Identity = Identity {
    cluster: 1,
    member: 1,
    instance: [1; 16],
};

fn create(wal: &Path, sync: SyncMethod) -> Result<Log, kvnode_wal::Error> {
    let options = Options {
        sync,
        ..Options::default()
    };
    Log::create(wal, IDENTITY, options, 1, Membership::default(), 0)
}

fn entry(index: u64, bytes: usize) -> Entry {
    let payload = Bytes::from(vec![index as u8 | 1; bytes]);
    Entry {
        index,
        term: 1,
        kind: EntryKind::Normal,
        payload,
    }
}

/// Processor time of this process so far: tells on a busy machine, too.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn report(what: &str, cpu: Duration, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let cpu = cpu / ROUNDS as u32;
    println!(
        "{what}: p50 {:?} p90 {:?} p99 {:?}, cpu {cpu:?}",
        at(50),
        at(90),
        at(99)
    );
}
