//! The client half of one HTTP/2 connection (RFC 9113) as a machine: bytes in, events and bytes out.
//!
//! Made to cost as little as possible, so it leaves out what servers of gRPC do not send: split
//! header blocks and server push are errors. Windows announced to the peer are so large that it
//! never waits for us; the peer's own windows are respected.

use crate::hpack::{Decoder, Encoder, Field};

/// What the machine announces per stream and keeps open per connection, in bytes.
const WINDOW: u32 = 1 << 30;
/// Received bytes after which the window is opened again.
const REPLENISH_AFTER: u32 = WINDOW / 16;
/// Windows before any setting or update.
const WINDOW_DEFAULT: i64 = 65_535;
/// Requests up to this size wait until they fit the windows, longer ones go out in pieces: a peer
/// may never open a window all the way that has been used a little.
const WHOLE_BYTES_MAX: i64 = 8192;
/// Longest frame both sides must take; we announce no other.
const FRAME_BYTES_MAX: usize = 16_384;
const FRAME_HEADER: usize = 9;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
}

/// What the peer said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A piece of a stream's body.
    Data { stream: u32, bytes: &'a [u8] },
    /// The stream is over; anything but status 0 is a failed call.
    End {
        stream: u32,
        status: u32,
        message: &'a str,
    },
}

/// The gRPC status given to a stream that ended without one.
pub const NO_STATUS: u32 = 1000;

/// A connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

/// One connection. Bytes to send gather in [`Connection::out`].
pub struct Connection {
    /// What the peer is to be sent; the owner writes and empties it.
    pub out: Vec<u8>,
    authority: String,
    encoder: Encoder,
    decoder: Decoder,
    next_stream: u32,
    /// The beginning of a frame that has not come whole.
    partial: Vec<u8>,
    /// Whether the peer's settings have come.
    settled: bool,
    max_streams: u32,
    initial_window: i64,
    send_window: i64,
    received: u32,
    /// Streams that stay open for many messages.
    long: Vec<LongStream>,
    /// A request on its way in pieces; other calls wait for it.
    upload: Option<Upload>,
}

/// A request longer than its windows.
struct Upload {
    stream: u32,
    /// All of it, with the length prefix.
    bytes: Vec<u8>,
    sent: usize,
    window: i64,
}

struct LongStream {
    id: u32,
    send_window: i64,
    received: u32,
}

