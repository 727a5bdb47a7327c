//! What the kernel tells about a process: CPU time and memory.

use std::fs;

/// CPU seconds since the process began, of all its threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub resident: u64,
    /// The part that is the process's own; the rest are pages of mapped files.
    pub anonymous: u64,
}

/// CPU time in steps of a clock tick; `None` if there is no such process.
pub fn cpu(pid: u32) -> Option<Cpu> {
    cpu_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn cpu_of(stat: &str) -> Option<Cpu> {
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let tick = rustix::param::clock_ticks_per_second() as f64;
    let mut seconds = || Some(fields.next()?.parse::<u64>().ok()? as f64 / tick);
    Some(Cpu {
        user: seconds()?,
        system: seconds()?,
    })
}

/// The same of several processes together; `None` if one is gone, or there are none.
pub fn cpu_sum(pids: &[u32]) -> Option<Cpu> {
    let mut each = pids.iter().map(|pid| cpu(*pid));
    let first = each.next()??;
    each.try_fold(first, |sum, cpu| {
        let cpu = cpu?;
        Some(Cpu {
            user: sum.user + cpu.user,
            system: sum.system + cpu.system,
        })
    })
}

/// Memory of several processes together, as [`cpu_sum`]. Pages they share count for each.
pub fn memory_sum(pids: &[u32]) -> Option<Memory> {
    let mut each = pids.iter().map(|pid| memory(*pid));
    let first = each.next()??;
    each.try_fold(first, |sum, memory| {
        let memory = memory?;
        Some(Memory {
            resident: sum.resident + memory.resident,
            anonymous: sum.anonymous + memory.anonymous,
        })
    })
}

/// Bytes that several processes together have caused to be written to storage since they began; `None` if the
/// kernel does not tell. Pages of files count when they are changed, direct writes when they are made.
pub fn written_sum(pids: &[u32]) -> Option<u64> {
    let each = pids.iter().map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        written_of(&text)
    });
    each.sum()
}

fn written_of(io: &str) -> Option<u64> {
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

/// Memory now.
pub fn memory(pid: u32) -> Option<Memory> {
    memory_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn memory_of(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Memory {
        resident: bytes("VmRSS:")?,
        anonymous: bytes("RssAnon:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 1 1 0 -1 4194304 99 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        let tick = rustix::param::clock_ticks_per_second() as f64;
        let cpu = cpu_of(stat).unwrap();
        assert_eq!((cpu.user, cpu.system), (250.0 / tick, 50.0 / tick));
        assert_eq!(cpu_of("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_read_from_its_lines() {
        let status = "Name:\tx\nVmRSS:\t    1024 kB\nRssAnon:\t     512 kB\n";
        let memory = memory_of(status).unwrap();
        assert_eq!((memory.resident, memory.anonymous), (1 << 20, 1 << 19));
        assert_eq!(memory_of("Name:\tx\n"), None);
    }

    #[test]
    fn bytes_written_are_not_those_cancelled() {
        let io = "wchar: 9\nread_bytes: 8\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(written_of(io), Some(4096));
        assert_eq!(written_of("cancelled_write_bytes: 7\n"), None);
    }

    #[test]
    fn this_process_has_both() {
        let pid = std::process::id();
        assert!(memory(pid).unwrap().resident > 0);
        assert!(cpu(pid).is_some());
        let twice = memory_sum(&[pid, pid]).unwrap();
        assert!(twice.resident > memory(pid).unwrap().resident);
        assert_eq!(cpu_sum(&[]), None);
    }
}
