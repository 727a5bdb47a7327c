//! One chunk: its head, its packed records. Everything that frames records is here, nothing that reads or writes files.

use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;

use crate::error::{Damage, Error, Place};
use crate::info::ChunkInfo;
use crate::{CHUNK_BYTES_MAX, CHUNK_HEAD_BYTES, CHUNK_MAGIC, CRC_BYTES, check_crc, length};

const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// Records on their way to become a chunk. A [`crate::Writer`] collects them by itself; this is for whoever collects on other
/// threads, and then gives whole batches to it.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) section: u8,
    pub(crate) sequence: u32,
    pub(crate) records: u32,
    pub(crate) raw: Vec<u8>,
    pub(crate) first_key: Vec<u8>,
    pub(crate) last_key: Vec<u8>,
}

impl Batch {
    /// Adds a record of `section` with a key above all others, if a chunk of `chunk_bytes` has room for it: false if it belongs
    /// into the next batch. The first one always finds room.
    ///
    /// # Errors
    /// `Refused` for a record out of order, of another section or too large.
    pub fn push(
        &mut self,
        section: u8,
        key: &[u8],
        value: &[u8],
        chunk_bytes: usize,
    ) -> Result<bool, Error> {
        check_lengths(key, value)?;
        if self.records == 0 {
            self.section = section;
        } else if section != self.section {
            return Err(Error::Refused("a record of another section"));
        } else if key <= &self.last_key[..] {
            return Err(Error::Refused("a key not above the one before it"));
        } else if self.is_full(key, value, chunk_bytes) {
            return Ok(false);
        }
        self.add(key, value, chunk_bytes);
        Ok(true)
    }

    /// Of keys and values, with their lengths.
    pub fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(crate) fn is_full(&self, key: &[u8], value: &[u8], chunk_bytes: usize) -> bool {
        self.raw.len() + key.len() + value.len() > chunk_bytes
    }

    /// Adds a record that was checked.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8], chunk_bytes: usize) {
        if self.records == 0 {
            self.first_key.clear();
            self.first_key.extend_from_slice(key);
            // At once: growing would copy what is there, and touch twice the memory.
            self.raw.reserve(chunk_bytes.min(RESERVE_MAX) + VARINTS_MAX);
        }
        put_varint(&mut self.raw, key.len());
        put_varint(&mut self.raw, value.len());
        self.raw.extend_from_slice(key);
        self.raw.extend_from_slice(value);
        self.records += 1;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
    }

    /// Forgets the records, keeps the buffers.
    pub(crate) fn clear(&mut self) {
        self.records = 0;
        self.raw.clear();
    }
}

/// Of a chunk, before its first record is there.
const RESERVE_MAX: usize = 4 << 20;
/// Both lengths of a record.
const VARINTS_MAX: usize = 2 * 5;

/// Refuses what no chunk holds.
pub(crate) fn check_lengths(key: &[u8], value: &[u8]) -> Result<(), Error> {
    if key.len() > usize::from(u16::MAX) {
        return Err(Error::Refused("a key longer than 65535 bytes"));
    }
    if key.len() + value.len() + 32 > CHUNK_BYTES_MAX as usize {
        return Err(Error::Refused("a record longer than a chunk may be"));
    }
    Ok(())
}

/// Where a chunk's first so many bytes hardly shrink, neither does the rest, and a quicker level packs it as small: what is
/// left to find are the keys.
const SAMPLE_BYTES: usize = 32 << 10;
/// Measured with values of random bytes: as small as level 1, in half the time.
const LEVEL_QUICK: i32 = -1;
/// Who wants a higher level wants to wait.
const SAMPLED_LEVEL_MAX: i32 = 1;

/// Packs batches, one at a time.
pub(crate) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    quick: Option<zstd::bulk::Compressor<'static>>,
    packed: Vec<u8>,
}

impl Packer {
    pub fn new(level: i32) -> std::io::Result<Self> {
        Ok(Packer {
            zstd: zstd::bulk::Compressor::new(level)?,
            quick: match level <= SAMPLED_LEVEL_MAX {
                true => Some(zstd::bulk::Compressor::new(LEVEL_QUICK)?),
                false => None,
            },
            packed: Vec::new(),
        })
    }

