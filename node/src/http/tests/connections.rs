use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::client::{Client, read_all, run};
use super::raw::{self, Raw};
use super::*;

const RANGE: &str = "/etcdserverpb.KV/Range";
const SLOW: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

#[test]
fn silent_connection_is_closed_after_a_while() {
    let server = Server::start(Options {
        first_bytes_timeout: Duration::from_millis(50),
        ..Options::default()
    });
    let mut nothing = Raw::silent(server.address);
    let mut half = Raw::silent(server.address);
    half.0.write_all(b"PRI * HTTP").unwrap();
    assert!(nothing.closed());
    assert!(half.closed());
    eventually("both are counted out", || server.connections() == 0);
    assert_eq!(server.seen.turned_away(), [TurnedAway::SlowStart; 2]);
}

#[test]
fn pings_without_a_call_end_in_too_many_pings() {
    let server = Server::start(Options::default());
    let mut raw = Raw::greet(server.address, 65_535);
    for n in 0..4 {
        raw.frame(raw::PING, 0, 0, &[n; 8]);
        if n < 3 {
            let pong = raw.until(raw::PING).unwrap();
            assert_eq!((pong.flags, pong.payload), (raw::ACK, vec![n; 8]));
        }
    }
    let away = raw.until(raw::GOAWAY).unwrap();
    assert_eq!(away.payload[4..8], 11u32.to_be_bytes());
    assert_eq!(&away.payload[8..], b"too_many_pings");
    assert!(raw.closed());
    assert_eq!(server.seen.turned_away(), [TurnedAway::Pings]);
}

#[test]
fn pings_at_their_distance_with_a_call_open_are_answered() {
    let server = Server::start(Options {
        keepalive_min_time: Duration::from_millis(10),
        ..Options::default()
    });
    let mut raw = Raw::greet(server.address, 65_535);
    raw.open(1, WATCH);
    for n in 0..10 {
        std::thread::sleep(Duration::from_millis(15));
        raw.frame(raw::PING, 0, 0, &[n; 8]);
        assert_eq!(raw.until(raw::PING).unwrap().payload, [n; 8]);
    }
}

#[test]
fn client_that_answers_no_pings_is_closed() {
    let server = Server::start(Options {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(50),
        ..Options::default()
    });
    let mut mute = Raw::greet(server.address, 65_535);
    let ping = mute.until(raw::PING).unwrap();
    assert_eq!(ping.flags, 0);
    assert!(mute.closed());
    assert_eq!(server.seen.turned_away(), [TurnedAway::Silent]);
    // A client that does answer stays, though it asks for nothing; on a busy machine it may be slow to.
    let server = Server::start(Options {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_secs(20),
        ..Options::default()
    });
    run(async {
        let client = Client::connect(server.address).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(client.call(RANGE, frame(b"x"), &[]).await.status(), "0");
    });
}

