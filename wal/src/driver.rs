//! A writer and the disk that performs its operations, as one blocking log. The node's log thread
//! owns one; tests run the same code over a memory disk.
//!
//! The first failed, or short, write or sync closes the log for good: nobody knows what the disk
//! holds then, and a second sync of the same file may report success for bytes that were lost.

use crate::damage::{Class, Damage, Proof, Rule};
use crate::disk::{Disk, Op};
use crate::error::Error;
use crate::membership::Membership;
use crate::options::Options;
use crate::record::{Entry, HardState, Malformed, Record, Records, SnapshotMark};
use crate::recover::{DiskSource, Recovered};
use crate::scan::{SegmentScan, Step};
use crate::segment::{FileName, Identity};
use crate::source::is_zero;
use crate::writer::{Start, Writer};
use crate::{ENTRY_HEAD_BYTES, RECORD_HEADER_BYTES};

/// Most bytes of a torn tail that are kept aside.
const QUARANTINE_BYTES_MAX: u64 = crate::UNSYNCED_BYTES_MAX;
/// Read step of [`Driver::read`], in bytes: about what lies between two pairs of the index.
const READ_STEP_BYTES: usize = 128 << 10;

/// What an append did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Every byte of the log below this position is durable.
    pub synced_to: u64,
    /// Bytes written by this call, padding, seals and checkpoints included.
    pub bytes: u64,
    /// Syncs done by this call.
    pub syncs: u32,
}

/// See the file's head.
pub struct Driver<D> {
    disk: D,
    writer: Writer,
    /// The first failure.
    poisoned: Option<String>,
    /// What an append that found no room has handed to the writer.
    stuck: Option<Stuck>,
}

/// The part of an append that the writer has already. Handing it over a second time would not do:
/// its hard state may say that its own entries are committed, and those cannot be replaced.
struct Stuck {
    entries: usize,
    /// Index and term of the last of them.
    last: Option<(u64, u64)>,
    hard_state: Option<HardState>,
}

impl Stuck {
    fn is_part_of(&self, entries: &[Entry], hard_state: Option<HardState>) -> bool {
        let last = self.entries.checked_sub(1).map(|last| entries.get(last));
        let last = last.map(|entry| entry.map(|entry| (entry.index, entry.term)));
        (self.last.is_none() || last == Some(self.last))
            && (self.hard_state.is_none() || self.hard_state == hard_state)
    }
}

impl<D: Disk> Driver<D> {
    /// Makes a new log in an existing directory without segments. A crash leaves either no segment
    /// or a whole log.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Option`], [`Error::Io`], [`Error::NoSpace`].
    pub fn create_on(
        mut disk: D,
        identity: Identity,
        options: Options,
        seed: u64,
        start: Start,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let path = disk.path(None);
        let io = |source| Error::Io {
            operation: "list",
            path: path.clone(),
            offset: 0,
            source,
        };
        let listed = disk.list().map_err(io)?;
        let segment = |name: &str| matches!(FileName::parse(name), Some(FileName::Segment { .. }));
        if let Some(found) = listed.into_iter().find(|listed| segment(&listed.name)) {
            return Err(Error::Exists {
                path,
                file: found.name,
            });
        }
        let writer = Writer::create(identity, options, seed, start, now_ms)?;
        let mut driver = Self {
            disk,
            writer,
            poisoned: None,
            stuck: None,
        };
        driver.run()?;
        Ok(driver)
    }

    /// Opens a new segment behind a log that [`crate::recover::recover`] read, after syncing what
    /// was read and after a torn tail was copied to the quarantine. Nothing may be answered from
    /// `recovered` before this returns.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Option`], [`Error::Io`], [`Error::NoSpace`].
    pub fn resume_on(
        disk: D,
        recovered: &Recovered,
        options: Options,
        seed: u64,
        now_ms: u64,
    ) -> Result<Self, Error> {
        Self::resume_noted(disk, recovered, options, seed, None, now_ms)
    }

