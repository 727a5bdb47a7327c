//! The process as the kernel sees it, under the names of Prometheus' standard collectors.

use super::Sample;
use super::text::Text;

pub(super) fn render(out: &mut Text, sample: &Sample) {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    for (name, help, value) in [
        ("os_fd_used", "Open file descriptors.", sample.open_fds),
        ("os_fd_limit", "File descriptor limit.", sample.fd_limit),
        (
            "process_open_fds",
            "Open file descriptors.",
            sample.open_fds,
        ),
        ("process_max_fds", "File descriptor limit.", sample.fd_limit),
        (
            "process_resident_memory_bytes",
            "Resident memory.",
            sample.resident_bytes,
        ),
        (
            "process_virtual_memory_bytes",
            "Address space in use.",
            sample.virtual_bytes,
        ),
    ] {
        out.gauge(name, help, signed(value));
    }
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "User and system time.",
            sample.cpu_seconds,
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start, seconds since the epoch.",
            sample.started_unix_seconds,
        ),
    ] {
        out.head(name, kind, help);
        out.line(format_args!("{name} {value}"));
    }
    out.counter(
        "kvnode_log_lines_dropped_total",
        "Lines of the log lost because they came faster than they could be written.",
        sample.dropped_log_lines,
    );
}
