//! The batch header, its salted checksums, and the buffer in which a batch is built.
//!
//! The salt makes bytes of an earlier use of a file never parse; the position makes a batch written
//! to a wrong place never parse; two CRCs let a reader trust the length before the payload is read.

use crate::{BATCH_HEADER_BYTES, BLOCK_BYTES_MAX, round_up};

/// First bytes of a batch: `KWB1`.
pub const BATCH_MAGIC: [u8; 4] = *b"KWB1";

/// What a batch says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// First batch of a segment: repeats all that older segments said.
    pub const CHECKPOINT: Self = Self(1);
    /// Last batch of a full segment.
    pub const SEAL: Self = Self(2);
    /// No records, only a newer `synced_to`.
    pub const MARK: Self = Self(4);
    /// The writer meant to sync it.
    pub const SYNC: Self = Self(8);

    /// Whether all bits of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The CRC state after a segment's salt: every batch CRC of the segment goes on from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(u32);

impl Salt {
    /// For the salt in a segment header.
    pub fn new(salt: u64) -> Self {
        Self(crc32fast::hash(&salt.to_le_bytes()))
    }

    /// CRC over salt and the first 60 bytes of a batch header.
    pub fn header_crc(self, fields: &[u8; 60]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.0);
        crc.update(fields);
        crc.finalize()
    }

    /// CRC over salt, position and payload.
    pub fn payload_crc(self, position: u64, payload: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.0);
        crc.update(&position.to_le_bytes());
        crc.update(payload);
        crc.finalize()
    }
}

/// The 64 bytes in front of a payload; see the crate's head for the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Bytes of records behind the header.
    pub payload_bytes: u32,
    /// Place in the endless log.
    pub position: u64,
    /// Every byte below was synced when this batch was issued.
    pub synced_to: u64,
    /// Number of the batch in the log.
    pub seq: u64,
    /// Header CRC of the batch before.
    pub previous_crc: u32,
    /// CRC of the payload.
    pub payload_crc: u32,
    /// Writer's clock; information only.
    pub unix_ms: u64,
    /// Last index of the log behind this batch.
    pub last_index: u64,
    /// Records in the payload.
    pub records: u16,
    /// See [`Flags`].
    pub flags: Flags,
}