    /// As [`Driver::resume_on`]; a note makes the new segment one that a repair opened.
    ///
    /// # Errors
    /// As [`Driver::resume_on`].
    pub(crate) fn resume_noted(
        mut disk: D,
        recovered: &Recovered,
        options: Options,
        seed: u64,
        note: Option<&str>,
        now_ms: u64,
    ) -> Result<Self, Error> {
        quarantine_tail(&mut disk, recovered, now_ms)?;
        let (spares, next) = adopt_spares(&mut disk, options.segment_bytes)?;
        let resumed = Writer::resume(recovered, options, seed, (&spares, next), note, now_ms);
        let writer = resumed.map_err(|error| match error {
            Error::ReadOnly { path, features } => Error::ReadOnly {
                path: disk.path(None).join(path),
                features,
            },
            error => error,
        })?;
        let mut driver = Self {
            disk,
            writer,
            poisoned: None,
            stuck: None,
        };
        driver.run()?;
        Ok(driver)
    }

    /// Appends entries, then a hard state, in as few batches as the batch limit allows, each with
    /// one write; with `sync`, one sync behind the last of them, and everything is durable when
    /// this returns. Callers hand over everything that waits: that is the group commit.
    ///
    /// Without entries and without `sync`, a hard state that only moves the commit index is kept
    /// and rides along with the next batch, mark or close.
    ///
    /// # Errors
    /// [`Error::EntryTooLarge`]: nothing was appended. [`Error::NoSpace`]: call again with the same
    /// arguments when there is room; it goes on where it stopped. All others are fatal, see
    /// [`Error::is_fatal`].
    pub fn append(
        &mut self,
        entries: &[Entry],
        hard_state: Option<HardState>,
        sync: bool,
        now_ms: u64,
    ) -> Result<Appended, Error> {
        self.check_open()?;
        let max = self.writer.options().entry_bytes_max;
        if let Some(large) = entries.iter().find(|entry| entry.payload.len() > max) {
            let (index, bytes) = (large.index, large.payload.len());
            return Err(Error::EntryTooLarge { index, bytes, max });
        }
        let stuck = self.stuck.take();
        let stuck = stuck.filter(|stuck| stuck.is_part_of(entries, hard_state));
        let (mut taken, mut told) = stuck.map_or((0, None), |s| (s.entries, s.hard_state));
        let mut done = Appended::default();
        loop {
            let left = &entries[taken..];
            taken += self.writer.push(left).map_err(|error| self.poison(error))?;
            if taken == entries.len() {
                break;
            }
            self.writer.issue(false, now_ms);
            self.run_append(&mut done, &entries[..taken], told)?;
        }
        // What has waited for room was not meant to ride along.
        let mut rides_along = entries.is_empty() && !sync && told.is_none();
        if let Some(hard_state) = hard_state
            && told.is_none()
        {
            rides_along &= self.writer.is_commit_only(&hard_state);
            let pushed = self.writer.push_hard_state(hard_state);
            pushed.map_err(|error| self.poison(error))?;
            told = Some(hard_state);
        }
        if !rides_along {
            self.writer.issue(sync, now_ms);
            self.run_append(&mut done, entries, told)?;
        }
        done.synced_to = self.writer.synced_to();
        Ok(done)
    }

    /// Whether an append of these entries would be one write into the segment there is: it opens no other, so it cannot find
    /// the disk full either.
    pub fn has_room(&self, entries: &[Entry]) -> bool {
        self.poisoned.is_none() && self.stuck.is_none() && self.writer.has_room(entries)
    }

    /// Records that the state up to `mark.index` is safe elsewhere (it must be synced already) and
    /// syncs that. A mark of origin `Installed` drops entries from the log.
    ///
    /// # Errors
    /// As [`Driver::append`].
    pub fn snapshot_mark(
        &mut self,
        mark: SnapshotMark,
        membership: &Membership,
        now_ms: u64,
    ) -> Result<(), Error> {
        self.check_open()?;
        if !self.writer.is_drained() {
            self.writer.issue(false, now_ms);
            self.run()?;
        }
        match self.writer.push_snapshot(mark, membership) {
            Ok(taken) => assert!(taken, "the writer was drained"),
            Err(error @ Error::MembershipTooLarge { .. }) => return Err(error),
            Err(error) => return Err(self.poison(error)),
        }
        self.writer.issue(true, now_ms);
        self.run()
    }

