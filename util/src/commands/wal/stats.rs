//! `kvutil wal stats`: what a log is made of.

use std::collections::BTreeMap;

use kvnode_wal::record::{Record, Records};
use kvnode_wal::{Entry, batch::Flags};
use serde::Serialize;

use crate::decode::decode;
use crate::failure::{Outcome, Result};
use crate::log::{LogArgs, Met, walk};
use crate::output::{human, show};
use crate::shell::Shell;

/// Count entries, bytes, sizes, prefixes and batches of the log
///
/// Example: kvutil wal stats --data-dir /var/lib/kvnode --top 5
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    log: LogArgs,
    /// Prefixes listed
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// What ends a prefix
    #[arg(long, default_value = "/")]
    separator: char,
}

#[derive(Serialize)]
struct Stats {
    schema: &'static str,
    wal_dir: String,
    batches: u64,
    synced_batches: u64,
    marks: u64,
    entries: u64,
    payload_bytes: u64,
    written_bytes: u64,
    seconds: f64,
    entries_per_second: f64,
    entries_per_batch: f64,
    types: Vec<Family>,
    sizes: Vec<Bucket>,
    prefixes: Vec<Prefix>,
    batch_sizes: Vec<Bucket>,
}

#[derive(Serialize)]
struct Family {
    r#type: String,
    entries: u64,
    bytes: u64,
}

/// Entries of at most this many payload bytes, or batches of at most this many entries.
#[derive(Serialize)]
struct Bucket {
    at_most: u64,
    count: u64,
}

#[derive(Serialize)]
struct Prefix {
    prefix: String,
    operations: u64,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let wal = args.log.wal()?;
    let mut stats = Stats {
        schema: "kvutil.wal.stats.1",
        wal_dir: wal.display().to_string(),
        batches: 0,
        synced_batches: 0,
        marks: 0,
        entries: 0,
        payload_bytes: 0,
        written_bytes: 0,
        seconds: 0.0,
        entries_per_second: 0.0,
        entries_per_batch: 0.0,
        types: Vec::new(),
        sizes: Vec::new(),
        prefixes: Vec::new(),
        batch_sizes: Vec::new(),
    };
    let (mut types, mut sizes, mut batches, mut prefixes) = (
        BTreeMap::new(),
        BTreeMap::new(),
        BTreeMap::new(),
        BTreeMap::<Vec<u8>, u64>::new(),
    );
    let (mut first_ms, mut last_ms, mut carrying) = (u64::MAX, 0, 0u64);
    walk(&wal, |met| {
        let Met::Batch(batch) = met else { return true };
        stats.batches += 1;
        stats.synced_batches += u64::from(batch.header.flags.has(Flags::SYNC));
        stats.marks += u64::from(batch.header.payload_bytes == 0);
        stats.written_bytes += u64::from(batch.header.payload_bytes);
        first_ms = first_ms.min(batch.header.unix_ms);
        last_ms = last_ms.max(batch.header.unix_ms);
        let mut inside = 0;
        for record in Records::new(batch.payload).flatten() {
            let Record::Entry {
                index,
                term,
                kind,
                payload,
            } = record
            else {
                continue;
            };
            inside += 1;
            let bytes = payload.len() as u64;
            stats.payload_bytes += bytes;
            *sizes.entry(bytes.next_power_of_two()).or_insert(0u64) += 1;
            let payload = bytes::Bytes::copy_from_slice(payload);
            let decoded = decode(
                &Entry {
                    index,
                    term,
                    kind,
                    payload,
                },
                false,
            );
            let family: &mut (u64, u64) = types.entry(decoded.kind).or_default();
            (family.0, family.1) = (family.0 + 1, family.1 + bytes);
            for op in &decoded.ops {
                let key = &op.raw_key;
                let mut separator = [0; 4];
                let separator = args.separator.encode_utf8(&mut separator).as_bytes();
                let end = key
                    .windows(separator.len())
                    .skip(1)
                    .position(|window| window == separator);
                let prefix = key[..end.map_or(0, |at| at + 1 + separator.len())].to_vec();
                *prefixes.entry(prefix).or_default() += 1;
            }
        }
        stats.entries += inside;
        if inside > 0 {
            carrying += 1;
            *batches.entry(inside.next_power_of_two()).or_insert(0u64) += 1;
        }
        true
    })?;
    if last_ms > first_ms {
        stats.seconds = (last_ms - first_ms) as f64 / 1000.0;
        stats.entries_per_second = (stats.entries as f64 / stats.seconds * 10.0).round() / 10.0;
    }
    if carrying > 0 {
        stats.entries_per_batch = (stats.entries as f64 / carrying as f64 * 100.0).round() / 100.0;
    }
    stats.types = types
        .into_iter()
        .map(|(r#type, (entries, bytes))| Family {
            r#type,
            entries,
            bytes,
        })
        .collect();
    let buckets = |map: BTreeMap<u64, u64>| {
        map.into_iter()
            .map(|(at_most, count)| Bucket { at_most, count })
            .collect::<Vec<_>>()
    };
    (stats.sizes, stats.batch_sizes) = (buckets(sizes), buckets(batches));
    let mut prefixes: Vec<_> = prefixes.into_iter().collect();
    prefixes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    stats.prefixes = prefixes
        .into_iter()
        .take(args.top)
        .map(|(prefix, operations)| Prefix {
            prefix: show(&prefix),
            operations,
        })
        .collect();
    shell.output.print(&stats, |stats| {
        let mut text = format!(
            "{}: {} entries ({}) in {} batches, {} synced, {} marks\n  {:.1} s, {} entries/s, {} entries per batch",
            stats.wal_dir,
            stats.entries,
            human(stats.payload_bytes),
            stats.batches,
            stats.synced_batches,
            stats.marks,
            stats.seconds,
            stats.entries_per_second,
            stats.entries_per_batch
        );
        for family in &stats.types {
            text.push_str(&format!("\n  {:<18} {:>8} entries {:>12}", family.r#type, family.entries, human(family.bytes)));
        }
        for bucket in &stats.sizes {
            text.push_str(&format!("\n  payload <= {:<8} {:>7} entries", bucket.at_most, bucket.count));
        }
        for prefix in &stats.prefixes {
            text.push_str(&format!("\n  {:<24} {:>8} operations", prefix.prefix, prefix.operations));
        }
        text
    });
    Ok(Outcome::Fine)
}
