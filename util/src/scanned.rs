//! All records of a store, read by threads ahead of whoever packs them: one for the state and one for the history, which goes ahead
//! meanwhile.
//!
//! Bound: [`STATE_WAITING`] and [`HIST_WAITING`] blocks of about [`BLOCK_BYTES`] are ready, two are being filled and one is in the
//! taker's hands (33 MiB); a thread whose blocks are full waits. Blocks go round. A taker that gives up ends the reading.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use kvnode_store::View;
use kvnode_store::engine::fjall::FjallView;
use kvnode_store::engine::{EngineError, Space};
use kvnode_store::export::Totals;

const BLOCK_BYTES: usize = 256 << 10;
const STATE_WAITING: usize = 4;
const HIST_WAITING: usize = 124;

/// Records of one space in a row.
#[derive(Default)]
pub struct Block {
    bytes: Vec<u8>,
    /// Of the key and of the value.
    lengths: Vec<(usize, usize)>,
}

impl Block {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.lengths.push((key.len(), value.len()));
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }

    /// Keys and values.
    pub fn records(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.bytes[..];
        self.lengths.iter().map(move |(key, value)| {
            let (record, after) = rest.split_at(key + value);
            rest = after;
            record.split_at(*key)
        })
    }

    /// Of keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Reads all of `view` and shows it to `take`, block by block in the order of an export. Returns the totals of what was read.
///
/// # Errors
/// The first of `take`'s, or else the engine's, as the outer one.
pub fn each<E>(
    view: &View<FjallView>,
    mut take: impl FnMut(Space, &Block) -> Result<(), E>,
) -> Result<Result<Totals, E>, EngineError> {
    std::thread::scope(|scope| {
        let lanes = Space::ALL.map(|space| {
            let (full, taken) = sync_channel(match space {
                Space::State => STATE_WAITING,
                Space::Hist => HIST_WAITING,
            });
            let (spent, empty) = channel();
            let reading = scope.spawn(move || read(view, space, &full, &empty));
            (space, taken, spent, reading)
        });
        let (mut totals, mut taken_all) = (Totals::default(), Ok(()));
        for (space, taken, spent, reading) in lanes {
            if taken_all.is_ok() {
                taken_all = show(&taken, &spent, |block| take(space, block));
            }
            // Ends the reading, if not all was taken.
            drop(taken);
            match reading.join() {
                Ok(read) => totals.merge(&read?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(taken_all.map(|()| totals))
    })
}

fn read(
    view: &View<FjallView>,
    space: Space,
    full: &SyncSender<Block>,
    empty: &Receiver<Block>,
) -> Result<Totals, EngineError> {
    let mut block = Block::default();
    let totals = view.visit_export(space, |key, value| {
        block.push(key, value);
        if block.bytes.len() < BLOCK_BYTES {
            return ControlFlow::Continue(());
        }
        let next = empty.try_recv().unwrap_or_default();
        match full.send(std::mem::replace(&mut block, next)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    // Nobody takes it any more, if this fails.
    let _ = full.send(block);
    Ok(totals)
}

fn show<E>(
    taken: &Receiver<Block>,
    spent: &Sender<Block>,
    mut take: impl FnMut(&Block) -> Result<(), E>,
) -> Result<(), E> {
    for mut block in taken {
        take(&block)?;
        block.clear();
        // The reader may have ended.
        let _ = spent.send(block);
    }
    Ok(())
}