    /// What later checkpoints say about who votes; writes nothing. To be called when a conf change
    /// was applied.
    ///
    /// # Errors
    /// [`Error::MembershipTooLarge`].
    pub fn set_membership(&mut self, membership: Membership) -> Result<(), Error> {
        self.writer.set_membership(membership)
    }

    /// To be called when nothing was appended for some milliseconds: writes, without sync, a mark
    /// that tells readers how far the log is synced, if the file does not say so yet.
    ///
    /// # Errors
    /// As [`Driver::append`].
    pub fn mark(&mut self, now_ms: u64) -> Result<(), Error> {
        self.check_open()?;
        self.writer.mark(now_ms);
        self.run()
    }

    /// Whether [`Driver::mark`] would write something.
    pub fn mark_is_due(&self) -> bool {
        self.poisoned.is_none() && self.writer.mark_is_due()
    }

    /// Removes segments whose entries are all at or below `upto_index`, oldest first, but never the
    /// newest two. `upto_index` must not be above what the store has durably applied. Returns how
    /// many are gone.
    ///
    /// # Errors
    /// [`Error::Io`]: fatal.
    pub fn purge(&mut self, upto_index: u64) -> Result<usize, Error> {
        self.check_open()?;
        let gone = self.writer.purge(upto_index);
        self.run()?;
        Ok(gone)
    }

    /// A clean stop: what waits is written, all is synced, and a synced mark says so. The log
    /// refuses everything afterwards.
    ///
    /// # Errors
    /// As [`Driver::append`].
    pub fn close(&mut self, now_ms: u64) -> Result<(), Error> {
        self.check_open()?;
        self.writer.issue(true, now_ms);
        self.run()?;
        self.writer.close(now_ms);
        self.run()?;
        self.poisoned = Some("it was closed".into());
        Ok(())
    }

    /// Entries `from..to` (`to` not included) from the files, in order, at most about `bytes_max`
    /// payload bytes but at least one entry. For followers that are far behind; newer entries are
    /// in raft's memory. Every byte is checked again.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Damage`] and [`Error::Io`] if the files changed since they
    /// were written or read. None of them closes the log.
    pub fn read(&mut self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, Error> {
        let first = self.first_index();
        let last = self.writer.issued_last_index();
        if from >= to || from < first || to - 1 > last {
            return Err(Error::OutOfRange {
                from,
                to,
                first,
                last,
            });
        }
        let mut run = Run {
            out: Vec::new(),
            from,
            next: from,
            to,
            bytes: 0,
            bytes_max,
        };
        while run.next < to && run.has_room() {
            let wanted = run.next;
            self.read_run(&mut run)?;
            if run.next == wanted {
                return Err(self.missing(wanted).into());
            }
        }
        Ok(run.out)
    }

    /// First index that the log can still have.
    pub fn first_index(&self) -> u64 {
        self.writer.state().first_index()
    }

    /// Last index appended.
    pub fn last_index(&self) -> u64 {
        self.writer.state().last_index()
    }

    /// Term of `index`; `None` outside `first_index - 1 ..= last_index`.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.writer.state().term_of(index)
    }

    /// Newest hard state appended.
    pub fn hard_state(&self) -> HardState {
        self.writer.state().hard_state()
    }

    /// Every byte of the log below this position is durable.
    pub fn synced_to(&self) -> u64 {
        self.writer.synced_to()
    }

    /// Number of segment files.
    pub fn segments_count(&self) -> usize {
        self.writer.segments_count()
    }

