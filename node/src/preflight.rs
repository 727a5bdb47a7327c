//! What the machine must offer before the first executor starts, checked in the order in which the
//! answers make sense. Each failure is one message: what is missing, why, and what to do.
//!
//! The limits on locked memory and open files are raised from soft to hard here, so that only the
//! hard ones matter to an operator.

use std::fmt;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::rt;

/// Exit code of a process that found its machine or configuration unfit (EX_CONFIG).
pub const EXIT_CODE: i32 = 78;

/// Oldest kernel with everything the runtime submits.
const KERNEL_MIN: (u32, u32) = (5, 8);

/// The runtime refuses to start an executor below this, whoever the user is.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// What we advise instead, for a machine with many executors.
const MEMLOCK_ADVICE: &str = "64M";

/// Below this there is no room for the store's files and a few clients.
const OPEN_FILES_MIN: u64 = 512;

/// File descriptors kept from clients, for files and peers.
pub const RESERVED_FILES: u64 = 150;

const URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const ENOSYS: i32 = 38;

/// Why the node cannot run on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub what: String,
    pub why: String,
    pub fix: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.fix)
    }
}

impl std::error::Error for Failure {}

/// What the machine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// File descriptors this process may have open.
    pub open_files: u64,
}

impl Machine {
    /// Client connections that leave enough descriptors for everything else.
    pub fn connections_max(&self) -> usize {
        let left = self.open_files.saturating_sub(RESERVED_FILES).max(1);
        usize::try_from(left).unwrap_or(usize::MAX)
    }
}

/// Checks the machine and raises this process's limits as far as it may.
///
/// # Errors
/// The first thing that is missing.
pub fn run() -> Result<Machine, Failure> {
    check_kernel(&rustix::system::uname().release().to_string_lossy())?;
    check_memlock(raise(Resource::Memlock))?;
    let open_files = check_open_files(raise(Resource::Nofile))?;
    rt::probe().map_err(|error| {
        let disabled = fs::read_to_string(URING_DISABLED).ok();
        explain(&error, disabled.as_deref().map(str::trim))
    })?;
    Ok(Machine { open_files })
}

/// Raises the soft limit to the hard one; returns what holds now (`None`: no limit).
fn raise(resource: Resource) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(resource);
    if current == maximum {
        return current;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(resource, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

fn check_kernel(release: &str) -> Result<(), Failure> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        // A kernel with a name of its own may be new enough; the probe will tell.
        log::warn!("cannot tell the kernel's version from {release:?}");
        return Ok(());
    };
    if (major, minor) >= KERNEL_MIN {
        return Ok(());
    }
    Err(Failure {
        what: format!("kernel {release} is too old"),
        why: format!(
            "io_uring as used here came with {}.{}",
            KERNEL_MIN.0, KERNEL_MIN.1
        ),
        fix: "run a newer kernel".to_owned(),
    })
}

fn check_memlock(limit: Option<u64>) -> Result<(), Failure> {
    match limit {
        Some(bytes) if bytes < MEMLOCK_BYTES_MIN => Err(Failure {
            what: format!("the limit on locked memory is {bytes} bytes"),
            why: format!("io_uring needs at least {MEMLOCK_BYTES_MIN}"),
            fix: format!(
                "set LimitMEMLOCK={MEMLOCK_ADVICE} in the systemd unit, `ulimit -l 65536` in the \
                 shell, or `--ulimit memlock=67108864` for a container"
            ),
        }),
        _ => Ok(()),
    }
}

fn check_open_files(limit: Option<u64>) -> Result<u64, Failure> {
    let files = limit.unwrap_or(u64::MAX);
    if files >= OPEN_FILES_MIN {
        return Ok(files);
    }
    Err(Failure {
        what: format!("the limit on open files is {files}"),
        why: format!("the store and its clients need at least {OPEN_FILES_MIN}"),
        fix: "set LimitNOFILE=65536 in the systemd unit, `ulimit -n 65536` in the shell, or \
              `--ulimit nofile=65536` for a container"
            .to_owned(),
    })
}

