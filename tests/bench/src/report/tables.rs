//! The tables of a comparison.

use std::collections::BTreeMap;

use super::lines;
use super::table::{Table, cpu, grouped, mebibytes, seconds, times};
use crate::compare::Comparison;
use crate::compare::disturbance::{Phase, UNDISTURBED};

/// Every load, its medians and their ratios.
pub fn loads(comparison: &Comparison) -> Table {
    let mut previous = "";
    let rows = lines(comparison)
        .into_iter()
        .map(|(load, server, summary, ratio)| {
            let name = if load == previous { "" } else { load };
            previous = load;
            let mut row = vec![name.to_owned(), server.to_owned()];
            row.push(grouped(summary.ops_per_second));
            row.push(cpu(summary.server_cpu_us_per_op));
            row.push(mebibytes(summary.server_rss_bytes as u64));
            row.extend(
                [
                    summary.p50_us,
                    summary.p99_us,
                    summary.p999_us,
                    summary.max_us,
                ]
                .map(grouped),
            );
            row.push(summary.errors.to_string());
            row.extend(match ratio {
                Some(ratio) => [
                    ratio.ops_per_second,
                    ratio.server_cpu_us_per_op,
                    ratio.p50_us,
                    ratio.p99_us,
                ]
                .map(times),
                None => [const { String::new() }; 4],
            });
            row
        });
    let rows = rows.collect();
    Table {
        heads: vec![
            "load",
            "server",
            "ops/s",
            "CPU us/op",
            "RSS MiB",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "errors",
            "rate",
            "CPU",
            "p50",
            "p99",
        ],
        rows,
        text_columns: 2,
    }
}

/// Memory and restarts with many keys.
pub fn many(comparison: &Comparison) -> Table {
    let rows = comparison.servers.iter().filter_map(|server| {
        let many = comparison.many.get(server)?;
        Some(vec![
            format!("{} keys", grouped(comparison.many_keys as f64)),
            server.clone(),
            seconds(many.load_seconds),
            cpu(many.load_cpu_us_per_key),
            mebibytes(many.rss_bytes),
            mebibytes(many.rss_anonymous_bytes),
            mebibytes(many.disk_bytes),
            seconds(many.stop_seconds),
            mebibytes(many.disk_stopped_bytes),
            seconds(many.restart_seconds),
            mebibytes(many.restart_rss_bytes),
            seconds(many.restart_after_kill_seconds),
        ])
    });
    Table {
        rows: rows.collect(),
        heads: vec![
            "memory and restart",
            "server",
            "load s",
            "CPU us/key",
            "RSS MiB",
            "anonymous MiB",
            "disk MiB",
            "stop s",
            "disk then MiB",
            "restart s",
            "RSS then MiB",
            "after kill s",
        ],
        text_columns: 2,
    }
}

/// Bytes on disk, and written.
pub fn disks(comparison: &Comparison) -> Table {
    let rows = comparison.disks.iter().map(|disk| {
        vec![
            format!("{} keys, {} values", grouped(disk.keys as f64), disk.values),
            disk.server.clone(),
            mebibytes(disk.put_bytes),
            seconds(disk.put_seconds),
            match disk.settled {
                true => seconds(disk.settle_seconds),
                false => format!("not in {:.0}", disk.settle_seconds),
            },
            mebibytes(disk.disk_bytes),
            mebibytes(disk.disk_stopped_bytes),
            format!("{:.2}", disk.on_disk_per_byte()),
            disk.written_bytes.map_or_else(String::new, mebibytes),
            disk.written_per_byte()
                .map_or_else(String::new, |share| format!("{share:.2}")),
        ]
    });
    Table {
        rows: rows.collect(),
        heads: vec![
            "disk",
            "server",
            "put MiB",
            "put s",
            "at rest s",
            "disk MiB",
            "stopped MiB",
            "disk/byte",
            "written MiB",
            "written/byte",
        ],
        text_columns: 2,
    }
}

/// Puts during maintenance, beside those of the same server that nothing disturbed.
pub fn disturbances(comparison: &Comparison) -> Table {
    let calm: BTreeMap<&str, &Phase> = (comparison.disturbances.iter().rev())
        .filter(|phase| phase.name == UNDISTURBED)
        .map(|phase| (phase.server.as_str(), phase))
        .collect();
    let mut names = Vec::new();
    for phase in &comparison.disturbances {
        if !names.contains(&phase.name) {
            names.push(phase.name);
        }
    }
    let mut rows = Vec::new();
    for name in names {
        for server in &comparison.servers {
            let same = |phase: &&Phase| phase.name == name && phase.server == *server;
            let Some(phase) = comparison.disturbances.iter().find(same) else {
                continue;
            };
            let puts = &phase.puts;
            let against = match calm.get(server.as_str()) {
                Some(calm) if name != UNDISTURBED => times(puts.p99_us / calm.puts.p99_us),
                _ => String::new(),
            };
            rows.push(vec![
                name.to_owned(),
                server.clone(),
                match phase.seconds {
                    0.0 => String::new(),
                    lasted => seconds(lasted),
                },
                match phase.bytes {
                    0 => String::new(),
                    bytes => mebibytes(bytes),
                },
                grouped(puts.ops_per_second),
                grouped(puts.p50_us),
                grouped(puts.p99_us),
                grouped(puts.p999_us),
                grouped(puts.max_us),
                puts.errors.to_string(),
                against,
            ]);
        }
    }
    Table {
        rows,
        heads: vec![
            "disturbance",
            "server",
            "lasted s",
            "sent MiB",
            "puts/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "errors",
            "p99 against undisturbed",
        ],
        text_columns: 2,
    }
}

/// Connections nobody uses.
pub fn idle(comparison: &Comparison) -> Table {
    let rows = comparison.servers.iter().filter_map(|server| {
        let idle = comparison.idle.get(server)?;
        Some(vec![
            format!("{} connections", grouped(idle.connections as f64)),
            server.clone(),
            seconds(idle.connect_seconds),
            mebibytes(idle.rss_before_bytes),
            mebibytes(idle.rss_bytes),
            grouped(idle.bytes_per_connection()),
            format!("{:.1}", idle.cpu_ms_per_second),
        ])
    });
    Table {
        rows: rows.collect(),
        heads: vec![
            "idle connections",
            "server",
            "connect s",
            "RSS before MiB",
            "RSS MiB",
            "bytes each",
            "CPU ms/s",
        ],
        text_columns: 2,
    }
}

/// The gaps in which nobody could write.
pub fn fail_overs(comparison: &Comparison) -> Table {
    let rows = comparison.fail_overs.iter().map(|found| {
        vec![
            format!("{} kills of the leader", found.gaps_ms.len()),
            found.server.clone(),
            grouped(found.median_ms),
            grouped(found.worst_ms),
            found.refused.to_string(),
        ]
    });
    Table {
        rows: rows.collect(),
        heads: vec![
            "fail-over, three members",
            "server",
            "median ms",
            "worst ms",
            "puts refused",
        ],
        text_columns: 2,
    }
}

/// What was given up.
pub fn stopped(comparison: &Comparison) -> Table {
    let rows = comparison.stopped.iter().map(|stopped| {
        vec![
            stopped.name.clone(),
            stopped.server.clone(),
            stopped.reason.replace('\n', " ").replace('|', "/"),
        ]
    });
    Table {
        rows: rows.collect(),
        heads: vec!["stopped", "server", "because"],
        text_columns: 3,
    }
}
