//! The sending side's bytes: raft's announcement, then the `.kvs` stream of a view.
//!
//! ```text
//! announcement bytes u32, little-endian | announcement, as `kvnode_replica::Message` | snapshot, as kvnode_snapshot
//! ```
//!
//! A thread packs ahead, at most [`PIECES_AHEAD`] pieces; it ends when the source is dropped. The same view and header make
//! the same bytes, so going back after a broken connection is packing again and passing over what the receiver has.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Bytes, BytesMut};
use kvnode_replica::Message;
use kvnode_snapshot::{Info, Options, Writer};
use kvnode_store::engine::Stretches;

use super::meek::give_way;
use crate::cores::View;
use crate::peers::SnapshotSource;

/// About this many bytes are passed from the packing thread at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces packed and not sent: 2 MiB, beside one chunk or two in the packer.
const PIECES_AHEAD: usize = 8;

pub struct StateSource {
    announcement: Bytes,
    view: View,
    info: Info,
    running: Option<Running>,
}

/// A packing thread and how far it was read.
struct Running {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    /// In the piece.
    taken: usize,
    /// In the stream, of the next byte.
    offset: u64,
}

impl StateSource {
    /// `view` stays pinned until the source is dropped.
    pub fn new(announcement: &Message, view: View, info: Info) -> Self {
        let mut framed = BytesMut::new();
        let bytes = u32::try_from(announcement.encoded_len())
            .expect("an announcement is a header and a membership");
        framed.extend_from_slice(&bytes.to_le_bytes());
        announcement.encode_into(&mut framed);
        StateSource {
            announcement: framed.freeze(),
            view,
            info,
            running: None,
        }
    }

    fn start(&self) -> io::Result<Running> {
        let (sender, pieces) = sync_channel(PIECES_AHEAD);
        let (announcement, view, info) = (
            self.announcement.clone(),
            self.view.clone(),
            self.info.clone(),
        );
        std::thread::Builder::new()
            .name("kv-snap-pack".into())
            .spawn(move || {
                give_way();
                let mut out = Pieces {
                    sender,
                    piece: Vec::with_capacity(PIECE_BYTES),
                };
                let packed = out
                    .write_all(&announcement)
                    .and_then(|()| pack(&view, &info, Options::default(), &mut out));
                if let Err(error) = packed {
                    // Nobody listens if the transfer was given up.
                    let _ = out.sender.send(Err(error));
                }
            })?;
        Ok(Running {
            pieces,
            piece: Vec::new(),
            taken: 0,
            offset: 0,
        })
    }
}

impl SnapshotSource for StateSource {
    fn bytes(&self) -> Option<u64> {
        None
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut running = match self.running.take() {
            Some(running) if running.offset <= offset => running,
            _ => self.start()?,
        };
        let read = running.read_at(offset, buf);
        self.running = Some(running);
        read
    }
}

impl Running {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = &self.piece[self.taken..];
            let behind = offset - self.offset;
            if behind < left.len() as u64 {
                let skip = usize::try_from(behind).expect("less than a piece");
                let taken = (left.len() - skip).min(buf.len());
                buf[..taken].copy_from_slice(&left[skip..skip + taken]);
                self.taken += skip + taken;
                self.offset = offset + taken as u64;
                return Ok(taken);
            }
            self.offset += left.len() as u64;
            self.taken = 0;
            self.piece.clear();
            match self.pieces.recv() {
                Ok(piece) => self.piece = piece?,
                // The thread is done: what it packed has come to its end.
                Err(_) if offset == self.offset => return Ok(0),
                Err(_) => {
                    return Err(io::Error::other(format!(
                        "offset {offset} of a snapshot that ends at {}",
                        self.offset
                    )));
                }
            }
        }
    }
}

/// Writes the snapshot of a view; the same view, info and options (but for threads) give the same bytes.
/// Returns their number.
pub fn pack(view: &View, info: &Info, options: Options, out: impl Write) -> io::Result<u64> {
    let other = |error| match error {
        kvnode_snapshot::Error::Io(error) => error,
        error => io::Error::other(error.to_string()),
    };
    let mut writer = Writer::new(out, info, options).map_err(other)?;
    let mut records = view.export();
    let mut stretches = Stretches::default();
    for record in &mut records {
        let record = record.map_err(io::Error::other)?;
        stretches.did(record.key.len() + record.value.len());
        writer
            .push(record.space as u8, &record.key, &record.value)
            .map_err(other)?;
    }
    let hash = records.totals().hash();
    let (totals, _) = writer.finish(hash).map_err(other)?;
    Ok(totals.file_bytes)
}

/// Cuts what is written into pieces and waits for their taker.
struct Pieces {
    sender: SyncSender<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let next = Vec::with_capacity(PIECE_BYTES);
        let piece = std::mem::replace(&mut self.piece, next);
        self.sender
            .send(Ok(piece))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the transfer is over"))
    }
}
