//! Measures the two shapes a history record can have, on raw engine records:
//!
//! * `both`: what the key was before the change, and what it became;
//! * `undo`: only what it was before. What it became is found in the next change of that key, or in
//!   the state if there is none.
//!
//! `hist_layout <both|undo> <directory> [keys] [updates] [workers]` loads random-order keys of 45 bytes with
//! values of 256, then updates random ones, both in batches of 64, and replays 100 k events. Wall
//! time on a busy machine says little; CPU time and bytes are what to compare. The directory must
//! not exist and is left behind.

#![expect(
    clippy::disallowed_methods,
    reason = "a measuring program, no part of the store"
)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use kvnode_store::engine::fjall::{FjallEngine, FjallView, Options};
use kvnode_store::engine::{Batch, Engine, Persister, Reader, Space};

const BATCH: u64 = 64;
const VALUE_BYTES: usize = 256;
const EVENTS: u64 = 100_000;
/// Events resolved together; a watcher that catches up is served in slices of about this many.
const SLICE: usize = 1_000;
/// Flags, create, mod and version of a key, as fixed fields.
const META: usize = 16;

/// As the node has it: the store's memtables are hard on an allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Both,
    Undo,
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let shape = match args.next().as_deref() {
        Some("both") => Shape::Both,
        Some("undo") => Shape::Undo,
        _ => {
            return Err(
                "usage: hist_layout <both|undo> <directory> [keys] [updates] [workers]".into(),
            );
        }
    };
    let directory = args.next().ok_or("no directory given")?;
    let keys: u64 = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let updates: u64 = args.next().map_or(Ok(200_000), |text| text.parse())?;

    let mut options = Options::default();
    if let Some(workers) = args.next() {
        options.workers = workers.parse()?;
    }
    let mut engine = FjallEngine::create(Path::new(&directory), &options)?;
    let persister = engine.persister();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<(), Failure> {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                persister.persist().expect("the disk works");
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let done = measure(&mut engine, shape, keys, updates);
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    engine.close()?;
    println!(
        "disk_after_close_mb {:.1}",
        megabytes(occupied(Path::new(&directory))?)
    );
    Ok(())
}

fn measure(engine: &mut FjallEngine, shape: Shape, keys: u64, updates: u64) -> Result<(), Failure> {
    let mut revision = 0;
    let start = Meter::now();
    while revision < keys {
        let count = BATCH.min(keys - revision);
        // A prime step visits every key once, in an order far from sorted.
        let numbers = (revision..revision + count).map(|n| n * 611_953 % keys);
        revision = write(engine, shape, revision, numbers)?;
    }
    engine.persister().persist()?;
    start.report("load", keys);
    let start = Meter::now();
    while revision < keys + updates {
        let count = BATCH.min(keys + updates - revision);
        let numbers = (revision..revision + count).map(|n| random(n) % keys);
        revision = write(engine, shape, revision, numbers)?;
    }
    engine.persister().persist()?;
    start.report("update", updates);
    println!("disk_mb {:.1}", megabytes(engine.disk_bytes()));

    let view = engine.view();
    let start = Meter::now();
    let mut items = 0;
    for item in view.scan(Space::State, b"k", None, false) {
        let (key, value) = item?;
        assert!(!key.is_empty() && !value.is_empty());
        items += 1;
    }
    start.report("scan_state", items);
    let start = Meter::now();
    for number in 0..EVENTS {
        assert!(
            view.get(Space::State, &key_of(random(number) % keys))?
                .is_some()
        );
    }
    start.report("get_state", EVENTS);
    for (name, from) in [
        ("first", keys),
        ("last", keys + updates.saturating_sub(EVENTS)),
    ] {
        for pass in ["cold", "warm"] {
            let start = Meter::now();
            let (events, bytes, gets) = replay(&view, shape, from + 1)?;
            println!(
                "replay_{name}_{pass} events {events} value_mb {:.1}",
                megabytes(bytes)
            );
            println!("replay_{name}_{pass} state_gets {gets}");
            start.report(&format!("replay_{name}_{pass}"), events);
        }
    }
    Ok(())
}

/// One batch of puts of distinct revisions, as the state machine would write it.
fn write(
    engine: &mut FjallEngine,
    shape: Shape,
    mut revision: u64,
    numbers: impl Iterator<Item = u64>,
) -> Result<u64, Failure> {
    let mut batch = Batch::with_capacity(2 * BATCH as usize + 1);
    // The same key twice in a batch: its previous version is the first put's.
    let mut pending: HashMap<Bytes, Bytes> = HashMap::new();
    for number in numbers {
        revision += 1;
        let key = key_of(number);
        let value = value_of(revision);
        let previous = match pending.get(&key) {
            Some(record) => Some(record.clone()),
            None => engine.latest_get(Space::State, &key)?,
        };
        let mut head = BytesMut::with_capacity(META + VALUE_BYTES);
        head.put_u64(revision);
        head.put_u64(0);
        head.put_slice(&value);
        let head = head.freeze();

        let mut hist = BytesMut::with_capacity(2 * VALUE_BYTES + 128);
        hist.put_u8(key.len() as u8);
        hist.put_slice(&key);
        hist.put_slice(&head[..META]);
        let previous = previous.as_deref().unwrap_or_default();
        hist.put_u16(previous.len() as u16);
        hist.put_slice(previous);
        if shape == Shape::Both {
            hist.put_slice(&value);
        }
        batch.put(Space::Hist, hist_key(revision), hist.freeze());
        batch.put(Space::State, key.clone(), head.clone());
        pending.insert(key, head);
    }
    batch.put(
        Space::State,
        &b"M"[..],
        Bytes::copy_from_slice(&revision.to_be_bytes()),
    );
    engine.commit(batch)?;
    Ok(revision)
}

