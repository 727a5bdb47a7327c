//! Random access to the bytes of one segment, and a window over it that reads in large steps and
//! never holds more than one batch and one step.

use std::io;

/// Bytes that can be read at an offset: a slice, or a file of a [`crate::disk::Disk`].
pub trait Source {
    /// Size in bytes.
    fn bytes(&self) -> u64;

    /// Fills `buf` from `offset`, wholly or with an error.
    ///
    /// # Errors
    /// What the device says, or `UnexpectedEof`.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl Source for &[u8] {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start
            .checked_add(buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// How much is read at once, in bytes.
pub const WINDOW_BYTES: usize = 1 << 20;

/// See the file's head.
pub struct Window<S> {
    source: S,
    step: usize,
    start: u64,
    buffer: Vec<u8>,
    filled: usize,
}

impl<S: Source> Window<S> {
    /// Over all of `source`, in steps of `step` bytes.
    pub fn new(source: S, step: usize) -> Self {
        Self {
            source,
            step: step.max(1),
            start: 0,
            buffer: Vec::new(),
            filled: 0,
        }
    }

    /// Size of the source, in bytes.
    pub fn bytes(&self) -> u64 {
        self.source.bytes()
    }

    /// `bytes` bytes at `offset`; fewer if the source ends before. The caller bounds `bytes`.
    ///
    /// # Errors
    /// A failed read of the source.
    pub fn get(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let left = self.source.bytes().saturating_sub(offset);
        let bytes = usize::try_from(left).map_or(bytes, |left| left.min(bytes));
        if bytes == 0 {
            return Ok(&[]);
        }
        let inside = offset
            .checked_sub(self.start)
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|skip| {
                skip.checked_add(bytes)
                    .is_some_and(|end| end <= self.filled)
            });
        let skip = match inside {
            Some(skip) => skip,
            None => {
                let step = usize::try_from(left).map_or(self.step, |left| left.min(self.step));
                self.fill(offset, bytes.max(step))?;
                0
            }
        };
        Ok(&self.buffer[skip..skip + bytes])
    }

    fn fill(&mut self, offset: u64, bytes: usize) -> io::Result<()> {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
        self.filled = 0;
        self.source.read_at(offset, &mut self.buffer[..bytes])?;
        (self.start, self.filled) = (offset, bytes);
        Ok(())
    }
}

/// Whether all bytes are zero; compares with a block of zeros, which is fast without any trick.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|chunk| *chunk == ZEROS[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_returns_the_same_bytes_whatever_its_step() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
        for step in [1, 3, 512, 4999, 10_000] {
            let mut window = Window::new(bytes.as_slice(), step);
            for (offset, count) in [
                (0, 10),
                (5, 100),
                (4990, 100),
                (0, 5000),
                (4000, 0),
                (6000, 3),
            ] {
                let end = (offset + count).min(bytes.len());
                let wanted = bytes.get(offset..end).unwrap_or_default();
                assert_eq!(window.get(offset as u64, count).unwrap(), wanted);
            }
        }
    }
}
