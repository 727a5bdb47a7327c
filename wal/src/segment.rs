//! Segment files: their names, their header, and which of its two copies counts.

use std::fmt;

use crate::batch::{Salt, le16, le32, le64};
use crate::record::HardState;
use crate::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES};

/// First bytes of a segment. The high bit, CR LF and LF show what a text-mode copy did to it.
pub const SEGMENT_MAGIC: [u8; 8] = [0x89, b'K', b'V', b'W', b'A', b'L', 0x0D, 0x0A];
/// The version this crate writes, and the highest major version it reads.
pub const VERSION_MAJOR: u16 = 1;
/// See [`VERSION_MAJOR`].
pub const VERSION_MINOR: u16 = 0;
/// Feature bits that this crate knows, of the first two sets.
const FEATURES_KNOWN: [u32; 2] = [0, 0];

/// Whose log it is. A segment of another identity is never read as ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Cluster id.
    pub cluster: u64,
    /// Member id.
    pub member: u64,
    /// Random at creation of the data directory, new at restore and rejoin.
    pub instance: [u8; 16],
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cluster {:x} member {:x} instance ",
            self.cluster, self.member
        )?;
        self.instance
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A file of the log, by what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// A segment.
    Segment {
        /// Number of the segment.
        seq: u64,
        /// The log's last index + 1 when it was opened.
        first_index: u64,
    },
    /// A file being prepared.
    Spare(u64),
}

impl FileName {
    /// Reads a name in exactly the form that [`fmt::Display`] writes.
    pub fn parse(name: &str) -> Option<Self> {
        let parsed = if let Some(stem) = name.strip_suffix(".wal") {
            let (seq, first) = stem.split_once('-')?;
            let (seq, first_index) = (
                u64::from_str_radix(seq, 16).ok()?,
                u64::from_str_radix(first, 16).ok()?,
            );
            Self::Segment { seq, first_index }
        } else {
            Self::Spare(
                name.strip_prefix("spare-")?
                    .strip_suffix(".tmp")?
                    .parse()
                    .ok()?,
            )
        };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment { seq, first_index } => write!(f, "{seq:016x}-{first_index:016x}.wal"),
            Self::Spare(number) => write!(f, "spare-{number}.tmp"),
        }
    }
}

/// Why a segment was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenedBecause {
    /// The log is new.
    Created,
    /// The segment before was full.
    Full,
    /// A process started over a clean end.
    CleanStart,
    /// A process started behind a torn tail.
    AfterCut,
    /// A repair.
    Repair,
    /// A snapshot was restored.
    Restore,
}

impl OpenedBecause {
    fn number(self) -> u32 {
        self as u32
    }

    fn from_number(number: u32) -> Option<Self> {
        use OpenedBecause::*;
        [Created, Full, CleanStart, AfterCut, Repair, Restore]
            .into_iter()
            .find(|reason| reason.number() == number)
    }
}

/// See the crate's head for the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Minor version of the writer.
    pub minor: u16,
    /// Features that a writer must know; an unknown bit makes the log read-only.
    pub write_features: u32,
    /// Alignment of batches, in bytes.
    pub block: u32,
    /// Whose log.
    pub identity: Identity,
    /// Number of the segment.
    pub seq: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Position of the first data byte.
    pub base: u64,
    /// Seeds the CRCs of the batches.
    pub salt: u64,
    /// Seq of the first batch.
    pub first_batch: u64,
    /// Header CRC of the last batch before, 0 if none.
    pub previous_crc: u32,
    /// Why it exists.
    pub opened_because: OpenedBecause,
    /// Last index + 1 at opening.
    pub first_index: u64,
    /// Term of `first_index - 1`.
    pub previous_term: u64,
    /// At opening.
    pub hard_state: HardState,
    /// Newest snapshot at opening, (0, 0) for none.
    pub snapshot: (u64, u64),
    /// Information only.
    pub unix_ms: u64,
    /// Information only: ASCII, zero-padded.
    pub program: [u8; 32],
}