#[test]
fn call_in_flight_ends_well_when_the_server_shuts_down() {
    let mut server = Server::start(Options::default());
    let address = server.address;
    run(async {
        let client = Client::connect(address).await;
        let (response, mut stream) = client.open(SLOW, &[], false).await;
        stream.send_data(frame(b"slow"), true).unwrap();
        while server.seen.entered.load(Ordering::SeqCst) == 0 {
            client.call(RANGE, frame(b""), &[]).await;
        }
        server.shut_down();
        let answer = read_all(response).await;
        assert_eq!(
            (answer.status(), answer.body.clone()),
            ("0", frame(b"slow"))
        );
    });
    server.join();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn call_that_outlasts_the_grace_is_cut() {
    let mut server = Server::start(Options {
        shutdown_grace: Duration::from_millis(100),
        ..Options::default()
    });
    let mut raw = Raw::greet(server.address, 65_535);
    raw.open(1, WATCH);
    let mut idle = TcpStream::connect(server.address).unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    eventually("the call is open", || {
        server.seen.entered.load(Ordering::SeqCst) == 1
    });
    server.join();
    assert!(raw.until(raw::GOAWAY).is_some());
    assert!(raw.closed());
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert_eq!(server.seen.dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn connections_over_the_cap_wait_for_one_to_end() {
    let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let server = Server::start_at(&address, Options::default(), 2);
    let first = Raw::greet(server.address, 65_535);
    let _second = Raw::greet(server.address, 65_535);
    eventually("two are open", || server.connections() == 2);
    let mut third = Raw::greet(server.address, 65_535);
    third
        .0
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert!(third.next().is_none(), "nobody greets the third");
    assert_eq!(server.connections(), 2);
    assert_eq!(server.seen.full.load(Ordering::SeqCst), 1);
    drop(first);
    third.0.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(third.next().unwrap().kind, raw::SETTINGS);
}

#[test]
fn calls_over_the_streams_of_a_connection_are_refused_alone() {
    const REFUSED_STREAM: u32 = 7;
    let server = Server::start(Options {
        max_concurrent_streams: 2,
        ..Options::default()
    });
    let mut raw = Raw::greet(server.address, 65_535);
    for stream in [1, 3, 5] {
        raw.open(stream, WATCH);
    }
    let reset = raw.until(raw::RST_STREAM).unwrap();
    let refused = REFUSED_STREAM.to_be_bytes().to_vec();
    assert_eq!((reset.stream, reset.payload), (5, refused));
    eventually("it is counted", || {
        server.seen.turned_away() == [TurnedAway::Streams]
    });
    // The others are served, and one that ends makes room.
    raw.frame(raw::DATA, raw::END_STREAM, 1, &frame(b"x"));
    while raw
        .until(raw::HEADERS)
        .is_some_and(|head| head.stream != 1 || head.flags & raw::END_STREAM == 0)
    {}
    raw.open(7, WATCH);
    raw.frame(raw::DATA, raw::END_STREAM, 7, &frame(b"x"));
    assert!(raw.until(raw::DATA).is_some_and(|data| data.stream == 7));
    assert_eq!(server.seen.turned_away(), [TurnedAway::Streams]);
}

#[test]
fn two_thousand_idle_connections_do_not_disturb() {
    const COUNT: usize = 2000;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let server = Server::start(Options::default());
    let idle: Vec<_> = (0..COUNT)
        .map(|_| Raw::greet(server.address, 65_535))
        .collect();
    eventually("all are accepted", || server.connections() == COUNT);
    run(async {
        let client = Client::connect(server.address).await;
        for _ in 0..10 {
            assert_eq!(client.call(RANGE, frame(b"x"), &[]).await.status(), "0");
        }
    });
    drop(idle);
    eventually("all are counted out", || server.connections() == 0);
}

#[test]
fn unix_socket_serves_the_same_and_replaces_a_dead_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("client.sock");
    // A file left behind by a process that is gone.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let address = Address::Unix(path.clone());
    let mut server = Server::start_at(&address, Options::default(), 10);
    assert!(bind(&address).is_err(), "it is in use");
    run(async {
        let socket = UnixStream::connect(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let client = Client::over(tokio::net::UnixStream::from_std(socket).unwrap()).await;
        assert_eq!(client.call(RANGE, frame(b"x"), &[]).await.status(), "0");
    });
    server.join();
    assert!(!path.exists());
}

#[test]
fn port_in_use_is_said_clearly() {
    let first = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let error = bind(first.address()).unwrap_err();
    let Address::Tcp(address) = first.address() else {
        unreachable!("it was bound as TCP")
    };
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {address}: Address already in use (os error 98)")
    );
}

#[test]
fn flood_of_resets_ends_the_connection_and_harms_nobody() {
    let server = Server::start(Options::default());
    let mut raw = Raw::greet(server.address, 65_535);
    let mut stream = 1;
    // How many fall into one turn of the server is the kernel's to decide; most do.
    let away = (0..100).find_map(|_| {
        let mut flood = Vec::new();
        for _ in 0..1000 {
            flood.extend_from_slice(&raw::call_frame(stream, WATCH));
            flood.extend_from_slice(&raw::bytes(raw::RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            stream += 2;
        }
        // The server may be gone already.
        raw.0.write_all(&flood).err().map(|_| None).or_else(|| {
            raw.0
                .set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            raw.until(raw::GOAWAY).map(Some)
        })
    });
    let away = away.expect("the flood is noticed");
    // It is counted after the word was sent.
    eventually("the flood is counted", || {
        server.seen.turned_away() == [TurnedAway::Protocol]
    });
    assert!(away.is_none_or(|away| away.payload[4..8] == 11u32.to_be_bytes()));
    run(async {
        let client = Client::connect(server.address).await;
        assert_eq!(client.call(RANGE, frame(b"x"), &[]).await.status(), "0");
    });
    drop(raw);
    eventually("no handler is left", || {
        let seen = &server.seen;
        server.connections() == 0
            && seen.entered.load(Ordering::SeqCst) == seen.dropped.load(Ordering::SeqCst)
    });
}

#[test]
fn client_that_only_asks_and_never_reads_is_not_read_from_for_ever() {
    const SENT_MAX: usize = 64 << 20;
    let server = Server::start(Options {
        unsent_bytes_max: 1 << 20,
        ..Options::default()
    });
    let mut raw = Raw::greet(server.address, (1 << 31) - 1);
    // One answer of 64 MiB that the client does not take.
    raw.open(1, "/etcdserverpb.Maintenance/Snapshot");
    raw.frame(raw::DATA, raw::END_STREAM, 1, &frame(&[4, 0]));
    raw.0
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let (mut sent, mut stream) = (0, 3);
    while sent < SENT_MAX {
        let mut calls = Vec::new();
        for _ in 0..1000 {
            calls.extend_from_slice(&raw::call_frame(stream, WATCH));
            stream += 2;
        }
        sent += calls.len();
        if raw.0.write_all(&calls).is_err() {
            break;
        }
    }
    assert!(sent < SENT_MAX, "the server took all of {sent} bytes");
    drop(raw);
    eventually("the connection is counted out", || {
        server.connections() == 0
    });
}

#[test]
fn client_that_reads_again_is_served_again() {
    let server = Server::start(Options {
        unsent_bytes_max: 1 << 20,
        ..Options::default()
    });
    let mut raw = Raw::greet(server.address, (1 << 31) - 1);
    raw.open(1, "/etcdserverpb.Maintenance/Snapshot");
    raw.frame(raw::DATA, raw::END_STREAM, 1, &frame(&[1, 0]));
    // More than is read while the answers wait.
    let calls = 20_000;
    let mut writing = raw.0.try_clone().unwrap();
    let asking = std::thread::spawn(move || {
        for number in 0..calls {
            let stream = 3 + 2 * number;
            let mut call = raw::call_frame(stream, RANGE);
            call.extend_from_slice(&raw::bytes(
                raw::DATA,
                raw::END_STREAM,
                stream,
                &frame(b"x"),
            ));
            writing.write_all(&call).unwrap();
        }
    });
    let mut answered = 0;
    while answered <= calls {
        let read = raw.next().expect("served to the end");
        answered += u32::from(read.kind == raw::HEADERS && read.flags & raw::END_STREAM != 0);
    }
    asking.join().unwrap();
}