    /// The chunk's bytes replace those in `out`; the offset of what is returned is left 0.
    pub fn pack(&mut self, batch: &Batch, out: &mut Vec<u8>) -> std::io::Result<ChunkInfo> {
        let bound = zstd::zstd_safe::compress_bound(batch.raw.len());
        if self.packed.len() < bound {
            self.packed.resize(bound, 0);
        }
        let packed_bytes = self.compress(&batch.raw)?;
        // What does not shrink is kept as it is: reading it back costs nothing then.
        let (codec, stored) = if packed_bytes < batch.raw.len() {
            (CODEC_ZSTD, &self.packed[..packed_bytes])
        } else {
            (CODEC_RAW, &batch.raw[..])
        };
        let info = ChunkInfo {
            sequence: batch.sequence,
            offset: 0,
            section: batch.section,
            codec,
            records: batch.records,
            raw_bytes: length(batch.raw.len()),
            stored_bytes: length(stored.len()),
            first_key: batch.first_key.clone(),
            last_key: batch.last_key.clone(),
        };
        out.clear();
        out.reserve(info.total_bytes());
        put_head(out, &info);
        out.extend_from_slice(stored);
        let crc = crc32fast::hash(out);
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(info)
    }
}

impl Packer {
    /// Into `packed`, which has room for the worst; returns the bytes there.
    fn compress(&mut self, raw: &[u8]) -> std::io::Result<usize> {
        let (zstd, packed) = (&mut self.zstd, &mut self.packed[..]);
        if let Some(quick) = &mut self.quick
            && let Some(sample) = raw.get(..SAMPLE_BYTES)
        {
            let packed_bytes = zstd.compress_to_buffer(sample, &mut *packed)?;
            if packed_bytes > SAMPLE_BYTES / 8 * 7 {
                return quick.compress_to_buffer(raw, packed);
            }
        }
        zstd.compress_to_buffer(raw, packed)
    }
}

fn put_head(out: &mut Vec<u8>, info: &ChunkInfo) {
    out.extend_from_slice(&CHUNK_MAGIC);
    out.extend_from_slice(&[info.section, info.codec, 0, 0]);
    for number in [
        info.sequence,
        info.records,
        info.raw_bytes,
        info.stored_bytes,
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    put_keys(out, info);
    let crc = crc32fast::hash(out);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// Lengths of both keys, then the keys.
pub(crate) fn put_keys(out: &mut Vec<u8>, info: &ChunkInfo) {
    for key in [&info.first_key, &info.last_key] {
        let bytes = u16::try_from(key.len()).expect("checked when the record was taken");
        out.extend_from_slice(&bytes.to_le_bytes());
    }
    out.extend_from_slice(&info.first_key);
    out.extend_from_slice(&info.last_key);
}

/// What the fixed part of a head says of the rest; believed only as far as lengths are bounded.
pub(crate) fn head_bytes(fixed: &[u8; CHUNK_HEAD_BYTES]) -> usize {
    let keys = |at: usize| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]]));
    CHUNK_HEAD_BYTES + keys(24) + keys(26) + CRC_BYTES
}

/// Checks a head, CRC included. `offset` is where it lies.
pub(crate) fn parse_head(head: &[u8], offset: u64) -> Result<ChunkInfo, Error> {
    let fixed: &[u8; CHUNK_HEAD_BYTES] = head.first_chunk().ok_or_else(|| {
        let place = Place::Offset { offset };
        Error::damaged(place, Damage::Shape("a chunk's head is cut short"))
    })?;
    let number =
        |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let sequence = number(8);
    let wrong = |damage| Err(Error::damaged(Place::Chunk { sequence, offset }, damage));
    if fixed[..4] != CHUNK_MAGIC {
        let found = fixed[..4].to_vec();
        return Err(Error::damaged(
            Place::Offset { offset },
            Damage::Magic { found },
        ));
    }
    if head.len() != head_bytes(fixed) {
        return wrong(Damage::Shape("its head is cut short"));
    }
    check_crc(Place::Chunk { sequence, offset }, head)?;
    let keys = &head[CHUNK_HEAD_BYTES..head.len() - CRC_BYTES];
    let (first_key, last_key) =
        keys.split_at(usize::from(u16::from_le_bytes([fixed[24], fixed[25]])));
    let info = ChunkInfo {
        sequence,
        offset,
        section: fixed[4],
        codec: fixed[5],
        records: number(12),
        raw_bytes: number(16),
        stored_bytes: number(20),
        first_key: first_key.to_vec(),
        last_key: last_key.to_vec(),
    };
    if info.raw_bytes.max(info.stored_bytes) > CHUNK_BYTES_MAX {
        return wrong(Damage::Shape("it is longer than any chunk may be"));
    }
    Ok(info)
}

/// Unpacks chunks, one at a time. What it makes lives in buffers that come back when the last slice of them is gone, so that many
/// chunks in a row do not each need fresh memory.
pub(crate) struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
    spent: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

