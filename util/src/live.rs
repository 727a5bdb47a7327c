//! The running node's own door: HTTP/1.1 over the socket in its data directory, which only its user may open. `POST /admin/snapshot`
//! is answered with the `.kvs` stream that Maintenance.Snapshot sends, `/admin/resync` with JSON.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use kvnode_store::datadir::ADMIN_SOCKET;

use crate::failure::{Code, Failure, Result};

/// Longest pause between two pieces of an answer.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Status line and headers together; a refusal's text is cut there too.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// Asks the node that runs on `data_dir` for a snapshot.
pub fn snapshot(data_dir: &Path) -> Result<impl Read + use<>> {
    let failed = |e: io::Error| {
        let next = format!("kvutil snapshot save OUT --data-dir {}", data_dir.display());
        let hint = match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "no node runs there, or it has no admin socket: save without --live when it is stopped"
            }
            _ => "the node did not answer as expected; its log says why",
        };
        unanswered(data_dir, &e, next).hint(hint)
    };
    let mut answer = ask(data_dir, "POST", "/admin/snapshot").map_err(failed)?;
    if answer.status == 200 {
        return Ok(answer.body);
    }
    let text = answer.text();
    let (status, text) = (answer.status, text.trim());
    Err(failed(io::Error::other(format!(
        "it answered {status}: {text}"
    ))))
}

/// Asks the node that runs on `data_dir` for something that is answered in JSON, and returns the status as well.
pub fn json(data_dir: &Path, method: &str, path: &str) -> Result<(u16, serde_json::Value)> {
    let failed = |e: io::Error| {
        let next = format!("kvutil data lock --data-dir {}", data_dir.display());
        let hint = match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "no node runs there, or it has no admin socket: start it first"
            }
            _ => "the node did not answer as expected; its log says why",
        };
        unanswered(data_dir, &e, next).hint(hint)
    };
    let mut answer = ask(data_dir, method, path).map_err(failed)?;
    let text = answer.text();
    let value = serde_json::from_str(&text)
        .map_err(|e| failed(malformed(&format!("it answered {}: {e}", answer.status))))?;
    Ok((answer.status, value))
}

fn unanswered(data_dir: &Path, error: &io::Error, next: String) -> Failure {
    let path = data_dir.join(ADMIN_SOCKET);
    let what = format!("cannot ask the node at {}: {error}", path.display());
    Failure::new(Code::Failed, what, next)
}

fn ask(data_dir: &Path, method: &str, path: &str) -> io::Result<Answer<BufReader<UnixStream>>> {
    let stream = UnixStream::connect(data_dir.join(ADMIN_SOCKET))?;
    stream.set_read_timeout(Some(PAUSE_MAX))?;
    stream.set_write_timeout(Some(PAUSE_MAX))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: kvnode\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    (&stream).write_all(request.as_bytes())?;
    Answer::read(BufReader::with_capacity(256 << 10, stream))
}

struct Answer<R> {
    status: u16,
    body: Body<R>,
}

impl<R: BufRead> Answer<R> {
    /// What is left of the body, as far as a text goes.
    fn text(&mut self) -> String {
        let mut text = String::new();
        let _ = (&mut self.body)
            .take(HEAD_BYTES_MAX)
            .read_to_string(&mut text);
        text
    }

    fn read(mut from: R) -> io::Result<Self> {
        let mut left = HEAD_BYTES_MAX;
        let mut line = |from: &mut R| -> io::Result<String> {
            let mut line = String::new();
            let read = from.take(left).read_line(&mut line)?;
            left -= read as u64;
            match line.strip_suffix('\n') {
                Some(line) => Ok(line.trim_end_matches('\r').to_owned()),
                None => Err(malformed("the answer's head is cut short or too long")),
            }
        };
        let first = line(&mut from)?;
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
            .ok_or_else(|| malformed("no HTTP answer"))?;
        let mut rest = Rest::UntilClosed;
        loop {
            let header = line(&mut from)?;
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').unwrap_or((&header, ""));
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding")
                && value.eq_ignore_ascii_case("chunked")
            {
                rest = Rest::Chunked {
                    left: 0,
                    first: true,
                };
            } else if name.eq_ignore_ascii_case("content-length")
                && matches!(rest, Rest::UntilClosed)
            {
                let length = value.parse();
                rest = Rest::Counted(length.map_err(|_| malformed("no length"))?);
            }
        }
        Ok(Answer {
            status,
            body: Body { from, rest },
        })
    }
}