/// Why 256 bytes are not a header that this crate can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// The file ends before it.
    Short,
    /// No magic.
    Magic,
    /// Another major version.
    Version(u16),
    /// Feature bits that a reader must know and this one does not.
    Features(u32),
    /// The bytes changed.
    Crc {
        /// In the file.
        found: u32,
        /// Of the bytes in the file.
        computed: u32,
    },
    /// The CRC is right, but a field is outside its bounds.
    Field(&'static str),
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => write!(f, "the file ends before it"),
            Self::Magic => write!(f, "no magic"),
            Self::Version(major) => {
                write!(
                    f,
                    "format version {major}, this program knows {VERSION_MAJOR}"
                )
            }
            Self::Features(bits) => write!(f, "unknown features {bits:#x}"),
            Self::Crc { found, computed } => {
                write!(f, "CRC {found:08x}, its bytes have {computed:08x}")
            }
            Self::Field(name) => write!(f, "field {name} is outside its bounds"),
        }
    }
}

impl SegmentHeader {
    /// Bytes in front of the data area.
    pub fn data_start(&self) -> u64 {
        2 * u64::from(self.block)
    }

    /// Position of the byte at `offset`, which is not in front of the data area.
    pub fn position_at(&self, offset: u64) -> u64 {
        self.base + (offset - self.data_start())
    }

    /// File offset of `position`; `None` if the segment's data area does not have it.
    pub fn offset_of(&self, position: u64) -> Option<u64> {
        let offset = position
            .checked_sub(self.base)?
            .checked_add(self.data_start())?;
        (offset <= self.bytes).then_some(offset)
    }

    /// The name that a segment with this header has.
    pub fn name(&self) -> FileName {
        FileName::Segment {
            seq: self.seq,
            first_index: self.first_index,
        }
    }

    /// The CRC seed of this segment's batches.
    pub fn salted(&self) -> Salt {
        Salt::new(self.salt)
    }

    /// One copy of the header.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0u8; SEGMENT_HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &SEGMENT_MAGIC);
        put(8, &VERSION_MAJOR.to_le_bytes());
        put(10, &self.minor.to_le_bytes());
        put(12, &(SEGMENT_HEADER_BYTES as u32).to_le_bytes());
        put(20, &self.write_features.to_le_bytes());
        put(28, &self.block.to_le_bytes());
        put(32, &self.identity.cluster.to_le_bytes());
        put(40, &self.identity.member.to_le_bytes());
        put(48, &self.identity.instance);
        put(64, &self.seq.to_le_bytes());
        put(72, &self.bytes.to_le_bytes());
        put(80, &self.base.to_le_bytes());
        put(88, &self.salt.to_le_bytes());
        put(96, &self.first_batch.to_le_bytes());
        put(104, &self.previous_crc.to_le_bytes());
        put(108, &self.opened_because.number().to_le_bytes());
        put(112, &self.first_index.to_le_bytes());
        put(120, &self.previous_term.to_le_bytes());
        put(128, &self.hard_state.term.to_le_bytes());
        put(136, &self.hard_state.vote.to_le_bytes());
        put(144, &self.hard_state.commit.to_le_bytes());
        put(152, &self.snapshot.0.to_le_bytes());
        put(160, &self.snapshot.1.to_le_bytes());
        put(168, &self.unix_ms.to_le_bytes());
        put(176, &self.program);
        let crc = crc32fast::hash(&out[..252]);
        out[252..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Both copies as they lie in front of the data area.
    pub fn encode_copies(&self) -> Vec<u8> {
        let (block, copy) = (self.block as usize, self.encode());
        let mut out = vec![0; 2 * block];
        out[..copy.len()].copy_from_slice(&copy);
        out[block..block + copy.len()].copy_from_slice(&copy);
        out
    }

    /// Reads one copy. The version is looked at before the CRC, so that a later version whose
    /// header differs is called by its name.
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, BadHeader> {
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(BadHeader::Magic);
        }
        let (found, computed) = (le32(bytes, 252), crc32fast::hash(&bytes[..252]));
        if found != computed {
            return Err(BadHeader::Crc { found, computed });
        }
        if le16(bytes, 8) != VERSION_MAJOR {
            return Err(BadHeader::Version(le16(bytes, 8)));
        }
        let unknown = le32(bytes, 16) & !FEATURES_KNOWN[0];
        if unknown != 0 {
            return Err(BadHeader::Features(unknown));
        }
        let reason = OpenedBecause::from_number(le32(bytes, 108));
        let header = Self {
            minor: le16(bytes, 10),
            write_features: le32(bytes, 20),
            block: le32(bytes, 28),
            identity: Identity {
                cluster: le64(bytes, 32),
                member: le64(bytes, 40),
                instance: std::array::from_fn(|i| bytes[48 + i]),
            },
            seq: le64(bytes, 64),
            bytes: le64(bytes, 72),
            base: le64(bytes, 80),
            salt: le64(bytes, 88),
            first_batch: le64(bytes, 96),
            previous_crc: le32(bytes, 104),
            opened_because: reason.ok_or(BadHeader::Field("opened because"))?,
            first_index: le64(bytes, 112),
            previous_term: le64(bytes, 120),
            hard_state: HardState {
                term: le64(bytes, 128),
                vote: le64(bytes, 136),
                commit: le64(bytes, 144),
            },
            snapshot: (le64(bytes, 152), le64(bytes, 160)),
            unix_ms: le64(bytes, 168),
            program: std::array::from_fn(|i| bytes[176 + i]),
        };
        header
            .check_bounds(le32(bytes, 12))
            .map_err(BadHeader::Field)?;
        Ok(header)
    }

