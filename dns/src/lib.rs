//! A DNS client for SRV records and nothing else (RFC 1035, RFC 2782), because the system's resolver has no call for them.
//!
//! One question per message; over UDP, and over TCP when the answer says it was cut. Servers are asked in turn.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const PORT: u16 = 53;
const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
const HEAD_BYTES: usize = 12;
/// Bits of the flags: an answer, cut, and the part that tells failure.
const ANSWER: u16 = 0x8000;
const CUT: u16 = 0x0200;
const FAILURE: u16 = 0x000f;
const NO_SUCH_NAME: u16 = 3;
/// Time for one server, and rounds over all of them.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// Pointers followed in one name.
const POINTERS_MAX: usize = 32;

/// An SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    pub priority: u16,
    /// Without the dot at its end.
    pub target: String,
    pub port: u16,
}

/// The SRV records of `name`, none if there is no such name.
///
/// # Errors
/// No server gave an answer; one line.
pub fn services(servers: &[SocketAddr], name: &str) -> Result<Vec<Service>, String> {
    let id = getrandom::u32().map_err(|error| error.to_string())? as u16;
    let question = question(id, name)?;
    let mut last = "no DNS server is known".to_owned();
    for server in (0..ROUNDS).flat_map(|_| servers) {
        match ask(*server, &question, id) {
            Ok(records) => return Ok(records),
            Err(error) => last = format!("{server}: {error}"),
        }
    }
    Err(last)
}

fn ask(server: SocketAddr, question: &[u8], id: u16) -> Result<Vec<Service>, String> {
    let told = |error: io::Error| error.to_string();
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(local).map_err(told)?;
    socket.connect(server).map_err(told)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    socket.send(question).map_err(told)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).map_err(told)?;
    match read(&buffer[..length], id)? {
        Some(records) => Ok(records),
        None => read(&over_tcp(server, question).map_err(told)?, id)?
            .ok_or_else(|| "the answer over TCP is cut as well".to_owned()),
    }
}

fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A message that asks for the SRV records of `name`.
fn question(id: u16, name: &str) -> Result<Vec<u8>, String> {
    let mut message = Vec::new();
    // Recursion desired, one question.
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|n| (1..=63).contains(n));
        message.push(length.ok_or_else(|| format!("{name:?} is no DNS name"))?);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    for word in [TYPE_SRV, CLASS_IN] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    Ok(message)
}