/// What an executor that would not start means. `disabled` is the io_uring sysctl's content, if
/// the kernel has it.
fn explain(error: &rt::Error, disabled: Option<&str>) -> Failure {
    let reason = error.to_string();
    let failure = |why: &str, fix: &str| Failure {
        what: "io_uring is not available".to_owned(),
        why: why.to_owned(),
        fix: fix.to_owned(),
    };
    match errno(error) {
        Some(EPERM) => match disabled {
            Some("2") => failure(
                "it is disabled for the whole system (kernel.io_uring_disabled = 2)",
                "set kernel.io_uring_disabled = 0 with sysctl and in /etc/sysctl.d",
            ),
            Some("1") => failure(
                "it is restricted to privileged processes (kernel.io_uring_disabled = 1)",
                "set kernel.io_uring_disabled = 0 with sysctl and in /etc/sysctl.d, or add this \
                 user's group to kernel.io_uring_group",
            ),
            _ => failure(
                "a seccomp policy refuses io_uring_setup, as container runtimes ship it",
                "allow io_uring_setup, io_uring_enter and io_uring_register in the container's \
                 seccomp profile",
            ),
        },
        Some(ENOSYS) => failure(
            "this kernel was built without it, or a sandbox hides it",
            "run a kernel with CONFIG_IO_URING",
        ),
        Some(ENOMEM) => failure(
            "the kernel has no memory to lock for it",
            "raise the limit on locked memory (LimitMEMLOCK=64M in the systemd unit)",
        ),
        _ => Failure {
            what: "the event loop does not start".to_owned(),
            why: reason,
            fix: "see whether this user may use io_uring on this kernel".to_owned(),
        },
    }
}

/// The kernel's error number; the runtime passes some on as text only.
fn errno(error: &rt::Error) -> Option<i32> {
    let rt::Error::Start { reason, errno, .. } = error else {
        return None;
    };
    errno.or_else(|| {
        let (_, rest) = reason.split_once("(os error ")?;
        rest.split_once(')')?.0.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &str, errno: Option<i32>) -> rt::Error {
        rt::Error::Start {
            name: "probe".to_owned(),
            reason: reason.to_owned(),
            errno,
        }
    }

    #[test]
    fn this_machine_passes() {
        let machine = run().unwrap();
        assert!(machine.open_files >= OPEN_FILES_MIN);
        assert!(machine.connections_max() >= 1);
    }

    #[test]
    fn kernels_are_told_apart() {
        for good in ["5.8.0", "5.10.0-33-amd64", "6.1", "10.0-rc1", "strange"] {
            assert_eq!(check_kernel(good), Ok(()), "{good}");
        }
        for bad in ["5.7.19", "4.18.0-553.el8.x86_64", "3.10.0"] {
            assert!(check_kernel(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_refusal_says_what_why_and_how_to_mend_it() {
        let text = check_memlock(Some(65_536)).unwrap_err().to_string();
        assert_eq!(
            text,
            "the limit on locked memory is 65536 bytes: io_uring needs at least 524288; \
             set LimitMEMLOCK=64M in the systemd unit, `ulimit -l 65536` in the shell, or \
             `--ulimit memlock=67108864` for a container"
        );
        assert_eq!(check_memlock(None), Ok(()));
        assert!(check_open_files(Some(100)).is_err());
        let eperm = refused("failed: Operation not permitted (os error 1). More", None);
        for (sysctl, part) in [
            (Some("2"), "kernel.io_uring_disabled = 2"),
            (Some("1"), "kernel.io_uring_disabled = 1"),
            (Some("0"), "seccomp"),
            (None, "seccomp"),
        ] {
            assert!(
                explain(&eperm, sysctl).to_string().contains(part),
                "{sysctl:?}"
            );
        }
        let enosys = explain(&refused("no", Some(ENOSYS)), None);
        assert!(enosys.to_string().contains("CONFIG_IO_URING"));
        let other = explain(&refused("strange", None), None);
        assert!(other.to_string().contains("strange"));
    }
}
