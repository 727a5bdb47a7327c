//! A session over a pipe that takes and gives as little as it likes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};

use super::session::{Pipe, Session};

/// One direction's bytes; gives and takes at most so many at a time, and nothing at all every other time.
struct Narrow<'a> {
    out: &'a mut VecDeque<u8>,
    into: &'a mut VecDeque<u8>,
    most: usize,
    balk: &'a mut bool,
}

impl Pipe for Narrow<'_> {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        *self.balk = !*self.balk;
        if *self.balk || self.into.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.most.min(buffer.len()).min(self.into.len());
        for (to, from) in buffer.iter_mut().zip(self.into.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *self.balk = !*self.balk;
        if *self.balk {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.most.min(bytes.len());
        self.out.extend(&bytes[..count]);
        Ok(count)
    }
}

fn pair() -> (Connection, Connection) {
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut above = rcgen::CertificateParams::default();
    above.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = above.self_signed(&authority).unwrap();
    let issuer = rcgen::Issuer::new(above, authority);
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(leaf.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (client.into(), server.into())
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Sends `content` one way, read with buffers of `room` bytes, over a pipe of `most` bytes at a time.
fn transfer(content: &[u8], room: usize, most: usize) -> Vec<u8> {
    let (client, server) = pair();
    let (mut client, mut server) = (
        Session::new(client, Vec::new()),
        Session::new(server, Vec::new()),
    );
    let (mut there, mut back) = (VecDeque::new(), VecDeque::new());
    let (mut balk, mut other_balk) = (false, false);
    let (mut sent, mut got) = (0, Vec::new());
    let mut buffer = vec![0; room];
    let mut closed = false;
    loop {
        let mut pipe = Narrow {
            out: &mut there,
            into: &mut back,
            most,
            balk: &mut balk,
        };
        if sent < content.len() {
            let written = client.write(&content[sent..], &mut pipe);
            assert!(written.is_ok() || would_block(&written), "{written:?}");
            sent += written.unwrap_or(0);
        } else if !closed {
            closed = client.close(&mut pipe).is_ok();
        }
        let mut pipe = Narrow {
            out: &mut back,
            into: &mut there,
            most,
            balk: &mut other_balk,
        };
        match server.read(&mut buffer, &mut pipe) {
            Ok(0) => return got,
            Ok(read) => got.extend_from_slice(&buffer[..read]),
            result => assert!(would_block(&result), "{result:?}"),
        }
    }
}

#[test]
fn every_byte_arrives_once_and_in_order_whatever_the_socket_takes() {
    let content: Vec<u8> = (0..300_000u32).map(|at| (at * 7 % 251) as u8).collect();
    for (room, most) in [
        (1 << 20, 1 << 20),
        (64 << 10, 5000),
        (1000, 70_000),
        (48, 1),
    ] {
        let content = &content[..content.len().min(most * 400).min(room * 4000)];
        assert!(transfer(content, room, most) == content, "{room} {most}");
    }
}

#[test]
fn damaged_bytes_are_an_error_and_not_data() {
    let (client, server) = pair();
    let (mut client, mut server) = (
        Session::new(client, Vec::new()),
        Session::new(server, Vec::new()),
    );
    let (mut there, mut back) = (VecDeque::new(), VecDeque::new());
    let mut balk = true;
    let mut pipe = Narrow {
        out: &mut there,
        into: &mut back,
        most: 1 << 20,
        balk: &mut balk,
    };
    client.write(b"hello", &mut pipe).unwrap();
    *there.back_mut().unwrap() ^= 1;
    balk = true;
    let mut pipe = Narrow {
        out: &mut back,
        into: &mut there,
        most: 1 << 20,
        balk: &mut balk,
    };
    let error = server.read(&mut [0; 100], &mut pipe);
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
}
