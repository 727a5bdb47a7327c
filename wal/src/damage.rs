//! The verdicts of a reader: what is wrong, where, how that was told, and what to type next.

use std::fmt;
use std::path::PathBuf;

use crate::segment::BadHeader;
use crate::state::Broken;

/// Kind of a finding, from harmless to hopeless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A clean end.
    W0,
    /// A torn tail: never synced, never acknowledged.
    W1,
    /// The end of the log is bad and may have been acknowledged.
    W2,
    /// Bad or missing, but all of it lies below the store's applied index.
    W3,
    /// A hole in entries that are needed: it was synced once.
    W4,
    /// A segment is missing, or does not join its neighbour.
    W5,
    /// A file or batch that belongs elsewhere.
    W6,
    /// One of the two header copies is bad.
    W7,
    /// The device refuses to read.
    W8,
}

/// The rule that decided, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Names, headers, identity, seq and the joints between segments.
    Joint,
    /// The file is shorter than its header says.
    D1,
    /// A later segment exists, so this one was synced up to that one's base.
    D2,
    /// A valid batch header behind the bad place says that the place had been synced.
    D3,
    /// Something durable elsewhere needs entries that are not there.
    D4,
    /// Nothing but zeros: the clean end.
    D5,
    /// The first sector is neither zero nor a header; a sector cannot be half written.
    D6,
    /// A header, a bad payload, and a whole sector never written: torn.
    D7,
    /// A header, a bad payload, and no sector missing: it changed later.
    D8,
    /// The first sector was never written, something near behind it was: torn.
    D9,
    /// As D9, but farther away than unsynced bytes ever get.
    D10,
    /// A header that is right except for position, seq or chain.
    D11,
    /// A read error.
    D12,
    /// A good batch whose records cannot follow the ones before.
    Records,
}

/// What was seen that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The file has another size than its header says.
    Size {
        /// In the header.
        expected: u64,
        /// Of the file.
        found: u64,
    },
    /// Neither header copy can be used.
    Headers {
        /// What is wrong with the first.
        first: BadHeader,
        /// What is wrong with the second, if a second could be looked for.
        second: BadHeader,
    },
    /// The two header copies are both good, but differ.
    HeadersDiffer,
    /// A field of a header does not agree with what it must agree with.
    Field {
        /// Its name.
        name: &'static str,
        /// Wanted.
        expected: u64,
        /// In the file.
        found: u64,
    },
    /// The segment belongs to another cluster, member or instance.
    Foreign {
        /// Wanted.
        expected: String,
        /// In the file.
        found: String,
    },
    /// Segments between two present ones are missing.
    MissingSegments {
        /// First missing seq.
        from: u64,
        /// Last missing seq.
        to: u64,
    },
    /// The log starts above what the store has.
    MissingStart {
        /// First index of the log.
        first_index: u64,
        /// Highest index that the store or a snapshot has.
        covered: u64,
    },
    /// The next segment says where this one ended.
    NextSegment {
        /// Its seq.
        seq: u64,
        /// Its base position.
        base: u64,
    },
    /// A later batch says how far the log was synced.
    SyncedTo {
        /// File offset of its header.
        offset: u64,
        /// Its number.
        seq: u64,
        /// What it says.
        synced_to: u64,
    },
    /// Something durable needs an index.
    Floor {
        /// What.
        what: &'static str,
        /// Which index.
        index: u64,
    },
    /// A sector that is neither zero nor a header.
    NoHeader,
    /// A payload that changed after it was written.
    PayloadCrc {
        /// In the header.
        expected: u32,
        /// Of the bytes in the file.
        found: u32,
    },
    /// Bytes farther behind the end than unsynced ones get.
    FarBytes {
        /// File offset of the last of them.
        offset: u64,
    },
    /// A batch that does not follow the one before.
    Chain {
        /// Which field.
        field: &'static str,
        /// Wanted.
        expected: u64,
        /// In the file.
        found: u64,
    },
    /// A record that is malformed although the batch is good.
    Malformed(&'static str),
    /// A record that cannot follow the ones before.
    Broken(Broken),
    /// The system's error.
    Device(String),
}

/// Why the log cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// How bad.
    pub class: Class,
    /// Which rule decided.
    pub rule: Rule,
    /// The file (or the directory, when a file is missing).
    pub path: PathBuf,
    /// Offset in the file of the first bad byte, as far as one can tell.
    pub offset: u64,
    /// The same as a position; `None` if the header that says it is bad.
    pub position: Option<u64>,
    /// First index at stake: the last good one + 1. 0 if unknown.
    pub first_lost: u64,
    /// Last index known to be at stake; `None` if nobody can tell.
    pub last_lost: Option<u64>,
    /// See [`Proof`].
    pub proof: Proof,
}

/// Something that does not stop a start but should be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub class: Class,
    /// Name of the file.
    pub file: String,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// What it is.
    pub text: String,
}

