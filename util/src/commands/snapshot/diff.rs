//! `kvutil snapshot diff`: where two sources differ.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kvnode_api::KeyValue;
use serde::Serialize;

use super::Threads;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::keys::Keys;
use crate::output::show;
use crate::shell::Shell;

/// Show where the keys of two sources differ
///
/// A source is a `.kvs` file or the data directory of a stopped node. Values and leases are compared, revisions are not: a restored
/// cluster equals its snapshot. `+` is only in B, `-` only in A, `~` in both. Example: kvutil snapshot diff monday.kvs
/// /var/lib/kvnode --summary --depth 2. Exit codes: 0 equal, 3 different.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What it was
    a: PathBuf,
    /// What it is
    b: PathBuf,
    /// Only keys that start with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// Counts per prefix, not keys
    #[arg(long)]
    summary: bool,
    /// How many `/` a prefix of the summary goes beyond the first character
    #[arg(long, default_value_t = 1, requires = "summary")]
    depth: usize,
    /// Show values
    #[arg(long, conflicts_with = "summary")]
    values: bool,
    /// Keys that differ in their lease only are equal
    #[arg(long)]
    ignore_leases: bool,
    #[command(flatten)]
    threads: Threads,
    #[arg(long, hide = true)]
    format: Option<String>,
}

#[derive(Serialize)]
struct Row {
    what: &'static str,
    key: String,
    a_bytes: Option<usize>,
    b_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b_value: Option<String>,
}

/// Differences, of a prefix or in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub added: u64,
    pub changed: u64,
    pub removed: u64,
    /// Of keys and values, B less A.
    pub bytes: i64,
    pub equal: u64,
}

impl Counts {
    pub fn total(&self) -> u64 {
        self.added + self.changed + self.removed
    }
}

#[derive(Serialize)]
struct Group {
    prefix: String,
    added: u64,
    changed: u64,
    removed: u64,
    bytes: i64,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    if let Some(format) = &args.format {
        return Err(Failure::new(
            Code::Refused,
            format!("--format {format}: a difference can be shown, not carried out"),
            format!(
                "kvutil snapshot diff {} {} --values -w jsonl",
                args.a.display(),
                args.b.display()
            ),
        ));
    }
    if args.summary {
        return summary(args, shell);
    }
    let (a, b) = (
        Keys::open(&args.a, 0, shell)?,
        Keys::open(&args.b, 0, shell)?,
    );
    let pairs = Pairs::new(&a, &b, &args.prefix, args.threads.count())?;
    let mut counts = Counts::default();
    let rows = pairs.filter_map(|pair| match pair {
        Err(failure) => Some(Err(failure)),
        Ok((a, b)) => {
            let what = add(&mut counts, a.as_ref(), b.as_ref(), args.ignore_leases)?;
            let key = a.as_ref().or(b.as_ref()).map(|kv| show(&kv.key));
            let value = |kv: &Option<KeyValue>| {
                kv.as_ref()
                    .filter(|_| args.values)
                    .map(|kv| show(&kv.value))
            };
            Some(Ok(Row {
                what,
                key: key.unwrap_or_default(),
                a_bytes: a.as_ref().map(|kv| kv.value.len()),
                b_bytes: b.as_ref().map(|kv| kv.value.len()),
                a_value: value(&a),
                b_value: value(&b),
            }))
        }
    });
    shell.output.rows("kvutil.snapshot.diff.1", rows, |row| {
        let mut text = format!("{} {}", row.what, row.key);
        for (sign, value) in [("-", &row.a_value), ("+", &row.b_value)] {
            if let Some(value) = value {
                text.push_str(&format!("\n    {sign} {value}"));
            }
        }
        text
    })?;
    shell.note(&format!(
        "{} added, {} changed, {} removed, {} equal",
        counts.added, counts.changed, counts.removed, counts.equal
    ));
    Ok(outcome(&counts))
}