/// Reads [`EVENTS`] events with new and previous value. Returns how many, the bytes of their new
/// values, and how many had to be looked up in the state.
fn replay(view: &FjallView, shape: Shape, from: u64) -> Result<(u64, u64, u64), Failure> {
    let (mut events, mut bytes, mut gets) = (0, 0, 0);
    // Revision, key, new value once known.
    let mut slice: Vec<(u64, Bytes, Option<Bytes>)> = Vec::with_capacity(SLICE);
    let mut open: HashMap<Bytes, usize> = HashMap::with_capacity(SLICE);
    let to = hist_key(from + EVENTS);
    let mut scan = view
        .scan(Space::Hist, &hist_key(from), Some(&to), false)
        .peekable();
    while let Some(item) = scan.next() {
        let (place, record) = item?;
        let revision = u64::from_be_bytes(place[..8].try_into()?);
        let (key, previous, value) = parse(&record);
        if shape == Shape::Undo
            && let Some(before) = open.insert(key.clone(), slice.len())
        {
            slice[before].2 = Some(previous.slice(META..));
        }
        slice.push((revision, key, (shape == Shape::Both).then_some(value)));
        if slice.len() == SLICE || scan.peek().is_none() {
            for (revision, key, value) in slice.drain(..) {
                let value = match value {
                    Some(value) => value,
                    None => {
                        gets += 1;
                        made_by(view, revision, &key)?
                    }
                };
                events += 1;
                bytes += value.len() as u64;
                assert!(value == value_of(revision), "replay differs at {revision}");
            }
            open.clear();
        }
    }
    Ok((events, bytes, gets))
}

/// The value `key` got at `revision`: in the state if that was its last change, else walking down
/// the changes after it.
fn made_by(view: &FjallView, revision: u64, key: &[u8]) -> Result<Bytes, Failure> {
    let mut head = view
        .get(Space::State, key)?
        .ok_or("a live key is missing")?;
    loop {
        let modified = u64::from_be_bytes(head[..8].try_into()?);
        if modified == revision {
            return Ok(head.slice(META..));
        }
        let record = view
            .get(Space::Hist, &hist_key(modified))?
            .ok_or("history is missing")?;
        head = parse(&record).1;
    }
}

/// Key, previous head, new value.
fn parse(record: &Bytes) -> (Bytes, Bytes, Bytes) {
    let key_end = 1 + usize::from(record[0]);
    let at = key_end + META;
    let length = usize::from(u16::from_be_bytes([record[at], record[at + 1]]));
    let end = at + 2 + length;
    (
        record.slice(1..key_end),
        record.slice(at + 2..end),
        record.slice(end..),
    )
}

fn hist_key(revision: u64) -> Vec<u8> {
    [&revision.to_be_bytes()[..], &[0; 4]].concat()
}

fn key_of(number: u64) -> Bytes {
    format!(
        "k/registry/pods/namespace-{:03}/pod-{number:012}",
        number % 100
    )
    .into()
}

/// Letters as base64 has them: compressible by a quarter.
fn value_of(revision: u64) -> Bytes {
    let letter = |word: u64, at: u32| b'0' + (word >> (6 * at) & 63) as u8;
    let words = (0u64..).map(|n| random(revision << 8 | n));
    let letters = words.flat_map(|word| (0..10).map(move |at| letter(word, at)));
    letters.take(VALUE_BYTES).collect()
}

fn random(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct Meter {
    wall: Instant,
    cpu_seconds: f64,
    written: u64,
}

impl Meter {
    fn now() -> Self {
        Self {
            wall: Instant::now(),
            cpu_seconds: cpu_seconds(),
            written: written(),
        }
    }

    fn report(&self, name: &str, operations: u64) {
        let per = 1e6 / operations.max(1) as f64;
        let cpu = cpu_seconds() - self.cpu_seconds;
        println!("{name}_cpu_us_per_op {:.2}", cpu * per);
        println!(
            "{name}_wall_us_per_op {:.2}",
            self.wall.elapsed().as_secs_f64() * per
        );
        println!(
            "{name}_written_mb {:.1}",
            megabytes(written() - self.written)
        );
    }
}

/// User and system time of all threads of this process.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Bytes this process caused to be written to the device so far.
fn written() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn occupied(path: &Path) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() {
            occupied(&entry.path())?
        } else {
            meta.blocks() * 512
        };
    }
    Ok(sum)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
