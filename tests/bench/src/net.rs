//! Connections to one server behind one epoll, all on the calling thread.
//!
//! The owner waits, reads each ready connection (events go to a closure), queues what it wants to
//! say and flushes once: so requests that become possible by one read leave in one write.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use crate::http2::{Broken, Connection, Event};
use crate::tls;

/// Room for one read.
const READ_BYTES: usize = 256 << 10;

/// What can go wrong with a load as a whole; a failed call is only counted.
#[derive(Debug)]
pub struct Failure(pub String);

impl From<Broken> for Failure {
    fn from(Broken(reason): Broken) -> Failure {
        Failure(reason)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Failure {
        Failure(error.to_string())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Several connections to one server.
pub struct Net {
    epoll: OwnedFd,
    wires: Vec<Wire>,
    ready: Vec<epoll::Event>,
    buffer: Vec<u8>,
}

struct Wire {
    socket: TcpStream,
    tls: Option<tls::Session>,
    http: Connection,
    /// Bytes of `http.out` written so far.
    written: usize,
    waits_to_write: bool,
}

impl Net {
    /// Connects and exchanges settings.
    ///
    /// # Errors
    /// The server does not listen, or does not answer within `patience`.
    pub fn connect(
        server: SocketAddr,
        connections: usize,
        patience: Duration,
    ) -> Result<Net, Failure> {
        let deadline = Instant::now() + patience;
        let mut net = Net {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wires: Vec::with_capacity(connections),
            ready: Vec::with_capacity(connections),
            buffer: vec![0; READ_BYTES],
        };
        for index in 0..connections {
            let socket = TcpStream::connect_timeout(&server, patience)?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&net.epoll, &socket, data, epoll::EventFlags::IN)?;
            net.wires.push(Wire {
                socket,
                tls: tls::session(server)?,
                http: Connection::new(server.to_string()),
                written: 0,
                waits_to_write: false,
            });
            net.flush(index)?;
        }
        while !net.wires.iter().all(|wire| wire.http.settled()) {
            if Instant::now() > deadline {
                return Err(Failure("the server sends no HTTP/2 settings".to_owned()));
            }
            net.turn(Duration::from_millis(100), |_, _| ())?;
        }
        Ok(net)
    }

    pub fn connections(&self) -> usize {
        self.wires.len()
    }

    /// The machine of a connection, to send with; [`Net::flush`] afterwards.
    pub fn http(&mut self, index: usize) -> &mut Connection {
        &mut self.wires[index].http
    }

    /// Waits for at most this long; the connections that can be read.
    pub fn wait(&mut self, patience: Duration, readable: &mut Vec<usize>) -> Result<(), Failure> {
        readable.clear();
        self.ready.clear();
        let timeout = Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: i64::from(patience.subsec_nanos()),
        };
        let room = rustix::buffer::spare_capacity(&mut self.ready);
        match epoll::wait(&self.epoll, room, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for at in 0..self.ready.len() {
            let (flags, data) = (self.ready[at].flags, self.ready[at].data);
            let index = data.u64() as usize;
            if flags.contains(epoll::EventFlags::OUT) {
                self.flush(index)?;
            }
            if flags
                .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
            {
                readable.push(index);
            }
        }
        Ok(())
    }

    /// Reads once and hands on what came.
    pub fn read(&mut self, index: usize, visit: impl FnMut(Event<'_>)) -> Result<(), Failure> {
        let wire = &mut self.wires[index];
        if let Some(tls) = &mut wire.tls {
            tls.receive(&mut wire.socket)?;
            let mut visit = visit;
            while let Some(count) = tls.take(&mut self.buffer)? {
                wire.http.receive(&self.buffer[..count], &mut visit)?;
            }
            // What the encryption itself has to say, such as its part of the handshake.
            return match tls.waits() {
                true => self.flush(index),
                false => Ok(()),
            };
        }
        match wire.socket.read(&mut self.buffer) {
            Ok(0) => Err(Failure("the server closed a connection".to_owned())),
            Ok(count) => Ok(wire.http.receive(&self.buffer[..count], visit)?),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what is queued; what the socket does not take now goes when it is writable.
    pub fn flush(&mut self, index: usize) -> Result<(), Failure> {
        let wire = &mut self.wires[index];
        if let Some(tls) = &mut wire.tls {
            wire.written += tls.send(&wire.http.out[wire.written..], &mut wire.socket)?;
        }
        while wire.tls.is_none() && wire.written < wire.http.out.len() {
            match wire.socket.write(&wire.http.out[wire.written..]) {
                Ok(count) => wire.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let left = wire.written < wire.http.out.len();
        let waits = left || wire.tls.as_ref().is_some_and(tls::Session::waits);
        if !left {
            wire.http.out.clear();
            wire.written = 0;
        }
        if waits != wire.waits_to_write {
            wire.waits_to_write = waits;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, waits);
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &wire.socket, data, flags)?;
        }
        Ok(())
    }

    /// Waits once, reads all that is ready and flushes: for loads that send between turns.
    pub fn turn(
        &mut self,
        patience: Duration,
        mut visit: impl FnMut(usize, Event<'_>),
    ) -> Result<(), Failure> {
        let mut readable = Vec::new();
        self.wait(patience, &mut readable)?;
        for index in readable {
            self.read(index, |event| visit(index, event))?;
            self.flush(index)?;
        }
        Ok(())
    }
}