fn summary(args: &Args, shell: &Shell) -> Result<Outcome> {
    let (a, b) = (
        Keys::open(&args.a, 0, shell)?,
        Keys::open(&args.b, 0, shell)?,
    );
    let mut groups: BTreeMap<Vec<u8>, Counts> = BTreeMap::new();
    let mut progress = shell.progress.count("comparing", a.total().max(b.total()));
    for pair in Pairs::new(&a, &b, &args.prefix, args.threads.count())? {
        let (a, b) = pair?;
        let key = a.as_ref().or(b.as_ref()).map(|kv| kv.key.clone());
        let prefix = prefix_of(&key.unwrap_or_default(), args.depth);
        let group = groups.entry(prefix).or_default();
        add(group, a.as_ref(), b.as_ref(), args.ignore_leases);
        progress.add(1);
    }
    drop(progress);
    let (mut all, mut equal) = (Counts::default(), 0);
    for group in groups.values() {
        all.added += group.added;
        all.changed += group.changed;
        all.removed += group.removed;
        equal += u64::from(group.total() == 0);
    }
    let differ = groups.len() as u64 - equal;
    let rows = groups
        .iter()
        .filter(|(_, group)| group.total() > 0)
        .map(|(prefix, group)| {
            Ok::<_, Failure>(Group {
                prefix: show(prefix),
                added: group.added,
                changed: group.changed,
                removed: group.removed,
                bytes: group.bytes,
            })
        });
    if shell.output.is_simple() && differ > 0 {
        crate::output::say(&format!(
            "{:<40} {:>9} {:>9} {:>9} {:>12}",
            "PREFIX", "ADDED", "CHANGED", "REMOVED", "BYTES"
        ));
    }
    shell
        .output
        .rows("kvutil.snapshot.diff-summary.1", rows, |row| {
            format!(
                "{:<40} {:>9} {:>9} {:>9} {:>+12}",
                row.prefix, row.added, row.changed, row.removed, row.bytes
            )
        })?;
    shell.note(&format!("{equal} prefixes equal, {differ} differ"));
    Ok(outcome(&all))
}

/// How many keys of two sources differ, leases included.
pub fn count(a: &Path, b: &Path, shell: &Shell) -> Result<Counts> {
    let (a, b) = (Keys::open(a, 0, shell)?, Keys::open(b, 0, shell)?);
    let mut counts = Counts::default();
    let mut progress = shell.progress.count("comparing", a.total().max(b.total()));
    for pair in Pairs::new(&a, &b, "", 1)? {
        let (a, b) = pair?;
        add(&mut counts, a.as_ref(), b.as_ref(), false);
        progress.add(1);
    }
    Ok(counts)
}

fn outcome(counts: &Counts) -> Outcome {
    match counts.total() {
        0 => Outcome::Fine,
        _ => Outcome::Damage,
    }
}

/// The sign of a difference; `None` if there is none.
fn add(
    counts: &mut Counts,
    a: Option<&KeyValue>,
    b: Option<&KeyValue>,
    ignore_leases: bool,
) -> Option<&'static str> {
    let bytes = |kv: &KeyValue| i64::try_from(kv.key.len() + kv.value.len()).unwrap_or(i64::MAX);
    let (of, sign) = match (a, b) {
        (Some(a), Some(b)) => {
            if a.value == b.value && (ignore_leases || a.lease == b.lease) {
                counts.equal += 1;
                return None;
            }
            (&mut counts.changed, "~")
        }
        (None, _) => (&mut counts.added, "+"),
        (_, None) => (&mut counts.removed, "-"),
    };
    *of += 1;
    counts.bytes += b.map_or(0, bytes) - a.map_or(0, bytes);
    Some(sign)
}

/// Up to the `depth`-th `/` behind the first character, that excluded.
fn prefix_of(key: &[u8], depth: usize) -> Vec<u8> {
    let ends = key.iter().enumerate().skip(1).filter(|(_, b)| **b == b'/');
    let end = ends.map(|(at, _)| at).nth(depth.saturating_sub(1));
    key[..end
        .filter(|_| depth > 0)
        .unwrap_or(if depth == 0 { 0 } else { key.len() })]
        .to_vec()
}

type Side<'a> = std::iter::Peekable<Box<dyn Iterator<Item = Result<KeyValue>> + 'a>>;

/// The keys of both sides, side by side.
struct Pairs<'a> {
    a: Side<'a>,
    b: Side<'a>,
}

impl<'a> Pairs<'a> {
    fn new(a: &'a Keys, b: &'a Keys, prefix: &str, threads: usize) -> Result<Self> {
        Ok(Pairs {
            a: a.under(prefix, 0, threads)?.peekable(),
            b: b.under(prefix, 0, threads)?.peekable(),
        })
    }
}

impl Iterator for Pairs<'_> {
    type Item = Result<(Option<KeyValue>, Option<KeyValue>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.a.peek(), self.b.peek()) {
            (None, None) => return None,
            (Some(Ok(a)), Some(Ok(b))) => a.key.cmp(&b.key),
            // An error comes out at once.
            (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        let mut side = |of: bool| -> Result<Option<KeyValue>> {
            let from = if of { &mut self.a } else { &mut self.b };
            from.next().transpose()
        };
        let a = if order.is_le() { side(true) } else { Ok(None) };
        let b = if order.is_ge() { side(false) } else { Ok(None) };
        Some(a.and_then(|a| Ok((a, b?))))
    }
}

#[cfg(test)]
mod tests {
    use super::prefix_of;

    #[test]
    fn prefixes_are_cut_at_the_depth() {
        let of = |depth| String::from_utf8(prefix_of(b"/registry/pods/a", depth)).unwrap();
        assert_eq!((of(0), of(1)), ("".into(), "/registry".into()));
        assert_eq!(
            (of(2), of(9)),
            ("/registry/pods".into(), "/registry/pods/a".into())
        );
    }
}