impl Damage {
    /// The directory that holds the segments.
    fn directory(&self) -> PathBuf {
        let is_file = self
            .path
            .extension()
            .is_some_and(|extension| extension == "wal");
        match (is_file, self.path.parent()) {
            (true, Some(parent)) => parent.to_path_buf(),
            _ => self.path.clone(),
        }
    }

    /// What an operator may type next, best first.
    pub fn commands(&self) -> Vec<String> {
        let wal = self.directory();
        // The log lies in the data directory unless somebody moved it; the tool takes either.
        let data = wal
            .parent()
            .filter(|data| !data.as_os_str().is_empty())
            .unwrap_or(&wal);
        let data = data.display();
        let mut commands = vec![format!("kvutil wal verify --data-dir {data}")];
        match self.class {
            Class::W0 | Class::W1 | Class::W3 | Class::W7 => {
                commands.push(format!("kvutil wal repair --data-dir {data} --apply"));
            }
            Class::W8 => commands.push(format!(
                "kvutil data clone --data-dir {data} --skip-bad {data}.clone"
            )),
            Class::W2 | Class::W4 | Class::W5 | Class::W6 => {
                commands.push(format!("kvutil wal repair --data-dir {data}"));
            }
        }
        commands
    }
}

impl std::error::Error for Damage {}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: offset {}", self.path.display(), self.offset)?;
        if let Some(position) = self.position {
            write!(f, " (position {position})")?;
        }
        write!(
            f,
            ": {}; class {:?}, rule {}",
            self.proof, self.class, self.rule
        )?;
        match (self.first_lost, self.last_lost) {
            (0, _) => {}
            (first, Some(last)) => write!(f, "; entries {first}..{last} at stake")?,
            (first, None) => write!(f, "; entries from {first} on at stake")?,
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joint => write!(f, "joint"),
            Self::Records => write!(f, "records"),
            numbered => write!(f, "{numbered:?}"),
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { expected, found } => {
                write!(f, "the header says {expected} bytes, the file has {found}")
            }
            Self::Headers { first, second } => {
                write!(
                    f,
                    "no header copy is good: first: {first}; second: {second}"
                )
            }
            Self::HeadersDiffer => write!(f, "two good header copies that differ"),
            Self::Field {
                name,
                expected,
                found,
            } => {
                write!(f, "{name} is {found}, expected {expected}")
            }
            Self::Foreign { expected, found } => {
                write!(f, "the segment is of {found}, expected {expected}")
            }
            Self::MissingSegments { from, to } => write!(f, "segments {from}..{to} are missing"),
            Self::MissingStart {
                first_index,
                covered,
            } => write!(
                f,
                "the log starts at index {first_index}, the store and its snapshots end at {covered}"
            ),
            Self::NextSegment { seq, base } => {
                write!(
                    f,
                    "bad, but segment {seq} says that it was good up to position {base}"
                )
            }
            Self::SyncedTo {
                offset,
                seq,
                synced_to,
            } => write!(
                f,
                "bad, but batch {seq} at offset {offset} says that all below position {synced_to} \
                 was synced"
            ),
            Self::Floor { what, index } => {
                write!(f, "the log ends here, but the {what} is {index}")
            }
            Self::NoHeader => write!(f, "a sector that is neither zero nor a batch header"),
            Self::PayloadCrc { expected, found } => write!(
                f,
                "payload CRC {found:08x}, the header says {expected:08x}, and no sector is missing"
            ),
            Self::FarBytes { offset } => write!(
                f,
                "a sector never written, but bytes at offset {offset}, farther than unsynced ones get"
            ),
            Self::Chain {
                field,
                expected,
                found,
            } => {
                write!(
                    f,
                    "a batch of another place: {field} is {found}, expected {expected}"
                )
            }
            Self::Malformed(text) => write!(f, "a good batch with a bad record: {text}"),
            Self::Broken(broken) => write!(f, "a record that breaks the log: {broken}"),
            Self::Device(error) => write!(f, "read error: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_place_proof_rule_and_the_next_command() {
        let damage = Damage {
            class: Class::W4,
            rule: Rule::D3,
            path: "/var/lib/kv/wal/0000000000000007-000000000000f4a1.wal".into(),
            offset: 8192,
            position: Some(70_000),
            first_lost: 90,
            last_lost: Some(131),
            proof: Proof::SyncedTo {
                offset: 12_288,
                seq: 44,
                synced_to: 74_096,
            },
        };
        assert_eq!(
            damage.to_string(),
            "/var/lib/kv/wal/0000000000000007-000000000000f4a1.wal: offset 8192 (position 70000): \
             bad, but batch 44 at offset 12288 says that all below position 74096 was synced; \
             class W4, rule D3; entries 90..131 at stake"
        );
        assert_eq!(
            damage.commands(),
            [
                "kvutil wal verify --data-dir /var/lib/kv",
                "kvutil wal repair --data-dir /var/lib/kv"
            ]
        );
    }
}
