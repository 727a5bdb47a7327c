//! Checking a whole file: every byte by the digest, every chunk by itself, so that damage has a name.

use std::io::{Read, Seek, SeekFrom};

use sha2::{Digest as _, Sha256};

use crate::DIGEST_BYTES;
use crate::error::{Damage, Error, Place};
use crate::info::fill;
use crate::reader::{Lost, Snapshot};

/// What a full check found.
#[derive(Debug, Default)]
pub struct Report {
    pub chunks_checked: u32,
    /// In readable chunks.
    pub records: u64,
    /// Chunks that cannot be read, with what they hold.
    pub lost: Vec<Lost>,
    pub digest_matches: bool,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.lost.is_empty() && self.digest_matches
    }

    /// What is wrong, place by place.
    pub fn damage(&self) -> impl Iterator<Item = (Place, &Damage)> {
        let digest = (!self.digest_matches).then_some((Place::Digest, &Damage::Digest));
        let lost = self.lost.iter().filter_map(|lost| match &lost.error {
            Error::Damaged { place, damage } => Some((*place, damage)),
            _ => None,
        });
        digest.into_iter().chain(lost)
    }
}

impl<R: Read + Seek> Snapshot<R> {
    /// Reads everything twice: for the digest, then chunk by chunk. `progress` hears the bytes done, at most
    /// `2 * file_bytes()`.
    ///
    /// # Errors
    /// Only what `source` answers; damage is in the report.
    pub fn verify(&mut self, mut progress: impl FnMut(u64)) -> Result<Report, Error> {
        let mut report = Report {
            digest_matches: self.digest_matches(&mut progress)?,
            ..Report::default()
        };
        for at in 0..self.chunks().len() {
            report.chunks_checked += 1;
            match self.read_chunk(at) {
                Ok(records) => report.records += records.len() as u64,
                Err(error @ Error::Damaged { .. }) => {
                    let chunk = &self.chunks()[at];
                    report.lost.push(Lost {
                        section: chunk.section,
                        first_key: chunk.first_key.clone(),
                        last_key: chunk.last_key.clone(),
                        records: chunk.records,
                        error,
                    });
                }
                Err(other) => return Err(other),
            }
            let chunk = &self.chunks()[at];
            progress(self.file_bytes() + chunk.offset + chunk.total_bytes() as u64);
        }
        Ok(report)
    }

    fn digest_matches(&mut self, progress: &mut impl FnMut(u64)) -> Result<bool, Error> {
        let file_bytes = self.file_bytes();
        self.source.seek(SeekFrom::Start(0))?;
        let mut hasher = Sha256::new();
        let mut left = file_bytes.saturating_sub(DIGEST_BYTES as u64);
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            let step = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            fill(&mut self.source, &mut buffer[..step], Place::Digest)?;
            hasher.update(&buffer[..step]);
            left -= step as u64;
            progress(file_bytes - left);
        }
        let mut digest = [0; DIGEST_BYTES];
        fill(&mut self.source, &mut digest, Place::Digest)?;
        Ok(hasher.finalize()[..] == digest)
    }
}
