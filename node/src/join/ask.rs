//! Asking peer ports for the member list, several at a time, each with a thread of its own.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::config::{Address, Config, Url};
use crate::memberlist::{self, Told};
use crate::tls::{self, Calling, Link};

/// The longest answer read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Asks all of them at once and waits for `limit` at the most; in the order of `urls`. A thread that
/// hangs in a name look-up is left to itself.
pub fn all(config: &Config, urls: &[Url], limit: Duration) -> Vec<(Url, Result<Told, String>)> {
    until(config, urls, limit, |_, _| false)
}

/// As [`all`], but no longer than until an answer is `enough`: nobody need wait for a member that
/// hangs when another one has said all there is to know.
pub fn until(
    config: &Config,
    urls: &[Url],
    limit: Duration,
    enough: impl Fn(&Url, &Told) -> bool,
) -> Vec<(Url, Result<Told, String>)> {
    let deadline = Instant::now() + limit;
    let (sender, answers) = mpsc::channel();
    let mut results: Vec<(Url, Result<Told, String>)> = urls
        .iter()
        .map(|url| (url.clone(), Err(format!("no answer within {limit:?}"))))
        .collect();
    let calls: Calls = match urls.iter().any(|url| url.scheme.is_tls()) {
        true => tls::calls(config),
        false => Err(String::new()),
    };
    let mut asked = 0;
    for (at, url) in urls.iter().cloned().enumerate() {
        let (sender, calls) = (sender.clone(), calls.clone());
        let spawned = std::thread::Builder::new()
            .name("kv-ask".into())
            .spawn(move || sender.send((at, one(&url, &calls, deadline))));
        match (spawned, results.get_mut(at)) {
            (Ok(_), _) => asked += 1,
            (Err(error), Some(result)) => result.1 = Err(format!("no thread: {error}")),
            (Err(_), None) => {}
        }
    }
    for _ in 0..asked {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((at, answer)) = answers.recv_timeout(left) else {
            break;
        };
        if let Some(result) = results.get_mut(at) {
            let done = answer.as_ref().is_ok_and(|told| enough(&result.0, told));
            result.1 = answer;
            if done {
                break;
            }
        }
    }
    results
}

/// What https:// urls are called with, or why they cannot be.
type Calls = Result<Calling, String>;

fn one(url: &Url, calls: &Calls, deadline: Instant) -> Result<Told, String> {
    let Address::Tcp { host, port } = &url.address else {
        return Err("members are reached by TCP only".to_owned());
    };
    let secure = match url.scheme.is_tls() {
        true => Some((calls.as_ref().map_err(Clone::clone)?, host.as_str())),
        false => None,
    };
    let addresses = (host.as_str(), *port)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?;
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match exchange(address, url, secure, deadline) {
            Ok(answer) => {
                return memberlist::read(&answer).map_err(|why| format!("it answered {why}"));
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

fn exchange(
    address: SocketAddr,
    url: &Url,
    secure: Option<(&Calling, &str)>,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::Error::from(io::ErrorKind::TimedOut))
        } else {
            Ok(left)
        }
    };
    let socket = TcpStream::connect_timeout(&address, left()?)?;
    socket.set_write_timeout(Some(left()?))?;
    socket.set_read_timeout(Some(left()?))?;
    let mut stream = match secure {
        Some((config, host)) => Link::call(socket, config, host)?,
        None => Link::Plain(socket),
    };
    let host = url.to_string();
    let host = host.split_once("://").map_or("", |(_, host)| host);
    // In one piece: who answers the first line and closes would reset a connection with more on its way.
    let request = format!("GET /members HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while (answer.len() as u64) < ANSWER_BYTES_MAX {
        stream.socket().set_read_timeout(Some(left()?))?;
        match stream.read(&mut chunk)? {
            0 => break,
            read => answer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
        // The end of the connection may take its time.
        if memberlist::is_whole(&answer) {
            break;
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers one connection with these bytes.
    fn peer(answer: String) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /members HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        Url::parse(&url).unwrap()
    }

    #[test]
    fn everybody_is_asked_and_answers_in_the_order_of_the_urls() {
        let good = peer(memberlist::answer("GET /members HTTP/1.0", 9, "[]"));
        let odd = peer("hello".to_owned());
        // Held, so that no other test of this process gets it, and not listened on.
        let held =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        held.bind(&any.into()).unwrap();
        let gone = held.local_addr().unwrap().as_socket().unwrap();
        let gone = Url::parse(&format!("http://{gone}")).unwrap();
        let tls = Url::parse("https://localhost:1").unwrap();
        let urls = [gone, good, odd, tls];
        let answers = all(&Config::default(), &urls, Duration::from_secs(20));
        assert_eq!(
            answers.iter().map(|(url, _)| url).collect::<Vec<_>>(),
            urls.iter().collect::<Vec<_>>()
        );
        assert!(
            answers[0]
                .1
                .as_ref()
                .is_err_and(|why| why.contains("refused"))
        );
        assert_eq!(answers[1].1.as_ref().map(|told| told.cluster_id), Ok(9));
        assert!(
            answers[2]
                .1
                .as_ref()
                .is_err_and(|why| why.contains("something else than HTTP"))
        );
        assert!(answers[3].1.is_err());
    }

    #[test]
    fn an_answer_that_is_enough_ends_the_wait_though_others_hang_and_its_connection_stays() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url =
            |of: &TcpListener| Url::parse(&format!("http://{}", of.local_addr().unwrap())).unwrap();
        let urls = [url(&silent), url(&listener)];
        let (over, wait) = mpsc::channel::<()>();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let answer = memberlist::answer("GET /members HTTP/1.0", 9, "[]");
            stream.write_all(answer.as_bytes()).unwrap();
            let _ = wait.recv();
        });
        let limit = Duration::from_secs(600);
        let answers = until(&Config::default(), &urls, limit, |_, told| {
            told.cluster_id == 9
        });
        assert!(answers[0].1.is_err() && answers[1].1.is_ok());
        drop(over);
        answering.join().unwrap();
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for_beyond_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let answers = all(&Config::default(), &[url], Duration::from_millis(50));
        assert!(answers[0].1.is_err());
        drop(listener);
    }
}
