use std::io::{Read, Write};
use std::net::TcpStream;

use super::client::{Client, read_all, run};
use super::raw::Raw;
use super::*;

/// Sends text and reads until `end` (or the connection's end, if empty).
fn talk(socket: &mut TcpStream, text: &str, end: &str) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(text.as_bytes()).unwrap();
    let mut got = Vec::new();
    let mut byte = [0; 1];
    while socket.read(&mut byte).unwrap() == 1 {
        got.push(byte[0]);
        if !end.is_empty() && got.ends_with(end.as_bytes()) {
            break;
        }
    }
    String::from_utf8(got).unwrap()
}

#[test]
fn http1_and_http2_share_the_port() {
    let server = Server::start(Options::default());
    let mut socket = TcpStream::connect(server.address).unwrap();
    let answer = talk(
        &mut socket,
        "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        "healthy",
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-length: 7\r\n"), "{answer}");
    // The connection stays.
    let answer = talk(
        &mut socket,
        "GET /query?a=b%20c HTTP/1.1\r\nHost: a\r\n\r\n",
        "a=b%20c",
    );
    assert!(answer.contains("200 OK"), "{answer}");
    run(async {
        let client = Client::connect(server.address).await;
        let grpc = client
            .call("/etcdserverpb.KV/Range", frame(b"x"), &[])
            .await;
        assert_eq!(grpc.status(), "0");
        for (path, status, text) in [
            ("/health", StatusCode::OK, "healthy"),
            ("/pieces", StatusCode::OK, "one two three"),
            ("/nothing", StatusCode::NOT_FOUND, "404 page not found\n"),
        ] {
            let request = http::Request::get(format!("http://host{path}"))
                .body(())
                .unwrap();
            let (response, _) = client.send(request, true).await;
            let answer = read_all(response).await;
            assert_eq!((answer.http, &*answer.body), (status, text.as_bytes()));
        }
        let request = http::Request::post("http://host/echo").body(()).unwrap();
        let (response, mut stream) = client.send(request, false).await;
        stream.send_data(Bytes::from_static(b"{}"), true).unwrap();
        assert_eq!(read_all(response).await.body, "{}");
    });
}

#[test]
fn bodies_are_read_up_to_their_cap() {
    let server = Server::start(Options::default());
    let post = |length: usize| {
        let mut socket = TcpStream::connect(server.address).unwrap();
        let body = "x".repeat(length);
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
        talk(
            &mut socket,
            &format!("{head}Content-Length: {length}\r\n\r\n{body}"),
            "",
        )
    };
    assert!(post(1000).ends_with(&"x".repeat(1000)));
    let answer = post(1001);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.ends_with("the request body is longer than 1000 bytes"),
        "{answer}"
    );
    let answer = post(999);
    assert!(
        answer.ends_with("there is no room for the request body"),
        "{answer}"
    );
}

#[test]
fn streamed_answer_is_chunked() {
    let server = Server::start(Options::default());
    let mut socket = TcpStream::connect(server.address).unwrap();
    let answer = talk(
        &mut socket,
        "GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n",
        "0\r\n\r\n",
    );
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    assert!(
        answer.contains("\r\n4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n"),
        "{answer}"
    );
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let server = Server::start(Options::default());
    let garbage: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET / HTTP/9.9\r\n\r\n",
    ];
    for bytes in garbage {
        let mut raw = Raw::silent(server.address);
        raw.0.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // An end or a reset, but no time-out.
        if let Err(error) = raw.0.read_to_end(&mut rest) {
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset,
                "{bytes:?}"
            );
        }
    }
    run(async {
        let client = Client::connect(server.address).await;
        let answer = client
            .call("/etcdserverpb.KV/Range", frame(b"x"), &[])
            .await;
        assert_eq!(answer.status(), "0");
    });
}

#[test]
fn slow_head_and_idle_connection_are_closed() {
    let server = Server::start(Options {
        first_bytes_timeout: Duration::from_millis(100),
        http_idle_timeout: Duration::from_millis(100),
        ..Options::default()
    });
    // Slow from the start, slow on the second request, and no second request.
    for second in ["GET /health HTTP/1.1\r\n", "GE", ""] {
        let mut socket = TcpStream::connect(server.address).unwrap();
        if second != "GE" {
            talk(
                &mut socket,
                "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
                "healthy",
            );
        }
        // Reads to the end.
        talk(&mut socket, second, "");
    }
    // One that rests is only tidied away.
    assert_eq!(server.seen.turned_away(), [TurnedAway::SlowStart; 2]);
}

#[test]
fn body_that_drips_is_not_waited_for() {
    let server = Server::start(Options {
        body_timeout: Duration::from_millis(200),
        ..Options::default()
    });
    let mut socket = TcpStream::connect(server.address).unwrap();
    let begun =
        "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000\r\n\r\nx";
    let answer = talk(&mut socket, begun, "");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let late = "the request body did not arrive in time";
    assert!(answer.ends_with(late), "{answer}");
    run(async {
        let client = Client::connect(server.address).await;
        let request = http::Request::post("http://host/echo").body(()).unwrap();
        let (response, mut stream) = client.send(request, false).await;
        stream.send_data(Bytes::from_static(b"{"), false).unwrap();
        assert_eq!(read_all(response).await.body, late);
    });
}

#[test]
fn head_without_measure_is_refused() {
    let server = Server::start(Options::default());
    let mut socket = TcpStream::connect(server.address).unwrap();
    let long = "x".repeat(100 << 10);
    // The answer comes before the end of what is sent.
    let request = format!("GET /health HTTP/1.1\r\nHost: a\r\nx-long: {long}");
    let _ = socket.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    eventually("it is counted", || {
        server.seen.turned_away() == [TurnedAway::HeaderList]
    });
}
