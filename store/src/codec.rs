//! Small pieces of every stored record: varints and a cursor that never panics on foreign bytes.
//!
//! A varint is the number in groups of 7 bits, lowest first, the top bit of a byte saying that
//! another follows; at most 10 bytes, and never longer than needed.

/// Longest varint of a `u64`.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// For numbers that are never negative by construction (revisions, versions, lengths).
pub(crate) fn put_count(out: &mut Vec<u8>, value: i64) {
    put_varint(
        out,
        u64::try_from(value).expect("revisions and versions only count up from 0"),
    );
}

/// Reads a record from its start. Every `take` answers `None` when the bytes end early.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(array)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..VARINT_BYTES_MAX as u32 * 7).step_by(7) {
            let byte = self.byte()?;
            let group = u64::from(byte & 0x7f);
            // The tenth group has room for one bit only.
            if shift == 63 && group > 1 {
                return None;
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A varint that fits a number that is never negative.
    pub fn count(&mut self) -> Option<i64> {
        i64::try_from(self.varint()?).ok()
    }

    /// The next `length` bytes.
    pub fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let slice = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(slice)
    }

    /// Bytes behind a varint length.
    pub fn sized(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.slice(length)
    }

    /// Everything not read yet.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at = self.bytes.len();
        rest
    }

    /// `Some` if every byte was read: a record with more is of a shape we do not know.
    pub fn end(&self) -> Option<()> {
        (self.at == self.bytes.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut cursor = Cursor::new(&out);
            assert_eq!(cursor.varint(), Some(value));
            assert_eq!(cursor.end(), Some(()));
        }
    }

    #[test]
    fn short_and_overlong_input_is_none_and_no_panic() {
        for bytes in [&[][..], &[0x80], &[0xff; 10], &[0xff; 11]] {
            assert_eq!(Cursor::new(bytes).varint(), None);
        }
        let bytes = [5, 1, 2];
        assert_eq!(Cursor::new(&bytes).sized(), None);
        assert_eq!(Cursor::new(&bytes).u64(), None);
        assert_eq!(Cursor::new(&bytes).slice(usize::MAX), None);
    }
}