impl BatchHeader {
    /// The bytes for the disk and the header CRC in them.
    pub fn encode(&self, salt: Salt) -> ([u8; BATCH_HEADER_BYTES], u32) {
        let mut fields = [0u8; 60];
        fields[0..4].copy_from_slice(&BATCH_MAGIC);
        fields[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        fields[8..16].copy_from_slice(&self.position.to_le_bytes());
        fields[16..24].copy_from_slice(&self.synced_to.to_le_bytes());
        fields[24..32].copy_from_slice(&self.seq.to_le_bytes());
        fields[32..36].copy_from_slice(&self.previous_crc.to_le_bytes());
        fields[36..40].copy_from_slice(&self.payload_crc.to_le_bytes());
        fields[40..48].copy_from_slice(&self.unix_ms.to_le_bytes());
        fields[48..56].copy_from_slice(&self.last_index.to_le_bytes());
        fields[56..58].copy_from_slice(&self.records.to_le_bytes());
        fields[58..60].copy_from_slice(&self.flags.0.to_le_bytes());
        let crc = salt.header_crc(&fields);
        let mut bytes = [0u8; BATCH_HEADER_BYTES];
        bytes[..60].copy_from_slice(&fields);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// The header in front of `bytes` and its CRC, if magic and CRC are right. Nothing else is
    /// checked: position, seq and chain are the scanner's.
    pub fn decode(bytes: &[u8], salt: Salt) -> Option<(Self, u32)> {
        let bytes = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
        if bytes[..4] != BATCH_MAGIC {
            return None;
        }
        let fields = bytes.first_chunk::<60>()?;
        let crc = le32(bytes, 60);
        if salt.header_crc(fields) != crc {
            return None;
        }
        let header = Self {
            payload_bytes: le32(bytes, 4),
            position: le64(bytes, 8),
            synced_to: le64(bytes, 16),
            seq: le64(bytes, 24),
            previous_crc: le32(bytes, 32),
            payload_crc: le32(bytes, 36),
            unix_ms: le64(bytes, 40),
            last_index: le64(bytes, 48),
            records: le16(bytes, 56),
            flags: Flags(le16(bytes, 58)),
        };
        Some((header, crc))
    }

    /// Bytes that the batch takes in the file, padding included.
    pub fn total_bytes(&self, block: usize) -> usize {
        round_up(BATCH_HEADER_BYTES + self.payload_bytes as usize, block)
    }
}

/// Little-endian fields at fixed offsets of a header whose size the caller's type guarantees.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// A batch under construction: room for the header, then records. Reused for ever, and it starts at
/// an address that is a multiple of the largest block, so a direct write could take it as it is.
///
/// Its bytes are written by us before the kernel sees them, so no page fault can split a sector in
/// the middle of the copy.
#[derive(Debug, Default)]
pub struct BatchBuffer {
    /// Zeros up to `start`, the header, records.
    bytes: Vec<u8>,
    /// Where the batch starts in `bytes`.
    start: usize,
    records: usize,
}

impl BatchBuffer {
    /// Forgets the batch, keeps the memory unless one huge batch had grown it.
    pub fn clear(&mut self) {
        const KEEP: usize = 8 << 20;
        if self.bytes.capacity() > KEEP {
            (self.bytes, self.start) = (Vec::new(), 0);
        }
        self.bytes.truncate(self.start + BATCH_HEADER_BYTES);
        self.records = 0;
    }

    /// Whether no record was added since [`BatchBuffer::clear`].
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Records added.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Bytes of records added.
    pub fn payload_bytes(&self) -> usize {
        self.bytes
            .len()
            .saturating_sub(self.start + BATCH_HEADER_BYTES)
    }

    /// Bytes that header, records and padding will take.
    pub fn total_bytes(&self, block: usize) -> usize {
        self.total_bytes_with(0, block)
    }

    /// The same once records of so many bytes are added.
    pub fn total_bytes_with(&self, more: usize, block: usize) -> usize {
        round_up(BATCH_HEADER_BYTES + self.payload_bytes() + more, block)
    }

    /// Adds one record of at most `bytes` bytes through `put`.
    pub fn add(&mut self, bytes: usize, put: impl FnOnce(&mut Vec<u8>)) {
        self.reserve(bytes);
        let before = self.bytes.len();
        put(&mut self.bytes);
        assert!(
            self.bytes.len() - before <= bytes,
            "a record is larger than it announced"
        );
        self.records += 1;
    }

    /// Fills in the CRCs, sizes and counts, writes the header and pads to a block.
    /// Returns the header and its CRC.
    pub fn finish(
        &mut self,
        mut header: BatchHeader,
        salt: Salt,
        block: usize,
    ) -> (BatchHeader, u32) {
        self.reserve(block);
        let payload = &self.bytes[self.start + BATCH_HEADER_BYTES..];
        header.payload_bytes = u32::try_from(payload.len()).expect("a batch is at most 16 MiB");
        header.payload_crc = salt.payload_crc(header.position, payload);
        header.records = u16::try_from(self.records).expect("push stops at BATCH_RECORDS_MAX");
        let (bytes, crc) = header.encode(salt);
        self.bytes[self.start..self.start + BATCH_HEADER_BYTES].copy_from_slice(&bytes);
        self.bytes.resize(self.start + header.total_bytes(block), 0);
        (header, crc)
    }

    /// The finished batch.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Makes room for `bytes` and a block of padding without moving the aligned start.
    fn reserve(&mut self, bytes: usize) {
        const ALIGN: usize = BLOCK_BYTES_MAX as usize;
        let needed = self.bytes.len() + bytes + ALIGN;
        if needed <= self.bytes.capacity() && !self.bytes.is_empty() {
            return;
        }
        let used = self.bytes.get(self.start..).unwrap_or_default();
        let capacity = (needed + ALIGN).max(2 * used.len()).max(256 << 10);
        let mut grown: Vec<u8> = Vec::with_capacity(capacity);
        let start = match grown.as_ptr().align_offset(ALIGN) {
            // Cannot happen for bytes; a buffered write does not need the alignment.
            usize::MAX => 0,
            offset => offset,
        };
        grown.resize(start, 0);
        grown.extend_from_slice(used);
        if used.is_empty() {
            grown.resize(start + BATCH_HEADER_BYTES, 0);
        }
        self.bytes = grown;
        self.start = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            payload_bytes: 0,
            position: 4096,
            synced_to: 512,
            seq: 7,
            previous_crc: 3,
            payload_crc: 0,
            unix_ms: 5,
            last_index: 11,
            records: 0,
            flags: Flags::SYNC,
        }
    }

    #[test]
    fn a_batch_parses_only_under_its_own_salt() {
        let mut buffer = BatchBuffer::default();
        buffer.add(8, |out| out.extend_from_slice(b"12345678"));
        let (written, crc) = buffer.finish(header(), Salt::new(1), 512);
        assert_eq!(buffer.as_slice().len(), 512);
        assert_eq!(
            BatchHeader::decode(buffer.as_slice(), Salt::new(1)),
            Some((written, crc))
        );
        assert_eq!(BatchHeader::decode(buffer.as_slice(), Salt::new(2)), None);
        assert_eq!(
            written.payload_crc,
            Salt::new(1).payload_crc(4096, b"12345678")
        );
        assert_ne!(
            written.payload_crc,
            Salt::new(1).payload_crc(8192, b"12345678")
        );
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let (bytes, _) = header().encode(Salt::new(9));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&bad, Salt::new(9)), None, "bit {bit}");
        }
    }

    #[test]
    fn a_buffer_stays_aligned_and_keeps_its_records_while_it_grows() {
        let mut buffer = BatchBuffer::default();
        for round in 0..3 {
            for i in 0..400u64 {
                buffer.add(1000, |out| out.extend_from_slice(&[i as u8; 1000]));
            }
            assert_eq!(buffer.payload_bytes(), 400_000);
            buffer.finish(header(), Salt::new(round), 4096);
            let bytes = buffer.as_slice();
            assert_eq!(bytes.as_ptr() as usize % 65_536, 0);
            for i in 0..400usize {
                assert!(bytes[64 + i * 1000..][..1000].iter().all(|b| *b == i as u8));
            }
            assert!(bytes[64 + 400_000..].iter().all(|b| *b == 0));
            buffer.clear();
            assert!(buffer.is_empty() && buffer.payload_bytes() == 0);
        }
    }
}