    /// Whether this crate may open further segments behind one with this header.
    pub fn may_write(&self) -> bool {
        self.write_features & !FEATURES_KNOWN[1] == 0
    }

    fn check_bounds(&self, header_bytes: u32) -> Result<(), &'static str> {
        // Positions and indexes are added to sizes later; half of u64 is for ever.
        const FAR: u64 = u64::MAX / 2;
        let block = u64::from(self.block);
        let rules = [
            (
                header_bytes as usize == SEGMENT_HEADER_BYTES,
                "header bytes",
            ),
            (self.block.is_power_of_two(), "block bytes"),
            (
                (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&self.block),
                "block bytes",
            ),
            (
                self.bytes <= SEGMENT_BYTES_MAX && self.bytes >= 4 * block,
                "segment bytes",
            ),
            (self.bytes.is_multiple_of(block.max(1)), "segment bytes"),
            (self.seq >= 1 && self.seq < FAR, "segment seq"),
            (self.base < FAR, "base position"),
            (
                self.first_batch >= 1 && self.first_batch < FAR,
                "first batch seq",
            ),
            (
                self.first_index >= 1 && self.first_index < FAR,
                "first index",
            ),
        ];
        rules
            .into_iter()
            .find(|(holds, _)| !holds)
            .map_or(Ok(()), |(_, name)| Err(name))
    }
}

/// The program version as the header wants it.
pub fn program_field() -> [u8; 32] {
    let text = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).as_bytes();
    std::array::from_fn(|i| text.get(i).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn header() -> SegmentHeader {
        SegmentHeader {
            minor: 0,
            write_features: 0,
            block: 512,
            identity: Identity {
                cluster: 1,
                member: 2,
                instance: [3; 16],
            },
            seq: 4,
            bytes: 8192,
            base: 1024,
            salt: 99,
            first_batch: 7,
            previous_crc: 8,
            opened_because: OpenedBecause::AfterCut,
            first_index: 12,
            previous_term: 2,
            hard_state: HardState {
                term: 3,
                vote: 1,
                commit: 9,
            },
            snapshot: (5, 1),
            unix_ms: 77,
            program: program_field(),
        }
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_noticed() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_later_major_version_and_unknown_features_are_refused_by_name() {
        for (at, wanted) in [(8, BadHeader::Version(2)), (16, BadHeader::Features(2))] {
            let mut bytes = header().encode();
            bytes[at] = 2;
            let crc = crc32fast::hash(&bytes[..252]);
            bytes[252..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(SegmentHeader::decode(&bytes), Err(wanted));
        }
    }

    #[test]
    fn only_the_exact_form_of_a_name_is_a_segment() {
        let name = FileName::Segment {
            seq: 7,
            first_index: 0xf4a1,
        };
        assert_eq!(name.to_string(), "0000000000000007-000000000000f4a1.wal");
        assert_eq!(FileName::parse(&name.to_string()), Some(name));
        assert_eq!(FileName::parse("spare-3.tmp"), Some(FileName::Spare(3)));
        for bad in [
            "7-f4a1.wal",
            "0000000000000007-000000000000F4A1.wal",
            "+000000000000007-000000000000f4a1.wal",
            "spare-03.tmp",
            "spare-+3.tmp",
            "x.wal",
            "",
        ] {
            assert_eq!(FileName::parse(bad), None, "{bad}");
        }
    }
}