impl Connection {
    /// Starts with the preface and our settings in `out`.
    pub fn new(authority: String) -> Connection {
        let mut out = PREFACE.to_vec();
        frame_header(12, kind::SETTINGS, 0, 0, &mut out);
        for (name, value) in [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, WINDOW),
        ] {
            out.extend_from_slice(&name.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        window_update(0, WINDOW - WINDOW_DEFAULT as u32, &mut out);
        Connection {
            out,
            authority,
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            next_stream: 1,
            partial: Vec::new(),
            settled: false,
            max_streams: u32::MAX,
            initial_window: WINDOW_DEFAULT,
            send_window: WINDOW_DEFAULT,
            received: 0,
            long: Vec::new(),
            upload: None,
        }
    }

    /// Whether the peer's settings are known, without which nothing should be sent.
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Streams the peer lets us have open at once.
    pub fn max_streams(&self) -> u32 {
        self.max_streams
    }

    /// The stream the next request will get.
    pub fn next_stream(&self) -> u32 {
        self.next_stream
    }

    /// Sends a unary call; `message` is the protobuf message without its length prefix. What does not
    /// fit the windows goes when they open. `false` if it must be tried again later: a small request
    /// whose window is shut, or any behind a request still on its way.
    pub fn call(&mut self, path: &str, message: &[u8]) -> bool {
        if self.upload.is_some() {
            return false;
        }
        let bytes = (message.len() + 5) as i64;
        if bytes <= self.initial_window.min(self.send_window) {
            let stream = self.open(path);
            self.send_window -= bytes;
            self.data(stream, message, flag::END_STREAM);
            return true;
        }
        if bytes <= WHOLE_BYTES_MAX {
            return false;
        }
        let stream = self.open(path);
        let mut bytes = Vec::with_capacity(message.len() + 5);
        bytes.push(0);
        bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
        bytes.extend_from_slice(message);
        self.upload = Some(Upload {
            stream,
            bytes,
            sent: 0,
            window: self.initial_window,
        });
        self.advance();
        true
    }

    /// Sends as much of the upload as the windows allow.
    fn advance(&mut self) {
        let Some(upload) = &mut self.upload else {
            return;
        };
        let room = upload.window.min(self.send_window).max(0) as usize;
        let rest = &upload.bytes[upload.sent..];
        let now = rest.len().min(room);
        let all = now == rest.len();
        let mut pieces = rest[..now].chunks(FRAME_BYTES_MAX).peekable();
        while let Some(piece) = pieces.next() {
            let last = all && pieces.peek().is_none();
            let flags = if last { flag::END_STREAM } else { 0 };
            frame_header(piece.len(), kind::DATA, flags, upload.stream, &mut self.out);
            self.out.extend_from_slice(piece);
        }
        upload.sent += now;
        upload.window -= now as i64;
        self.send_window -= now as i64;
        if all {
            self.upload = None;
        }
    }

    /// Sends one message and ends our half, on a stream whose answers may be longer than any window;
    /// `false` if the message does not fit now.
    pub fn call_streamed(&mut self, path: &str, message: &[u8]) -> bool {
        let bytes = (message.len() + 5) as i64;
        if bytes > self.initial_window.min(self.send_window) {
            return false;
        }
        let stream = self.open_long(path);
        self.send_window -= bytes;
        self.data(stream, message, flag::END_STREAM);
        true
    }

    /// Opens a stream for many messages.
    pub fn open_long(&mut self, path: &str) -> u32 {
        let id = self.open(path);
        self.long.push(LongStream {
            id,
            send_window: self.initial_window,
            received: 0,
        });
        id
    }

    /// Sends one message on a stream of [`Connection::open_long`]; `false` if a window is too
    /// small for now.
    pub fn send(&mut self, stream: u32, message: &[u8]) -> bool {
        let bytes = (message.len() + 5) as i64;
        let Some(long) = self.long.iter_mut().find(|long| long.id == stream) else {
            return false;
        };
        if bytes > long.send_window.min(self.send_window) {
            return false;
        }
        long.send_window -= bytes;
        self.send_window -= bytes;
        self.data(stream, message, 0);
        true
    }

    fn open(&mut self, path: &str) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let start = self.out.len();
        frame_header(0, kind::HEADERS, flag::END_HEADERS, stream, &mut self.out);
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", self.authority.as_str()),
            ("content-type", "application/grpc"),
            ("user-agent", "kvbench"),
            ("te", "trailers"),
        ] {
            self.encoder.field(name, value, &mut self.out);
        }
        let length = (self.out.len() - start - FRAME_HEADER) as u32;
        self.out[start..start + 3].copy_from_slice(&length.to_be_bytes()[1..]);
        stream
    }

    /// Length prefix and message in as few frames as allowed; `last` flags the final one.
    fn data(&mut self, stream: u32, message: &[u8], last: u8) {
        let head = message.len().min(FRAME_BYTES_MAX - 5);
        let (first, mut rest) = message.split_at(head);
        let end = if rest.is_empty() { last } else { 0 };
        frame_header(head + 5, kind::DATA, end, stream, &mut self.out);
        self.out.push(0);
        self.out
            .extend_from_slice(&(message.len() as u32).to_be_bytes());
        self.out.extend_from_slice(first);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(FRAME_BYTES_MAX));
            rest = after;
            let end = if rest.is_empty() { last } else { 0 };
            frame_header(piece.len(), kind::DATA, end, stream, &mut self.out);
            self.out.extend_from_slice(piece);
        }
    }

    /// Takes what came from the peer and hands every event to `visit`.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        if self.partial.is_empty() {
            let used = self.frames(bytes, &mut visit)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(bytes);
        let used = self.frames(&joined, &mut visit)?;
        joined.drain(..used);
        self.partial = joined;
        Ok(())
    }

    /// Handles all whole frames; the number of bytes used.
    fn frames(&mut self, bytes: &[u8], visit: &mut impl FnMut(Event<'_>)) -> Result<usize, Broken> {
        let mut rest = bytes;
        while let Some((header, after)) = rest.split_first_chunk::<FRAME_HEADER>() {
            let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8;
            let length = length | usize::from(header[2]);
            if length > FRAME_BYTES_MAX {
                return Err(Broken(format!("a frame of {length} bytes")));
            }
            let Some((payload, after)) = after.split_at_checked(length) else {
                break;
            };
            let stream = u32_at(&header[5..]) & 0x7fff_ffff;
            self.frame(header[3], header[4], stream, payload, visit)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        visit: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        match kind {
            kind::DATA => {
                self.replenish(stream, payload.len() as u32);
                let bytes = body(flags, payload)?;
                visit(Event::Data { stream, bytes });
                if flags & flag::END_STREAM != 0 {
                    visit(Event::End {
                        stream,
                        status: NO_STATUS,
                        message: "",
                    });
                }
            }
            kind::HEADERS => self.headers(flags, stream, payload, visit)?,
            kind::RST_STREAM => {
                self.give_up(stream);
                let message = format!("reset by the server with code {}", u32_at(payload));
                visit(Event::End {
                    stream,
                    status: NO_STATUS,
                    message: &message,
                });
            }
            kind::SETTINGS if flags & flag::ACK == 0 => self.settings(payload)?,
            kind::PING if flags & flag::ACK == 0 => {
                frame_header(payload.len(), kind::PING, flag::ACK, 0, &mut self.out);
                self.out.extend_from_slice(payload);
            }
            kind::GOAWAY => {
                let reason = String::from_utf8_lossy(payload.get(8..).unwrap_or(&[]));
                let code = payload.get(4..).map_or(0, u32_at);
                return Err(Broken(format!(
                    "the server goes away, code {code} {reason}"
                )));
            }
            kind::WINDOW_UPDATE => {
                let more = i64::from(u32_at(payload) & 0x7fff_ffff);
                if stream == 0 {
                    self.send_window += more;
                } else if let Some(long) = self.long.iter_mut().find(|long| long.id == stream) {
                    long.send_window += more;
                } else if let Some(upload) = self.upload.as_mut().filter(|it| it.stream == stream) {
                    upload.window += more;
                }
                self.advance();
            }
            kind::CONTINUATION | kind::PUSH_PROMISE => {
                return Err(Broken(format!("a frame of kind {kind} is not understood")));
            }
            // Acknowledgements, priorities and kinds to come mean nothing to us.
            _ => debug_assert!(kind != kind::PRIORITY || payload.len() == 5),
        }
        Ok(())
    }

    fn headers(
        &mut self,
        flags: u8,
        stream: u32,
        payload: &[u8],
        visit: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        if flags & flag::END_HEADERS == 0 {
            return Err(Broken(
                "a header block in pieces is not understood".to_owned(),
            ));
        }
        let block = body(flags, payload)?;
        let block = if flags & flag::PRIORITY == 0 {
            block
        } else {
            block.get(5..).unwrap_or(&[])
        };
        let end = flags & flag::END_STREAM != 0;
        let mut status = None;
        let mut text = None;
        self.decoder
            .block(block, |field| match field {
                Field::GrpcStatus(code) => status = Some(*code),
                Field::GrpcMessage(message) if end => text = Some(message.clone()),
                Field::HttpStatus(code) if end && *code != 200 => {
                    text.get_or_insert_with(|| format!("HTTP status {code}"));
                }
                _ => {}
            })
            .map_err(|_| Broken("a header block cannot be read".to_owned()))?;
        if end {
            self.give_up(stream);
            let status = status.unwrap_or(NO_STATUS);
            visit(Event::End {
                stream,
                status,
                message: text.as_deref().unwrap_or(""),
            });
        }
        Ok(())
    }

    /// Nobody wants the rest of a request that has been answered.
    fn give_up(&mut self, stream: u32) {
        if self.upload.as_ref().is_some_and(|it| it.stream == stream) {
            self.upload = None;
        }
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Broken> {
        for entry in payload.chunks_exact(6) {
            let value = u32_at(&entry[2..]);
            match u16::from_be_bytes([entry[0], entry[1]]) {
                setting::HEADER_TABLE_SIZE if (value as usize) < crate::hpack::TABLE_BYTES => {
                    return Err(Broken(format!("a header table of only {value} bytes")));
                }
                setting::MAX_CONCURRENT_STREAMS => self.max_streams = value,
                setting::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.initial_window;
                    self.initial_window += change;
                    for long in &mut self.long {
                        long.send_window += change;
                    }
                    if let Some(upload) = &mut self.upload {
                        upload.window += change;
                    }
                }
                _ => {}
            }
        }
        self.settled = true;
        self.advance();
        frame_header(0, kind::SETTINGS, flag::ACK, 0, &mut self.out);
        Ok(())
    }

    /// Opens windows again for bytes received.
    fn replenish(&mut self, stream: u32, bytes: u32) {
        self.received += bytes;
        if self.received >= REPLENISH_AFTER {
            window_update(0, self.received, &mut self.out);
            self.received = 0;
        }
        if let Some(long) = self.long.iter_mut().find(|long| long.id == stream) {
            long.received += bytes;
            if long.received >= REPLENISH_AFTER {
                window_update(stream, long.received, &mut self.out);
                long.received = 0;
            }
        }
    }
}

/// The payload without padding.
fn body(flags: u8, payload: &[u8]) -> Result<&[u8], Broken> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let padded = payload
        .split_first()
        .and_then(|(&padding, rest)| rest.get(..rest.len().checked_sub(usize::from(padding))?));
    padded.ok_or_else(|| Broken("more padding than frame".to_owned()))
}

/// The first four bytes as a number; 0 if there are fewer.
fn u32_at(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(0, |chunk| u32::from_be_bytes(*chunk))
}

fn frame_header(length: usize, kind: u8, flags: u8, stream: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

fn window_update(stream: u32, more: u32, out: &mut Vec<u8>) {
    frame_header(4, kind::WINDOW_UPDATE, 0, stream, out);
    out.extend_from_slice(&more.to_be_bytes());
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
