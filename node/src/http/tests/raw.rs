//! A client that writes its frames by hand, for what a good client does not do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::super::sniff::PREFACE;
use super::PATIENCE;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
pub(super) const ACK: u8 = 1;

pub(super) struct Raw(pub TcpStream);

/// A frame as read.
#[derive(Debug)]
pub(super) struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Raw {
    /// Connects and sends nothing.
    pub(super) fn silent(address: SocketAddr) -> Raw {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Raw(socket)
    }

    /// Connects and says what a client says first, with this window for every call.
    pub(super) fn greet(address: SocketAddr, window: u32) -> Raw {
        let mut raw = Raw::silent(address);
        raw.0.write_all(PREFACE).unwrap();
        let mut settings = vec![0, 4];
        settings.extend_from_slice(&window.to_be_bytes());
        raw.frame(SETTINGS, 0, 0, &settings);
        if window > 65_535 {
            raw.frame(WINDOW_UPDATE, 0, 0, &(window - 65_535).to_be_bytes());
        }
        raw
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0
            .write_all(&bytes(kind, flags, stream, payload))
            .unwrap();
    }

    /// Opens a gRPC call.
    pub(super) fn open(&mut self, stream: u32, path: &str) {
        self.0.write_all(&call_frame(stream, path)).unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    pub(super) fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        // A reset is an end too: the server may close with bytes of ours unread.
        self.0.read_exact(&mut header).ok()?;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = header;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            payload,
        })
    }

    /// The next frame of this kind.
    pub(super) fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Whether the server has closed the connection; reads what it sent before.
    pub(super) fn closed(&mut self) -> bool {
        while self.next().is_some() {}
        let end = self.0.read(&mut [0]);
        !matches!(end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// A frame as bytes.
pub(super) fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The headers that open a gRPC call.
pub(super) fn call_frame(stream: u32, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "host"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that enters no table, lengths below 127, no Huffman code.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    bytes(HEADERS, END_HEADERS, stream, &block)
}
