//! `kvutil disk probe`: how long a device takes to make a small write durable, as the log does it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::failure::{Code, Failure, Outcome, Result};
use crate::process;
use crate::shell::Shell;

/// The file written to, over and over.
const FILE_BYTES: u64 = 8 << 20;
/// Rule of thumb: slower than this in one write of a hundred, and elections suffer.
const GOOD_P99_MICROS: u64 = 10_000;

/// Measure how long small writes take to become durable
///
/// Writes blocks into a file of zeros and syncs each, as the log does. The file is removed. Example: kvutil disk probe
/// --dir /var/lib/kvnode --seconds 10
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory on the device in question
    #[arg(long)]
    dir: PathBuf,
    /// How long
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Bytes per write
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(512..=1 << 20))]
    bytes: u32,
}

#[derive(Serialize)]
struct Probed {
    schema: &'static str,
    dir: String,
    write_bytes: u32,
    writes: u64,
    per_second: f64,
    p50_micros: u64,
    p90_micros: u64,
    p99_micros: u64,
    max_micros: u64,
    verdict: &'static str,
    /// Writes that took at most this long, and more than the bucket before.
    histogram: Vec<Bucket>,
}

#[derive(Serialize)]
struct Bucket {
    at_most_micros: u64,
    writes: u64,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        return Err(Failure::new(
            Code::Usage,
            "--seconds: must be above 0 and at most 3600",
            "kvutil disk probe --help",
        ));
    }
    let shown = args.dir.display();
    shell.need_space(&args.dir, FILE_BYTES, &format!("df -h {shown}"))?;
    let path = args
        .dir
        .join(format!(".kvutil-probe-{}", std::process::id()));
    let make = || -> std::io::Result<_> { Ok((File::create_new(&path)?, vec![path.clone()])) };
    let (file, guards) =
        process::make_guarded(make).map_err(|e| Failure::io("write in", &args.dir, &e))?;
    let measured = measure(&file, args, shell);
    let _ = std::fs::remove_file(&path);
    drop(guards);
    let mut times = measured.map_err(|e| Failure::io("write and sync in", &args.dir, &e))?;
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or(0)
    };
    let total: u64 = times.iter().sum();
    let mut histogram: Vec<Bucket> = Vec::new();
    for micros in &times {
        let bound = micros.max(&1).next_power_of_two();
        match histogram.last_mut() {
            Some(bucket) if bucket.at_most_micros == bound => bucket.writes += 1,
            _ => histogram.push(Bucket {
                at_most_micros: bound,
                writes: 1,
            }),
        }
    }
    let probed = Probed {
        schema: "kvutil.disk.probe.1",
        dir: shown.to_string(),
        write_bytes: args.bytes,
        writes: times.len() as u64,
        per_second: (times.len() as f64 / (total.max(1) as f64 / 1e6)).round(),
        p50_micros: at(0.5),
        p90_micros: at(0.9),
        p99_micros: at(0.99),
        max_micros: at(1.0),
        verdict: if at(0.99) <= GOOD_P99_MICROS {
            "good"
        } else {
            "slow"
        },
        histogram,
    };
    shell.output.print(&probed, |probed| {
        let mut text = format!(
            "{} bytes + fdatasync, one writer: p50 {} us, p90 {} us, p99 {} us, max {} us, {}/s\nverdict: {} (rule of thumb: p99 below {} ms)",
            probed.write_bytes, probed.p50_micros, probed.p90_micros, probed.p99_micros, probed.max_micros,
            probed.per_second, probed.verdict, GOOD_P99_MICROS / 1000
        );
        let most = probed.histogram.iter().map(|bucket| bucket.writes).max().unwrap_or(1);
        for bucket in &probed.histogram {
            let bar = "#".repeat(usize::try_from(bucket.writes * 40 / most).unwrap_or(0));
            text.push_str(&format!("\n  <= {:>8} us {:>8} {bar}", bucket.at_most_micros, bucket.writes));
        }
        text
    });
    Ok(Outcome::Fine)
}

/// Microseconds of each write.
fn measure(file: &File, args: &Args, shell: &Shell) -> std::io::Result<Vec<u64>> {
    file.write_all_at(&vec![0; FILE_BYTES as usize], 0)?;
    file.sync_all()?;
    let data = vec![0xA5; args.bytes as usize];
    let limit = Duration::from_secs_f64(args.seconds);
    let mut progress = shell.progress.count("writes", 0);
    let mut times = Vec::new();
    let (started, mut offset) = (Instant::now(), 0);
    while started.elapsed() < limit || times.is_empty() {
        let before = Instant::now();
        file.write_all_at(&data, offset)?;
        file.sync_data()?;
        times.push(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
        progress.add(1);
        offset += u64::from(args.bytes);
        if offset + u64::from(args.bytes) > FILE_BYTES {
            offset = 0;
        }
    }
    Ok(times)
}
