//! The one table of flags. Parsing, environment and file lookup, `--help`, `--check-config` and
//! the nearest-name hints all derive from it; a flag exists exactly when it has a row here.
//!
//! Invariants, held by the tests of this directory: names are unique, every default passes its own
//! kind, every alias and file block leads to a row.
//!
//! A flag `a-b` is also the file key `a-b` and the variables `KVNODE_A_B` and `ETCD_A_B`.

mod table;

pub use table::{BLOCKS, DEFAULT_CLIENT_URL, DEFAULT_NAME, DEFAULT_PEER_URL, GATES, GROUPS};

use super::values;
use table::{OLD_GATES, OLD_NAMES};

/// One row.
#[derive(Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// What its text must look like.
    pub kind: Kind,
    /// Text form; empty where the default is computed or "none".
    pub default: &'static str,
    /// What this version does with it.
    pub verdict: Verdict,
    /// For `--help`; one or two sentences, the first a full thought.
    pub help: &'static str,
}

/// The shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Any text that is never shown again.
    Secret,
    /// A file or directory.
    Path,
    /// `true` or `false`; the flag alone means true.
    Bool,
    /// A switch of the command line only: neither environment nor file can set it.
    Mode,
    /// As `Bool` on the command line, but any text goes after `=`.
    OptionalText,
    /// A whole number within bounds.
    Whole(u64, u64),
    /// `10m`, `1h30m`.
    Duration,
    /// Milliseconds, bare or as a duration.
    Millis,
    /// Bytes, with an optional unit.
    Bytes,
    /// Bytes; negative turns it off.
    Quota,
    /// Urls, comma separated.
    Urls,
    /// Words, comma separated.
    List,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// What this version does with a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The node acts on it.
    Used,
    /// The feature is not built: any value that asks for it is refused rather than ignored, since
    /// ignoring it would weaken what the operator asked for. The text is the hint.
    Planned(&'static str),
    /// Understood, without effect here; the text says why. One info line when not the default.
    Accepted(&'static str),
    /// Without effect in etcd too. One warning when set.
    Ignored,
    /// Removed; the text says what to do instead. Refused unless set to `false`, `off` or nothing.
    Gone(&'static str),
}

/// A part of the manual.
#[derive(Debug)]
pub struct Group {
    /// Heading.
    pub title: &'static str,
    /// Rows in reading order.
    pub flags: &'static [Flag],
}

/// Every row.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

/// The row of exactly this name.
pub fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// What a name given by an operator stands for.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// A row, under its own name.
    Flag(&'static Flag),
    /// A row, under a spelling of etcd 3.6 or older.
    Renamed(&'static Flag),
    /// A feature gate that used to be a flag.
    Gate(&'static str),
}

/// Finds the row or gate behind a current or an old name.
pub fn resolve(name: &str) -> Option<Target> {
    if let Some(flag) = find(name) {
        return Some(Target::Flag(flag));
    }
    let old = name.strip_prefix("experimental-")?;
    if let Some((_, gate)) = OLD_GATES.iter().find(|(flag, _)| *flag == old) {
        return Some(Target::Gate(gate));
    }
    let (_, now) = OLD_NAMES.iter().find(|(flag, _)| *flag == old)?;
    find(now).map(Target::Renamed)
}

impl Flag {
    /// The variable of our own prefix.
    pub fn env_name(&self) -> String {
        format!(
            "KVNODE_{}",
            self.name.replace('-', "_").to_ascii_uppercase()
        )
    }

    /// Whether `--flag` without a value is complete.
    pub fn stands_alone(&self) -> bool {
        matches!(self.kind, Kind::Bool | Kind::Mode | Kind::OptionalText)
    }

    /// Checks a text against the kind and answers its canonical form (only booleans change).
    /// The error completes "invalid value ...: ".
    pub fn canonical(&self, text: &str) -> Result<String, String> {
        match self.kind {
            Kind::Bool | Kind::Mode => {
                return values::parse_bool(text).map(|value| value.to_string());
            }
            Kind::Whole(min, max) => values::parse_whole(text, min, max).map(drop)?,
            Kind::Duration => values::parse_duration(text).map(drop)?,
            Kind::Millis => values::parse_millis(text).map(drop)?,
            Kind::Bytes if text.is_empty() && self.default.is_empty() => {}
            Kind::Bytes => values::parse_bytes(text).map(drop)?,
            Kind::Quota => values::parse_quota(text).map(drop)?,
            Kind::Choice(words) if !words.contains(&text) => {
                return Err(format!("expected {}", either(words)));
            }
            _ => {}
        }
        Ok(text.to_owned())
    }

    /// The placeholder in `--help`.
    pub fn placeholder(&self) -> &'static str {
        match self.kind {
            Kind::Bool => "[=BOOL]",
            Kind::Mode => "",
            Kind::OptionalText => "[=TEXT]",
            Kind::Text | Kind::Secret => "TEXT",
            Kind::Path => "PATH",
            Kind::Whole(..) => "N",
            Kind::Duration => "DURATION",
            Kind::Millis => "MS",
            Kind::Bytes | Kind::Quota => "BYTES",
            Kind::Urls => "URLS",
            Kind::List => "LIST",
            Kind::Choice(_) => "WORD",
        }
    }
}

/// `a`, `a or b`, `a, b or c`.
pub fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut seen = HashSet::new();
        for flag in all() {
            assert!(seen.insert(flag.name), "{} twice", flag.name);
            assert!(
                flag.name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{}",
                flag.name
            );
        }
    }

    #[test]
    fn every_default_passes_its_own_kind_and_is_canonical() {
        for flag in all() {
            assert_eq!(
                flag.canonical(flag.default).as_deref(),
                Ok(flag.default),
                "{}",
                flag.name
            );
        }
    }

    #[test]
    fn aliases_and_blocks_lead_to_rows() {
        for (old, _) in OLD_NAMES {
            let name = format!("experimental-{old}");
            assert!(matches!(resolve(&name), Some(Target::Renamed(_))), "{name}");
        }
        for (old, gate) in OLD_GATES {
            assert!(GATES.contains(gate), "{gate}");
            assert!(matches!(
                resolve(&format!("experimental-{old}")),
                Some(Target::Gate(_))
            ));
        }
        for (block, key, flag) in BLOCKS {
            assert!(find(flag).is_some(), "{block}.{key}");
        }
        assert!(matches!(
            resolve("experimental-enable-v2v3"),
            Some(Target::Flag(_))
        ));
        assert!(resolve("experimental-name").is_none());
    }

    #[test]
    fn every_flag_of_the_manual_is_explained() {
        for flag in all().filter(|f| !matches!(f.verdict, Verdict::Ignored | Verdict::Gone(_))) {
            assert!(flag.help.ends_with('.'), "{}: {:?}", flag.name, flag.help);
        }
    }
}
