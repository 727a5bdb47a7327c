//! The machine the figures come from, as a reader of them needs to know it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use crate::net::Failure;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpus: usize,
    pub model: String,
    pub memory_bytes: u64,
    pub kernel: String,
    pub file_system: String,
    /// The block device below it, by the kernel's name.
    pub device: String,
    /// Median of writing and syncing 4 KiB to a file of fixed size.
    pub fdatasync_us: f64,
    /// One-minute load average before the first server was started.
    pub load_average: f64,
}

/// Looks around; the data directories will be in `directory`.
pub fn look(directory: &Path) -> Result<Machine, Failure> {
    let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    let average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Ok(Machine {
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        model: model.to_owned(),
        memory_bytes: memory.unwrap_or(0) * 1024,
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        file_system: file_system(directory),
        device: device(directory),
        fdatasync_us: sync_micros(directory)?,
        load_average: average
            .split_whitespace()
            .next()
            .and_then(|a| a.parse().ok())
            .unwrap_or(0.0),
    })
}

/// Lets this process, and the servers it starts, open as many files as it may have at most.
pub fn allow_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it may not, loads with many connections say what they lack.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Files this process may have open.
pub fn open_files_max() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Whether syncing means nothing there.
pub fn is_memory(directory: &Path) -> bool {
    file_system(directory) == "tmpfs"
}

fn file_system(directory: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(directory) else {
        return "unknown".to_owned();
    };
    match stat.f_type as u64 & 0xffff_ffff {
        0x0102_1994 => "tmpfs".to_owned(),
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        other => format!("{other:#x}"),
    }
}

/// Name, model and size of the device that holds a directory.
fn device(directory: &Path) -> String {
    let Ok(metadata) = std::fs::metadata(directory) else {
        return "unknown device".to_owned();
    };
    let number = std::os::unix::fs::MetadataExt::dev(&metadata);
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let place = format!("/sys/dev/block/{major}:{minor}");
    // A partition has no model of its own: its disk is one above.
    let read = |name: &str| {
        let own = std::fs::read_to_string(format!("{place}/{name}"));
        let text = own.or_else(|_| std::fs::read_to_string(format!("{place}/../{name}")));
        text.unwrap_or_default().trim().to_owned()
    };
    let events = read("uevent");
    let Some(name) = events
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))
    else {
        return "no block device".to_owned();
    };
    let sectors: u64 = read("size").parse().unwrap_or(0);
    let model = read("device/model");
    let model = if model.is_empty() {
        String::new()
    } else {
        format!(" {model}")
    };
    format!("{name}{model}, {} GiB", sectors / 2 / (1 << 20))
}

fn sync_micros(directory: &Path) -> Result<f64, Failure> {
    const TRIES: usize = 200;
    let path = directory.join("sync-probe");
    let mut file = File::create(&path)?;
    file.write_all(&vec![0; TRIES * 4096])?;
    file.sync_all()?;
    let mut times: Vec<f64> = Vec::with_capacity(TRIES);
    for at in 0..TRIES {
        let start = Instant::now();
        rustix::io::pwrite(&file, &[at as u8; 4096], (at * 4096) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(&path)?;
    Ok(crate::report::median(&mut times))
}
