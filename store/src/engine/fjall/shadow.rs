//! A second directory over the tables of an engine, for programs that only want to read it.
//!
//! Opening an engine changes it: journals are trimmed, memtables flushed, tables merged. Tables themselves
//! are never written to again, so a shadow has links to them and copies of everything else. Whatever
//! the engine does in its shadow, removing a table included, the original does not notice.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use super::super::EngineError;

/// Directories of files that are written once.
const WRITTEN_ONCE: [&str; 2] = ["tables", "blobs"];

/// Makes `to`, which must not exist, a shadow of the engine at `from`, which nobody has open. Returns the bytes copied.
///
/// # Errors
/// `Io`, `NoSpace`.
pub fn shadow(from: &Path, to: &Path) -> Result<u64, EngineError> {
    fs::create_dir(to).map_err(|e| EngineError::io("create", to, e))?;
    let from = fs::canonicalize(from).map_err(|e| EngineError::io("resolve", from, e))?;
    let mut copied = 0;
    let failed = |e| EngineError::io("list", &from, e);
    for entry in fs::read_dir(&from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(failed)?.is_dir() {
            let once = entry
                .file_name()
                .to_str()
                .is_some_and(|name| WRITTEN_ONCE.contains(&name));
            copied += if once {
                link_all(&source, &target)?
            } else {
                shadow(&source, &target)?
            };
        } else if entry.file_name() != "lock" {
            copied +=
                copy_sparse(&source, &target).map_err(|e| EngineError::io("copy", &source, e))?;
        }
    }
    Ok(copied)
}

fn link_all(from: &Path, to: &Path) -> Result<u64, EngineError> {
    fs::create_dir(to).map_err(|e| EngineError::io("create", to, e))?;
    let failed = |e| EngineError::io("list", from, e);
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        std::os::unix::fs::symlink(entry.path(), &target)
            .map_err(|e| EngineError::io("link", target, e))?;
    }
    Ok(0)
}

/// Journals are made long and mostly zero: zeros are not written.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<u64> {
    let mut source = File::open(from)?;
    let mut target = File::create_new(to)?;
    target.set_len(source.metadata()?.len())?;
    let mut buffer = vec![0; 256 << 10];
    let (mut offset, mut copied) = (0, 0);
    loop {
        let read = source.read(&mut buffer)?;
        if read == 0 {
            return Ok(copied);
        }
        if buffer[..read].iter().any(|byte| *byte != 0) {
            io::Seek::seek(&mut target, io::SeekFrom::Start(offset))?;
            target.write_all(&buffer[..read])?;
            copied += read as u64;
        }
        offset += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fjall::{FjallEngine, Options};
    use crate::engine::{Batch, Engine, Persister, Reader, Space};

    fn image(path: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_type().unwrap().is_dir() {
                all.extend(image(&entry.path()));
            } else {
                all.push((entry.path(), fs::read(entry.path()).unwrap()));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn a_shadow_shows_the_same_and_whatever_happens_in_it_leaves_the_original_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("kv"), dir.path().join("shadow"));
        let options = Options {
            cache_bytes: 1 << 20,
            ..Options::default()
        };
        let mut engine = FjallEngine::create(&path, &options).unwrap();
        for round in 0..3u32 {
            let mut batch = Batch::new();
            for n in 0..500u32 {
                batch.put(
                    Space::State,
                    n.to_be_bytes().to_vec(),
                    vec![round as u8; 100],
                );
            }
            engine.commit(batch).unwrap();
            if round < 2 {
                engine.persister().persist().unwrap();
            }
        }
        engine.close().unwrap();
        let before = image(&path);
        shadow(&path, &copy).unwrap();
        let mut reader = FjallEngine::open(
            &copy,
            &Options {
                workers: 0,
                ..options.clone()
            },
        )
        .unwrap();
        let all = reader.view();
        assert_eq!(all.scan(Space::State, b"", None, false).count(), 500);
        assert_eq!(
            all.get(Space::State, &7u32.to_be_bytes()).unwrap().unwrap()[..],
            [2; 100]
        );
        drop((all, reader));
        let mut writer = FjallEngine::open(&copy, &options).unwrap();
        let mut batch = Batch::new();
        batch.delete(Space::State, 7u32.to_be_bytes().to_vec());
        writer.commit(batch).unwrap();
        writer.persister().persist().unwrap();
        writer.persister().compact_state().unwrap();
        drop(writer);
        fs::remove_dir_all(&copy).unwrap();
        assert!(image(&path) == before, "the original changed");
    }
}
