//! What was written, read again before it gets its name.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use kvnode_store::engine::fjall::FjallEngine;
use kvnode_store::engine::{Engine as _, Reader as _, Space};
use kvnode_store::export::Totals;

use crate::failure::Result;
use crate::kvs::Kvs;
use crate::shell::Shell;
use crate::source::options;

/// Totals of every record in the new engine, read by several threads.
pub fn read_back(
    kv: &Path,
    kvs: &Kvs,
    expected: &Totals,
    threads: usize,
    shell: &Shell,
) -> Result<Totals> {
    let mut progress = shell.progress.bytes("checking", bytes_of(expected));
    let mut engine = FjallEngine::open(kv, &options(1))?;
    let view = engine.view();
    // The keys its chunks begin with cut both spaces into even pieces.
    let mut pieces = Vec::new();
    for space in Space::ALL {
        let mut from = Bytes::new();
        let cuts = kvs.chunks.iter().filter(|c| c.section == space as u8);
        for cut in cuts.skip(CHUNKS_AT_ONCE).step_by(CHUNKS_AT_ONCE) {
            let to = Bytes::copy_from_slice(&cut.first_key);
            pieces.push((space, std::mem::replace(&mut from, to.clone()), Some(to)));
        }
        pieces.push((space, from, None));
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let (done, finished) = std::sync::mpsc::channel();
    let totals = std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (view, pieces, next, done) = (&view, &pieces, &next, done.clone());
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((space, from, to)) = pieces.get(at) else {
                        return;
                    };
                    let mut totals = Totals::default();
                    let read = view.visit(*space, from, to.as_deref(), false, |key, value| {
                        totals.add_parts(*space, key, value);
                        ControlFlow::Continue(())
                    });
                    if done.send(read.map(|()| totals)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut totals = Totals::default();
        for piece in finished {
            totals.merge(&piece?);
            progress.set(bytes_of(&totals));
        }
        Ok::<_, kvnode_store::engine::EngineError>(totals)
    })?;
    drop(view);
    engine.close()?;
    Ok(totals)
}

/// Chunks of the snapshot to a piece that is read back by one thread.
const CHUNKS_AT_ONCE: usize = 8;

/// Of keys and values.
pub fn bytes_of(totals: &Totals) -> u64 {
    let spaces = [totals.of(Space::State), totals.of(Space::Hist)];
    spaces
        .iter()
        .map(|space| space.key_bytes + space.value_bytes)
        .sum()
}