    /// The disk, for its figures.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    fn run(&mut self) -> Result<(), Error> {
        self.run_counting(&mut Appended::default())
    }

    /// Performs the operations of an append; without room, notes how far it got.
    fn run_append(
        &mut self,
        done: &mut Appended,
        taken: &[Entry],
        hard_state: Option<HardState>,
    ) -> Result<(), Error> {
        let result = self.run_counting(done);
        if let Err(Error::NoSpace { .. }) = result {
            self.stuck = Some(Stuck {
                entries: taken.len(),
                last: taken.last().map(|entry| (entry.index, entry.term)),
                hard_state,
            });
        }
        result
    }

    /// Performs all operations that the writer has.
    fn run_counting(&mut self, done: &mut Appended) -> Result<(), Error> {
        while let Some(op) = self.writer.next_op() {
            let failure = match (self.disk.perform(&op), op) {
                (Ok(written), Op::Write { file, offset, data }) => {
                    done.bytes += data.len() as u64;
                    (written != data.len()).then(|| Error::ShortWrite {
                        path: self.disk.path(Some(file)),
                        offset,
                        expected: data.len(),
                        written,
                    })
                }
                (Ok(_), op) => {
                    done.syncs += u32::from(matches!(op, Op::Sync { .. }));
                    None
                }
                (Err(source), op) => {
                    let (file, offset) = op.place();
                    let path = self.disk.path(file);
                    let prepare = matches!(op, Op::Prepare { .. });
                    if prepare && source.kind() == std::io::ErrorKind::StorageFull {
                        let error = Error::NoSpace { path, source };
                        let goes_on = self.writer.prepare_failed();
                        return Err(if goes_on { error } else { self.poison(error) });
                    }
                    Some(Error::Io {
                        operation: op.verb(),
                        path,
                        offset,
                        source,
                    })
                }
            };
            if let Some(error) = failure {
                return Err(self.poison(error));
            }
            self.writer.completed();
        }
        Ok(())
    }

    fn check_open(&self) -> Result<(), Error> {
        match &self.poisoned {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned {
                cause: cause.clone(),
            }),
        }
    }

    fn poison(&mut self, error: Error) -> Error {
        self.poisoned.get_or_insert_with(|| error.to_string());
        error
    }

    /// Reads from one place of the index until another place knows better.
    fn read_run(&mut self, run: &mut Run) -> Result<(), Error> {
        let Some((segment, offset, known_better)) = self.writer.locate(run.next) else {
            return Ok(());
        };
        let (header, end) = (segment.header.clone(), segment.end);
        let file = header.name();
        let path = self.disk.path(Some(file));
        let io = |source| Error::Io {
            operation: "read",
            path: path.clone(),
            offset,
            source,
        };
        let source = DiskSource {
            disk: &mut self.disk,
            file,
            bytes: header.bytes,
        };
        let mut scan = SegmentScan::new(source, header, READ_STEP_BYTES);
        scan.start_at(offset).map_err(io)?;
        let until = run.to.min(known_better);
        while run.next < until && run.has_room() && scan.position() < end {
            let Step::Batch(batch) = scan.next_batch().map_err(io)? else {
                break;
            };
            let mut shared = None;
            let mut records = Records::new(batch.payload);
            loop {
                let at = records.offset();
                let Some(Ok(record)) = records.next() else {
                    break;
                };
                let Record::Entry {
                    index,
                    term,
                    kind,
                    payload,
                } = record
                else {
                    continue;
                };
                run.take_back(index);
                if index == run.next && index < until && run.has_room() {
                    let all =
                        shared.get_or_insert_with(|| bytes::Bytes::copy_from_slice(batch.payload));
                    let start = at + RECORD_HEADER_BYTES + ENTRY_HEAD_BYTES;
                    let payload = all.slice(start..start + payload.len());
                    run.put(Entry {
                        index,
                        term,
                        kind,
                        payload,
                    });
                }
            }
        }
        Ok(())
    }

    /// An entry that the index promises is not there.
    fn missing(&self, index: u64) -> Damage {
        let place = self.writer.locate(index);
        let file = place.map(|(segment, ..)| segment.header.name());
        let Malformed(text) = Malformed("an entry is not where the index says");
        Damage {
            class: Class::W4,
            rule: Rule::Records,
            path: self.disk.path(file),
            offset: place.map_or(0, |(_, offset, _)| offset),
            position: place.map(|(segment, offset, _)| segment.header.position_at(offset)),
            first_lost: index,
            last_lost: Some(index),
            proof: Proof::Malformed(text),
        }
    }
}

