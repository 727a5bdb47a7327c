//! All records of a store, read into batches of a snapshot by threads ahead of whoever packs them: one for the state and one for
//! the history, which goes ahead meanwhile.
//!
//! Bound: [`STATE_WAITING`] and [`HIST_WAITING`] batches of a chunk each are ready, two are being filled and one is in the
//! taker's hands (67 MiB with chunks of 1 MiB); a thread whose batches are full waits. Batches go round. A taker that gives up
//! ends the reading.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use kvnode_snapshot::{Batch, Error};
use kvnode_store::View;
use kvnode_store::engine::fjall::FjallView;
use kvnode_store::engine::{EngineError, Space};
use kvnode_store::export::Totals;

const STATE_WAITING: usize = 2;
/// History is a fraction of most states, and is to be there when the state is at its end.
const HIST_WAITING: usize = 62;

/// What a thread has read, or why it cannot be put into a batch.
type Read = Result<Batch, Error>;

/// Reads all of `view` and shows it to `take`, batch by batch in the order of an export, cut as a writer with chunks of
/// `chunk_bytes` cuts them; `take` gives an empty batch back. Returns the totals of what was read.
///
/// # Errors
/// The first of `take`'s, or a record that no snapshot holds, or else the engine's, as the outer one.
pub fn each(
    view: &View<FjallView>,
    chunk_bytes: usize,
    mut take: impl FnMut(Batch) -> Read,
) -> Result<Result<Totals, Error>, EngineError> {
    std::thread::scope(|scope| {
        let lanes = Space::ALL.map(|space| {
            let (full, taken) = sync_channel(match space {
                Space::State => STATE_WAITING,
                Space::Hist => HIST_WAITING,
            });
            let (spent, empty) = channel();
            let reading = scope.spawn(move || read(view, space, chunk_bytes, &full, &empty));
            (taken, spent, reading)
        });
        let (mut totals, mut taken_all) = (Totals::default(), Ok(()));
        for (taken, spent, reading) in lanes {
            if taken_all.is_ok() {
                taken_all = show(&taken, &spent, &mut take);
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
    chunk_bytes: usize,
    full: &SyncSender<Read>,
    empty: &Receiver<Batch>,
) -> Result<Totals, EngineError> {
    let mut batch = Batch::default();
    let mut add = |key: &[u8], value: &[u8]| -> Result<(), Read> {
        if batch
            .push(space as u8, key, value, chunk_bytes)
            .map_err(Err)?
        {
            return Ok(());
        }
        let next = empty.try_recv().unwrap_or_default();
        let sent = full.send(Ok(std::mem::replace(&mut batch, next)));
        sent.map_err(|unsent| unsent.0)?;
        batch
            .push(space as u8, key, value, chunk_bytes)
            .map_err(Err)?;
        Ok(())
    };
    let mut refused = None;
    let totals = view.visit_export(space, |key, value| match add(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(why) => {
            refused = Some(why);
            ControlFlow::Break(())
        }
    })?;
    // Nobody takes it any more, if this fails.
    let _ = full.send(refused.unwrap_or(Ok(batch)));
    Ok(totals)
}

fn show(
    taken: &Receiver<Read>,
    spent: &Sender<Batch>,
    mut take: impl FnMut(Batch) -> Read,
) -> Result<(), Error> {
    for batch in taken {
        // The reader may have ended.
        let _ = spent.send(take(batch?)?);
    }
    Ok(())
}
