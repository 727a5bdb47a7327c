//! The JSON side of the port as a stranger's client speaks it: single requests, streams in both directions, WebSockets.
//! Blocking, one connection each.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::http;

/// Longest wait for anything on one of these connections.
const PATIENCE: Duration = Duration::from_secs(15);

/// Posts one object; the status and the answer (null if it is not JSON).
pub fn post(address: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    post_with(address, path, &[], body)
}

/// As [`post`], with headers.
pub fn post_with(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> (u16, Value) {
    let answer = post_text(address, path, headers, &body.to_string());
    let json = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
    (answer.status, json)
}

/// Posts any text.
pub fn post_text(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> http::Answer {
    http::request(address, "POST", path, headers, body.as_bytes())
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Bytes as the gateway writes them.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    let mut text = Vec::new();
    kvnode_api::json::base64(bytes.as_ref(), &mut text);
    String::from_utf8(text).expect("base64 is ASCII")
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
    for limit in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        limit(&socket, Some(PATIENCE)).expect("a limit can be set");
    }
    socket
}

/// A connection read in pieces.
#[derive(Debug)]
struct Reader {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Reader {
    /// Everything up to and without `end`; `None` at the connection's end.
    fn until(&mut self, end: &[u8]) -> Result<Option<Vec<u8>>> {
        loop {
            let found = self
                .buffer
                .windows(end.len())
                .position(|window| window == end);
            if let Some(at) = found {
                let rest = self.buffer.split_off(at + end.len());
                let mut head = std::mem::replace(&mut self.buffer, rest);
                head.truncate(at);
                return Ok(Some(head));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.more()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn more(&mut self) -> Result<bool> {
        let mut piece = [0; 8192];
        let read = self.socket.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..read]);
        Ok(read > 0)
    }

    /// Status and headers (names in lower case).
    fn head(&mut self) -> Result<(u16, Vec<(String, String)>)> {
        let head = self.until(b"\r\n\r\n")?.ok_or(ErrorKind::UnexpectedEof)?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, head.clone()))?;
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Ok((status, headers.collect()))
    }
}

/// A streaming call over HTTP/1.1: objects go out in chunks, lines come back.
#[derive(Debug)]
pub struct Stream {
    reader: Reader,
    head: Option<(u16, Vec<(String, String)>)>,
    /// Text of the body that belongs to no line yet.
    body: Vec<u8>,
    ended: bool,
}

impl Stream {
    pub fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut socket = connect(address);
        let mut head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("transfer-encoding: chunked\r\n\r\n");
        socket.write_all(head.as_bytes()).expect("the server reads");
        Stream {
            reader: Reader {
                socket,
                buffer: Vec::new(),
            },
            head: None,
            body: Vec::new(),
            ended: false,
        }
    }

    /// Sends one object.
    pub fn say(&mut self, object: &Value) {
        self.say_text(&object.to_string());
    }

    /// Sends any text.
    pub fn say_text(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.reader
            .socket
            .write_all(chunk.as_bytes())
            .expect("the server reads");
    }

    /// Ends the request's body; answers may go on.
    pub fn end(&mut self) {
        self.reader
            .socket
            .write_all(b"0\r\n\r\n")
            .expect("the server reads");
    }

    /// The response's status; waits for its head.
    pub fn status(&mut self) -> u16 {
        self.read_head().0
    }

    pub fn header(&mut self, name: &str) -> Option<String> {
        let headers = &self.read_head().1;
        let found = headers.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.clone())
    }

    fn read_head(&mut self) -> &(u16, Vec<(String, String)>) {
        if self.head.is_none() {
            self.head = Some(self.reader.head().expect("a response"));
        }
        self.head.as_ref().expect("read above")
    }

    /// The next line; `None` at the end of the response.
    pub fn line(&mut self) -> Option<Value> {
        self.read_head();
        loop {
            if let Some(at) = self.body.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.body.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).expect("a line of JSON"));
            }
            if self.ended {
                assert!(self.body.is_empty(), "a line without an end");
                return None;
            }
            let size = self
                .reader
                .until(b"\r\n")
                .expect("a chunk")
                .expect("a chunk");
            let size = String::from_utf8_lossy(&size).into_owned();
            let size = usize::from_str_radix(&size, 16).expect("a chunk's size");
            let chunk = self.reader.exactly(size + 2).expect("a chunk");
            self.body.extend_from_slice(&chunk[..size]);
            self.ended = size == 0;
        }
    }

    /// What is in the next line's `result`; panics on an error or the end.
    pub fn result(&mut self) -> Value {
        let mut line = self.line().expect("another line");
        match line.get_mut("result") {
            Some(result) => result.take(),
            None => panic!("expected a result: {line}"),
        }
    }
}

/// A call over a WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    reader: Reader,
    /// The subprotocol the server named.
    pub protocol: Option<String>,
}

/// What a server says on one.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Text(Value),
    Pong(Vec<u8>),
    Close(u16),
    /// The connection ended.
    End,
}

impl WebSocket {
    /// Asks for one; the status if it is refused.
    pub fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> std::result::Result<WebSocket, u16> {
        let mut socket = connect(address);
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        socket.write_all(head.as_bytes()).expect("the server reads");
        let mut reader = Reader {
            socket,
            buffer: Vec::new(),
        };
        let (status, headers) = reader.head().expect("a response");
        if status != 101 {
            return Err(status);
        }
        let find = |name: &str| {
            let found = headers.iter().find(|(have, _)| have == name);
            found.map(|(_, value)| value.clone())
        };
        let accept = find("sec-websocket-accept");
        assert_eq!(accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        Ok(WebSocket {
            protocol: find("sec-websocket-protocol"),
            reader,
        })
    }

    pub fn say(&mut self, object: &Value) {
        self.frame(0x81, object.to_string().as_bytes());
    }

    pub fn ping(&mut self, data: &[u8]) {
        self.frame(0x89, data);
    }

    pub fn close(&mut self, code: u16) {
        self.frame(0x88, &code.to_be_bytes());
    }

    /// Sends a masked frame with this first byte.
    pub fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..=125 => frame.push(0x80 | short as u8),
            long => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.reader
            .socket
            .write_all(&frame)
            .expect("the server reads");
    }

    pub fn hear(&mut self) -> Heard {
        let Ok(head) = self.reader.exactly(2) else {
            return Heard::End;
        };
        let length = match head[1] {
            126 => {
                let length = self.reader.exactly(2).expect("a length");
                usize::from(u16::from_be_bytes([length[0], length[1]]))
            }
            127 => {
                let length = self.reader.exactly(8).expect("a length");
                length
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            short => usize::from(short),
        };
        let payload = self.reader.exactly(length).expect("a payload");
        match head[0] {
            0x81 => Heard::Text(serde_json::from_slice(&payload).expect("JSON")),
            0x8a => Heard::Pong(payload),
            0x88 => Heard::Close(u16::from_be_bytes([payload[0], payload[1]])),
            other => panic!("a frame that begins with {other:#x}"),
        }
    }

    /// What is in the next text's `result`.
    pub fn result(&mut self) -> Value {
        match self.hear() {
            Heard::Text(mut text) if text.get("result").is_some() => text["result"].take(),
            other => panic!("expected a result: {other:?}"),
        }
    }

    /// Leaves without a word.
    pub fn abandon(self) {
        let _ = self.reader.socket.shutdown(Shutdown::Both);
    }
}