/// What [`Driver::read`] has so far.
struct Run {
    out: Vec<Entry>,
    from: u64,
    next: u64,
    to: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Run {
    fn has_room(&self) -> bool {
        self.out.is_empty() || self.bytes < self.bytes_max
    }

    fn put(&mut self, entry: Entry) {
        self.bytes += entry.payload.len();
        self.next = entry.index + 1;
        self.out.push(entry);
    }

    /// A batch of another writer may replace its own entries.
    fn take_back(&mut self, index: u64) {
        while index < self.next && index >= self.from {
            let Some(entry) = self.out.pop() else { break };
            self.bytes -= entry.payload.len();
            self.next = entry.index;
        }
    }
}

/// Copies the remains of a torn tail aside before the log goes on without them.
pub(crate) fn quarantine_tail<D: Disk>(
    disk: &mut D,
    recovered: &Recovered,
    now_ms: u64,
) -> Result<Option<String>, Error> {
    let Some((from, to)) = recovered.end.torn else {
        return Ok(None);
    };
    let file = recovered.end.segment;
    let path = disk.path(Some(file));
    let io = |operation| {
        let path = path.clone();
        move |source| Error::Io {
            operation,
            path,
            offset: from,
            source,
        }
    };
    let bytes = (to - from).min(QUARANTINE_BYTES_MAX);
    let mut tail = vec![0; usize::try_from(bytes).expect("at most 16 MiB")];
    disk.read_at(file, from, &mut tail).map_err(io("read"))?;
    let name = format!("{now_ms}-{file}-{from}.torn");
    disk.quarantine(&name, &tail)
        .map_err(io("copy the torn tail of"))?;
    log::warn!(
        "{}: torn tail of {bytes} bytes at offset {from} cut, kept as {name}",
        path.display()
    );
    Ok(Some(name))
}

/// Spares that an earlier life left: one that is whole and zero is synced and used, all others are
/// removed (a header may have been written to one before it got its name). Also returns a number
/// above all of theirs.
fn adopt_spares<D: Disk>(disk: &mut D, segment_bytes: u64) -> Result<(Vec<u64>, u64), Error> {
    let directory = disk.path(None);
    let io = |source| Error::Io {
        operation: "list",
        path: directory,
        offset: 0,
        source,
    };
    let (mut adopted, mut next) = (Vec::new(), 1);
    for listed in disk.list().map_err(io)? {
        let Some(file @ FileName::Spare(number)) = FileName::parse(&listed.name) else {
            continue;
        };
        next = next.max(number.saturating_add(1));
        let whole = adopted.is_empty() && listed.bytes == segment_bytes;
        let good = whole && is_all_zero(disk, file, listed.bytes).unwrap_or(false);
        let op = if good {
            Op::Sync { file }
        } else {
            Op::Remove { file }
        };
        disk.perform(&op).map_err(|source| Error::Io {
            operation: op.verb(),
            path: disk.path(Some(file)),
            offset: 0,
            source,
        })?;
        if good {
            adopted.push(number);
        }
    }
    Ok((adopted, next))
}

fn is_all_zero<D: Disk>(disk: &mut D, file: FileName, bytes: u64) -> std::io::Result<bool> {
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < bytes {
        let left = usize::try_from(bytes - offset)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        disk.read_at(file, offset, &mut buffer[..left])?;
        if !is_zero(&buffer[..left]) {
            return Ok(false);
        }
        offset += left as u64;
    }
    Ok(true)
}