enum Rest {
    Chunked { left: u64, first: bool },
    Counted(u64),
    UntilClosed,
    Ended,
}

/// An answer's body. One that ends before its time is an error, never a short body.
struct Body<R> {
    from: R,
    rest: Rest,
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = match &mut self.rest {
            Rest::Ended => return Ok(0),
            Rest::UntilClosed => return self.from.read(buf),
            Rest::Counted(left) => left,
            Rest::Chunked { left, first } => {
                if *left == 0 {
                    *left = next_chunk(&mut self.from, std::mem::take(first))?;
                }
                left
            }
        };
        if *left == 0 {
            self.rest = Rest::Ended;
            return Ok(0);
        }
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
        let read = self.from.read(&mut buf[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the node broke off in the middle of the snapshot",
            ));
        }
        *left -= read as u64;
        Ok(read)
    }
}

/// The length of the next chunk; 0 behind the last one, whose trailers are passed over.
fn next_chunk(from: &mut impl BufRead, first: bool) -> io::Result<u64> {
    let mut line = |most: u64| -> io::Result<String> {
        let mut line = String::new();
        from.take(most).read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.trim_end_matches('\r').to_owned()),
            None => Err(malformed("a chunk's length is missing")),
        }
    };
    if !first && !line(2)?.is_empty() {
        return Err(malformed("a chunk is longer than it said"));
    }
    let length = line(1024)?;
    let digits = length.split(';').next().unwrap_or_default().trim();
    let length = u64::from_str_radix(digits, 16).map_err(|_| malformed("no chunk length"))?;
    if length == 0 {
        while !line(1024)?.is_empty() {}
    }
    Ok(length)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A node that reads a request to its end and answers with these bytes.
    fn answering(answer: Vec<u8>) -> (tempfile::TempDir, std::thread::JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(ADMIN_SOCKET)).unwrap();
        let node = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            let mut reader = BufReader::new(&stream);
            while reader.read_line(&mut request).unwrap() > 2 {}
            // Small pieces, so that lengths lie across reads; whoever reads may have given up.
            for piece in answer.chunks(7) {
                if (&stream).write_all(piece).is_err() {
                    break;
                }
            }
            request
        });
        (dir, node)
    }

    fn ask(answer: impl Into<Vec<u8>>) -> (Result<io::Result<Vec<u8>>>, String) {
        let (dir, node) = answering(answer.into());
        let got = snapshot(dir.path()).map(|mut body| {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).map(|_| bytes)
        });
        (got, node.join().unwrap())
    }

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

    #[test]
    fn a_chunked_answer_comes_out_byte_for_byte() {
        let (got, request) = ask(format!(
            "{CHUNKED}5\r\nhello\r\n1;x=y\r\n \r\nA\r\nworld\r\nabc\r\n0\r\nt: u\r\n\r\n"
        ));
        assert_eq!(got.unwrap().unwrap(), b"hello world\r\nabc");
        assert!(
            request.starts_with("POST /admin/snapshot HTTP/1.1\r\n"),
            "{request}"
        );
        let (got, _) = ask("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(got.unwrap().unwrap(), b"abc");
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error_wherever_it_does() {
        let whole = format!("{CHUNKED}5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n");
        for cut in 0..whole.len() {
            let (got, _) = ask(&whole.as_bytes()[..cut]);
            assert!(!matches!(got, Ok(Ok(_))), "cut at {cut}");
        }
    }

    #[test]
    fn a_refusal_is_told_with_the_nodes_own_words() {
        let (got, _) = ask("HTTP/1.1 503 Unavailable\r\nContent-Length: 9\r\n\r\nno leader");
        let failure = got.unwrap_err();
        assert!(
            failure.what().contains("503: no leader"),
            "{}",
            failure.what()
        );
        let nobody = tempfile::tempdir().unwrap();
        assert!(snapshot(nobody.path()).is_err());
    }
}