/// The records of an answer; `None` if it was cut.
fn read(message: &[u8], id: u16) -> Result<Option<Vec<Service>>, String> {
    let wrong = || "a malformed answer".to_owned();
    let word = |at: usize| -> Result<u16, String> {
        let bytes = message.get(at..at + 2).ok_or_else(wrong)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    if word(0)? != id || word(2)? & ANSWER == 0 {
        return Err("an answer to another question".to_owned());
    }
    let flags = word(2)?;
    match flags & FAILURE {
        0 => {}
        NO_SUCH_NAME => return Ok(Some(Vec::new())),
        code => return Err(format!("failure {code}")),
    }
    if flags & CUT != 0 {
        return Ok(None);
    }
    let (questions, answers) = (word(4)?, word(6)?);
    let mut at = HEAD_BYTES;
    for _ in 0..questions {
        at = name(message, at).ok_or_else(wrong)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        at = name(message, at).ok_or_else(wrong)?.1;
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = at + 10;
        if kind == TYPE_SRV {
            records.push(Service {
                priority: word(data)?,
                port: word(data + 4)?,
                target: name(message, data + 6).ok_or_else(wrong)?.0,
            });
        }
        at = data + length;
    }
    records.sort();
    Ok(Some(records))
}

/// The name at a place, and where what follows it begins.
fn name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut after = None;
    let mut pointers = 0;
    loop {
        let length = usize::from(*message.get(at)?);
        match length >> 6 {
            0 if length == 0 => return Some((text, after.unwrap_or(at + 1))),
            0 => {
                if !text.is_empty() {
                    text.push('.');
                }
                let label = message.get(at + 1..at + 1 + length)?;
                text.push_str(std::str::from_utf8(label).ok()?);
                at += 1 + length;
            }
            3 => {
                let low = usize::from(*message.get(at + 1)?);
                after = after.or(Some(at + 2));
                at = (length & 63) << 8 | low;
                pointers += 1;
                if pointers > POINTERS_MAX {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

/// A server written as `address` or `address:port`, else `None`.
pub fn server(text: &str) -> Option<SocketAddr> {
    let alone = || text.parse().ok().map(|ip| SocketAddr::new(ip, PORT));
    text.parse().ok().or_else(alone)
}

/// The servers that `resolv.conf` names, at most three as the system's resolver takes.
pub fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let name = |line: &str| -> Option<SocketAddr> {
        let mut words = line.split_ascii_whitespace();
        let address = words
            .next()
            .filter(|word| *word == "nameserver")
            .and(words.next())?;
        let address: std::net::IpAddr = address.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(address, PORT))
    };
    resolv_conf.lines().filter_map(name).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// An answer to `question` with these records; the targets of all but the first point into it.
    fn answer(question: &[u8], flags: u16, records: &[(u16, u16, &str)]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..4].copy_from_slice(&(ANSWER | flags).to_be_bytes());
        message[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
        for (priority, port, target) in records {
            let mut data = Vec::new();
            for word in [*priority, 7, *port] {
                data.extend_from_slice(&word.to_be_bytes());
            }
            for label in target.split('.') {
                data.push(u8::try_from(label.len()).unwrap());
                data.extend_from_slice(label.as_bytes());
            }
            data.push(0);
            message.extend_from_slice(&[0xc0, 12]);
            for word in [
                TYPE_SRV,
                CLASS_IN,
                0,
                60,
                u16::try_from(data.len()).unwrap(),
            ] {
                message.extend_from_slice(&word.to_be_bytes());
            }
            message.extend_from_slice(&data);
        }
        message
    }

    fn record(priority: u16, port: u16, target: &str) -> Service {
        Service {
            priority,
            target: target.into(),
            port,
        }
    }

    #[test]
    fn records_are_asked_for_over_udp_and_over_tcp_when_the_answer_is_cut() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        let server = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for flags in [0, CUT] {
                let (length, from) = udp.recv_from(&mut buffer).unwrap();
                let records: &[_] = if flags == 0 {
                    &[(1, 2380, "b.x"), (0, 2381, "a.x")]
                } else {
                    &[]
                };
                udp.send_to(&answer(&buffer[..length], flags, records), from)
                    .unwrap();
            }
            let (mut stream, _) = tcp.accept().unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).unwrap();
            let answer = answer(&question, 0, &[(3, 1, "tcp.x")]);
            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &answer].concat()).unwrap();
        });
        let found = services(&[address], "_etcd-server._tcp.example.com").unwrap();
        assert_eq!(found, [record(0, 2381, "a.x"), record(1, 2380, "b.x")]);
        let found = services(&[address], "_etcd-server._tcp.example.com").unwrap();
        assert_eq!(found, [record(3, 1, "tcp.x")]);
        server.join().unwrap();
    }

    #[test]
    fn what_no_server_would_say_is_an_error_and_never_a_panic() {
        let asked = question(7, "a.b").unwrap();
        let good = answer(&asked, 0, &[(0, 1, "t.x")]);
        assert_eq!(read(&good, 7).unwrap(), Some(vec![record(0, 1, "t.x")]));
        assert!(read(&good, 8).is_err() && read(&asked, 7).is_err());
        assert_eq!(
            read(&answer(&asked, NO_SUCH_NAME, &[]), 7).unwrap(),
            Some(vec![])
        );
        assert!(read(&answer(&asked, 2, &[]), 7).is_err());
        for length in 0..good.len() {
            let _ = read(&good[..length], 7);
        }
        for at in 0..good.len() {
            for value in [0, 63, 0xc0, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = read(&bad, 7);
            }
        }
        for name in ["", "a..b", &"x".repeat(64)] {
            assert!(question(1, name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn servers_come_from_resolv_conf() {
        let text = "# x\nsearch a\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\noptions x\nnameserver bad\n";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fe80::1]:53"]);
    }
}