/// A buffer on loan.
struct Loan {
    bytes: Vec<u8>,
    back: Sender<Vec<u8>>,
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // The unpacker may be gone.
        let _ = self.back.send(std::mem::take(&mut self.bytes));
    }
}

impl Unpacker {
    pub fn new() -> std::io::Result<Self> {
        Ok(Unpacker {
            zstd: zstd::bulk::Decompressor::new()?,
            spent: channel(),
        })
    }

    /// Checks and unpacks what follows the head: stored bytes and CRC. `head` is the head with its CRC.
    pub fn unpack(&mut self, info: &ChunkInfo, head: &[u8], rest: &[u8]) -> Result<Records, Error> {
        let place = info.place();
        let wrong = |damage| Error::damaged(place, damage);
        let Some((stored, crc)) = rest.split_last_chunk::<CRC_BYTES>() else {
            return Err(wrong(Damage::Shape("no room for its CRC")));
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(head);
        hasher.update(stored);
        let (expected, found) = (u32::from_le_bytes(*crc), hasher.finalize());
        if expected != found {
            return Err(wrong(Damage::Crc { expected, found }));
        }
        let mut raw = self.spent.1.try_recv().unwrap_or_default();
        raw.clear();
        match info.codec {
            CODEC_RAW => raw.extend_from_slice(stored),
            CODEC_ZSTD => {
                raw.reserve(info.raw_bytes as usize);
                self.zstd
                    .decompress_to_buffer(stored, &mut raw)
                    .map_err(|error| wrong(Damage::Zstd(error.to_string())))?;
            }
            _ => {
                return Err(wrong(Damage::Shape(
                    "packed in a way this program does not know",
                )));
            }
        }
        if raw.len() != info.raw_bytes as usize {
            return Err(wrong(Damage::Shape(
                "its records are not as long as its head says",
            )));
        }
        let raw = Bytes::from_owner(Loan {
            bytes: raw,
            back: self.spent.0.clone(),
        });
        Records::check(info, raw).map_err(wrong)
    }
}

/// The records of one chunk, in order. Keys and values are slices of one buffer: one that is kept keeps all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    raw: Bytes,
    at: usize,
    left: u32,
}

impl Records {
    fn check(info: &ChunkInfo, raw: Bytes) -> Result<Records, Damage> {
        let records = Records {
            raw,
            at: 0,
            left: info.records,
        };
        let mut rest = &records.raw[..];
        let (mut count, mut last): (u32, Option<&[u8]>) = (0, None);
        while !rest.is_empty() {
            let (key, _) =
                take_record(&mut rest).ok_or(Damage::Shape("a record runs over its end"))?;
            if last.is_none() && key != info.first_key {
                return Err(Damage::Shape("its first key is not what its head says"));
            }
            if last.is_some_and(|last| last >= key) {
                return Err(Damage::Shape("its keys are out of order"));
            }
            last = Some(key);
            count += 1;
        }
        if count != info.records || count == 0 {
            return Err(Damage::Shape(
                "its records are not as many as its head says",
            ));
        }
        if last != Some(&info.last_key[..]) {
            return Err(Damage::Shape("its last key is not what its head says"));
        }
        Ok(records)
    }

    /// Records not handed out yet.
    pub fn len(&self) -> usize {
        self.left as usize
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Those not handed out yet, borrowed: key, value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.raw[self.at..];
        std::iter::from_fn(move || take_record(&mut rest))
    }

    /// Passes over records with keys below `key`.
    pub fn skip_below(&mut self, key: &[u8]) {
        let mut rest = &self.raw[self.at..];
        loop {
            let before = rest;
            match take_record(&mut rest) {
                Some((found, _)) if found < key => self.left -= 1,
                _ => {
                    self.at = self.raw.len() - before.len();
                    return;
                }
            }
        }
    }
}

impl Iterator for Records {
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<(Bytes, Bytes)> {
        let mut rest = &self.raw[self.at..];
        let (key, value) = take_record(&mut rest)?;
        let end = self.raw.len() - rest.len();
        let value_at = end - value.len();
        let pair = (
            self.raw.slice(value_at - key.len()..value_at),
            self.raw.slice(value_at..end),
        );
        self.at = end;
        self.left -= 1;
        Some(pair)
    }
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let key_bytes = take_varint(rest)?;
    let value_bytes = take_varint(rest)?;
    let (key, behind) = rest.split_at_checked(key_bytes)?;
    let (value, behind) = behind.split_at_checked(value_bytes)?;
    *rest = behind;
    Some((key, value))
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}
