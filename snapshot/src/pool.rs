//! Threads that pack chunks, and the order in which their work comes back.
//!
//! Bound: `2 * threads + 1` batches are under way at the most, each one chunk raw and one packed; a further one waits
//! for the oldest. Buffers go round. Without threads everything happens where it is asked for, with the same result.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::chunk::{Batch, Packer};
use crate::info::ChunkInfo;

/// A packed chunk, and the buffers that made it.
pub(crate) struct Packed {
    /// Its offset is left 0.
    pub info: ChunkInfo,
    pub bytes: Vec<u8>,
}

struct Job {
    batch: Batch,
    bytes: Vec<u8>,
    done: Sender<io::Result<Packed>>,
    spent: Sender<Batch>,
}

pub(crate) struct Pool {
    /// Where nobody else packs.
    own: Option<Packer>,
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    /// In the order they were given.
    pending: VecDeque<Receiver<io::Result<Packed>>>,
    spent: (Sender<Batch>, Receiver<Batch>),
    buffers: Vec<Vec<u8>>,
}

impl Pool {
    pub fn new(level: i32, threads: usize) -> io::Result<Self> {
        let mut pool = Pool {
            own: None,
            jobs: None,
            threads: Vec::new(),
            pending: VecDeque::new(),
            spent: channel(),
            buffers: Vec::new(),
        };
        if threads == 0 {
            pool.own = Some(Packer::new(level)?);
            return Ok(pool);
        }
        let (jobs, waiting) = channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..threads {
            let (waiting, mut packer) = (Arc::clone(&waiting), Packer::new(level)?);
            let thread = std::thread::Builder::new().name(format!("kvs-pack-{number}"));
            pool.threads
                .push(thread.spawn(move || run(&waiting, &mut packer))?);
        }
        pool.jobs = Some(jobs);
        Ok(pool)
    }

    /// Gives a batch to be packed; an empty one, with used buffers, comes back.
    pub fn give(&mut self, batch: Batch) -> io::Result<Batch> {
        let bytes = self.buffers.pop().unwrap_or_default();
        let (done, receiver) = channel();
        let job = Job {
            batch,
            bytes,
            done,
            spent: self.spent.0.clone(),
        };
        self.pending.push_back(receiver);
        match (&mut self.own, &self.jobs) {
            (Some(packer), _) => job.run(packer),
            (None, Some(jobs)) => jobs.send(job).map_err(|_| gone())?,
            (None, None) => return Err(gone()),
        }
        Ok(self.spent.1.try_recv().unwrap_or_default())
    }

    /// The oldest chunk given, if it is ready, or if it has to be waited for: because too many are under way, or `all`
    /// are wanted.
    pub fn take(&mut self, all: bool) -> io::Result<Option<Packed>> {
        let Some(oldest) = self.pending.front() else {
            return Ok(None);
        };
        let packed = if all || self.pending.len() > 2 * self.threads.len() {
            oldest.recv().map_err(|_| gone())?
        } else {
            match oldest.try_recv() {
                Ok(packed) => packed,
                Err(std::sync::mpsc::TryRecvError::Empty) => return Ok(None),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return Err(gone()),
            }
        };
        self.pending.pop_front();
        packed.map(Some)
    }

    /// Takes a buffer back.
    pub fn reuse(&mut self, bytes: Vec<u8>) {
        self.buffers.push(bytes);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic there was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Job {
    fn run(mut self, packer: &mut Packer) {
        let packed = packer.pack(&self.batch, &mut self.bytes);
        self.batch.clear();
        // Whoever gave up listening wants neither.
        let _ = self.spent.send(self.batch);
        let bytes = self.bytes;
        let _ = self.done.send(packed.map(|info| Packed { info, bytes }));
    }
}

fn run(waiting: &Mutex<Receiver<Job>>, packer: &mut Packer) {
    loop {
        let job = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        match job {
            Ok(job) => job.run(packer),
            Err(_) => return,
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("a packing thread is gone")
}
