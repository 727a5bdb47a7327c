//! What one client may take: each bound is refused by name, counted, and harms nobody else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::client::{frame, settings};
use kvnode_tests::gateway::{Stream, post};
use kvnode_tests::prometheus::Scrape;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, Status, code, fresh, fresh_with, http};
use serde_json::json;

/// Streams of a kind, and calls waiting for locks, that one connection may have open.
pub(super) const STREAMS_MAX: usize = 8192;
const WAITING_MAX: usize = 1024;

pub(super) fn scrape(server: &Server) -> Scrape {
    let answer = http::get(server.address(), "/metrics").expect("answers");
    Scrape::parse(&answer.body).expect("Prometheus' form")
}

pub(super) fn turned_away(server: &Server, limit: &str) -> f64 {
    scrape(server).sum("kvnode_rejected_total", &[("limit", limit)])
}

pub(super) fn too_many() -> Status {
    Status::new(code::RESOURCE_EXHAUSTED, "etcdserver: too many requests")
}

/// Waits until a number of `/metrics` is as wanted.
pub(super) async fn until(server: &Server, what: &str, wanted: impl Fn(&Scrape) -> bool) {
    for _ in 0..1000 {
        if wanted(&scrape(server)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[test]
fn one_connection_has_so_many_streams_of_a_kind() {
    fresh(async |server, client| {
        let lease = client.lease(60).await;
        let other = Client::connect(server.address()).await;
        let mut open = Vec::new();
        for _ in 0..STREAMS_MAX {
            open.push(client.keep_alive().await);
        }
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let refused_stream = client
            .both_ways::<api::LeaseKeepAliveRequest, api::LeaseKeepAliveResponse>(path)
            .await;
        match refused_stream {
            Err(status) => assert_eq!(status, too_many()),
            Ok((_requests, mut answers)) => {
                assert_eq!(answers.next_or_end().await.err(), Some(too_many()));
            }
        }
        assert_eq!(turned_away(server, "keepalive_streams"), 1.0);
        // Streams of another kind have places of their own, and so has another client.
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        let (mut requests, mut answers) = other.keep_alive().await;
        requests.send(&api::LeaseKeepAliveRequest { id: lease });
        assert_eq!(answers.next().await.ttl, 60);
        // One that ends makes room.
        let (mut requests, mut answers) = open.pop().expect("many");
        requests.half_close();
        while answers.next_or_end().await.is_ok_and(|next| next.is_some()) {}
        let (mut requests, mut answers) = client.keep_alive().await;
        requests.send(&api::LeaseKeepAliveRequest { id: lease });
        assert_eq!(answers.next().await.ttl, 60);
        assert_eq!(turned_away(server, "keepalive_streams"), 1.0);
        assert_eq!(turned_away(server, "watch_streams"), 0.0);
    });
}

#[test]
fn one_connection_has_so_many_watch_streams() {
    fresh(async |server, client| {
        let mut open = Vec::new();
        for _ in 0..STREAMS_MAX {
            open.push(client.watch().await);
        }
        let path = "/etcdserverpb.Watch/Watch";
        let body = api::WatchRequest {
            request_union: Some(api::watch_request::RequestUnion::CreateRequest(watch_key(
                "k",
            ))),
        };
        let answer = client.raw(client.request(path, &[]), &frame(&body)).await;
        assert_eq!(answer.status(), Some(too_many()));
        assert_eq!(turned_away(server, "watch_streams"), 1.0);
        client.write("k", "v").await;
    });
}

#[test]
fn one_connection_has_so_many_calls_waiting_for_locks() {
    fresh(async |server, client| {
        let owner = client.lock(lock_on("l", 0)).await.expect("the lock");
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX {
            let client = client.clone().with_patience(Duration::from_secs(120));
            waiting.push(tokio::spawn(
                async move { client.lock(lock_on("l", 0)).await },
            ));
        }
        let places = span("l/", "l0");
        for _ in 0..2000 {
            let count = client.range(places.clone()).await.expect("a range").count;
            if count == WAITING_MAX as i64 + 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let refused_lock = client.lock(lock_on("l", 0)).await;
        let text = "etcdserver: too many requests";
        refused(refused_lock, Status::new(code::UNKNOWN, text));
        assert_eq!(turned_away(server, "lock_waits"), 1.0);
        // Others may wait, and the next one gets the lock.
        let other = Client::connect(server.address()).await;
        other.lock(lock_on("free", 0)).await.expect("another lock");
        let unlock = api::UnlockRequest { key: owner.key };
        client.unlock(unlock).await.expect("an unlock");
        for call in waiting {
            call.abort();
        }
    });
}

#[test]
fn one_stream_has_so_many_watchers() {
    const WATCHERS_MAX: usize = 100_000;
    fresh(async |server, client| {
        let (mut requests, mut answers) = client.watch().await;
        let create = api::WatchRequest {
            request_union: Some(api::watch_request::RequestUnion::CreateRequest(watch_key(
                "k",
            ))),
        };
        let mut created = 0;
        while created < WATCHERS_MAX {
            for _ in 0..500 {
                requests.send(&create);
            }
            for _ in 0..500 {
                let answer = answers.next().await;
                assert!(answer.created && !answer.canceled, "{answer:?}");
                created += 1;
            }
        }
        requests.send(&create);
        let answer = answers.next().await;
        assert!(answer.canceled, "{answer:?}");
        let reason = "kvnode: too many watchers on this stream";
        assert_eq!(answer.cancel_reason, reason);
        assert_eq!(turned_away(server, "watchers"), 1.0);
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
    });
}

#[test]
fn one_object_of_a_stream_in_json_has_so_many_bytes() {
    fresh(async |server, _client| {
        let mut stream = Stream::open(server.address(), "/v3/watch", &[]);
        let long = "x".repeat(1 << 20);
        stream.say(&json!({ "create_request": { "key": long } }));
        let answer = stream.line().expect("a refusal").to_string();
        assert!(answer.contains("is longer than 1048576 bytes"), "{answer}");
        assert_eq!(turned_away(server, "json_object"), 1.0);
        let body = json!({ "key": "aw==", "value": "x".repeat(3 << 20) });
        let (status, answer) = post(server.address(), "/v3/kv/put", &body);
        assert_eq!(status, 429, "{answer}");
        assert_eq!(turned_away(server, "request_bytes"), 1.0);
    });
}

#[test]
fn json_that_has_arrived_in_part_is_bounded() {
    const TEXT_BYTES: usize = 2_700_000;
    const ALL_BYTES: usize = 64 << 20;
    fresh_with(
        Options::default().arg("--cores=1"),
        async |server, client| {
            let head = format!(
                "POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: {TEXT_BYTES}\r\n\r\n"
            );
            let part = [head.as_bytes(), &vec![b' '; TEXT_BYTES - 1]].concat();
            // One more than there is room for; which one that is, the server's reading decides.
            let mut open = Vec::new();
            for _ in 0..=ALL_BYTES / (TEXT_BYTES - 1) {
                let mut socket = TcpStream::connect(server.address()).expect("connects");
                socket.write_all(&part).expect("written");
                socket.set_nonblocking(true).expect("a socket option");
                open.push(socket);
            }
            until(server, "one is refused", |scrape| {
                scrape.sum("kvnode_rejected_total", &[("limit", "json_bytes")]) == 1.0
            })
            .await;
            let mut answered = Vec::new();
            for _ in 0..1000 {
                let mut answer = [0; 12];
                let full = |socket: &&mut TcpStream| socket.peek(&mut [0; 12]).ok() == Some(12);
                if let Some(socket) = open.iter_mut().find(full) {
                    socket.read_exact(&mut answer).expect("an answer");
                    answered = answer.to_vec();
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(answered, b"HTTP/1.1 429");
            client.write("k", "others are served").await;
            drop(open);
        },
    );
}

#[test]
fn answers_under_way_are_bounded() {
    let options = Options::default()
        .arg("--max-inflight-range-bytes=1MiB")
        .arg("--heartbeat-interval=20")
        .arg("--election-timeout=100");
    fresh_with(options, async |server, client| {
        for number in 0..16 {
            client
                .write(format!("k{number}"), vec![b'x'; 1 << 20])
                .await;
        }
        // An answer that nobody takes.
        let mut narrow = settings(16 << 10, 64 << 10);
        let slow = Client::connect_with(server.address(), &mut narrow)
            .await
            .expect("connects");
        let (mut request, answer) = slow.half_open("/etcdserverpb.KV/Range").await;
        request.send_data(frame(&all()), true).expect("open");
        until(server, "it is under way", |scrape| {
            scrape.sum("kvnode_range_bytes_inflight", &[]) >= f64::from(8 << 20)
        })
        .await;
        let client = client.with_patience(Duration::from_secs(60));
        refused(client.range(all()).await, too_many());
        assert!(turned_away(server, "ranges_in_flight") >= 1.0);
        drop((request, answer, slow));
        until(server, "it is given up", |scrape| {
            scrape.sum("kvnode_range_bytes_inflight", &[]) == 0.0
        })
        .await;
        assert_eq!(client.range(all()).await.expect("a range").count, 16);
    });
}

#[test]
fn writes_without_space_are_counted() {
    let no_space = refusal::no_space;
    fresh_with(
        Options::default().arg("--quota-backend-bytes=1MiB"),
        async |server, client| {
            for number in 0..8 {
                let put = put(format!("k{number}"), vec![b'x'; 256 << 10]);
                if let Err(status) = client.put(put).await {
                    assert_eq!(status, no_space());
                    assert!(turned_away(server, "quota") >= 1.0);
                    return;
                }
            }
            panic!("twice the quota was accepted");
        },
    );
    // More than any disk has.
    fresh_with(
        Options::default().arg("--min-free-bytes=1000000000000000000"),
        async |server, client| {
            refused(client.put(put("k", "v")).await, no_space());
            assert!(turned_away(server, "free_bytes") >= 1.0);
        },
    );
}

#[test]
fn log_ins_that_fail_again_and_again_are_counted() {
    fresh_with(
        Options::default().arg("--bcrypt-cost=4"),
        async |server, client| {
            let root = api::AuthUserAddRequest {
                name: "root".into(),
                password: "right".into(),
                ..Default::default()
            };
            client.user_add(root).await.expect("a user");
            let role = api::AuthRoleAddRequest {
                name: "root".into(),
            };
            client.role_add(role).await.expect("a role");
            let grant = api::AuthUserGrantRoleRequest {
                user: "root".into(),
                role: "root".into(),
            };
            client.user_grant_role(grant).await.expect("granted");
            client.auth_enable(Default::default()).await.expect("on");
            let wrong = api::AuthenticateRequest {
                name: "root".into(),
                password: "wrong".into(),
            };
            for _ in 0..60 {
                if client.authenticate(wrong.clone()).await.err() == Some(too_many()) {
                    assert!(turned_away(server, "logins") >= 1.0);
                    return;
                }
            }
            panic!("60 wrong passwords in a row were all looked at");
        },
    );
}

#[test]
fn a_watcher_that_falls_behind_shows_in_the_numbers() {
    const WRITES: usize = 600;
    fresh_with(Options::default(), async |server, client| {
        let mut narrow = settings(16 << 10, 64 << 10);
        let slow = Client::connect_with(server.address(), &mut narrow)
            .await
            .expect("connects");
        let mut watching = slow.watching().await;
        watching.create(watch_key("k")).await;
        assert_eq!(scrape(server).sum("kvnode_watch_lag_revisions", &[]), 0.0);
        let value = vec![b'x'; 32 << 10];
        for _ in 0..WRITES {
            client.write("k", &value).await;
        }
        until(server, "it is behind", |scrape| {
            scrape.sum("kvnode_watch_lag_revisions", &[]) >= 10.0
                && scrape.sum("kvnode_watch_backlog_bytes", &[]) >= 65536.0
                && scrape.sum("etcd_debugging_mvcc_slow_watcher_total", &[]) == 1.0
        })
        .await;
        let mut seen = 0;
        while seen < WRITES {
            seen += watching.next().await.events.len();
        }
        until(server, "it is up to date", |scrape| {
            scrape.sum("kvnode_watch_lag_revisions", &[]) == 0.0
                && scrape.sum("kvnode_watch_backlog_bytes", &[]) == 0.0
        })
        .await;
    });
}

#[test]
fn prefixes_that_are_named_are_counted() {
    let options = Options::default().arg("--metrics-key-prefixes=/a/,/none/");
    fresh_with(options, async |server, client| {
        let is = |scrape: &Scrape, prefix: &str, keys: f64, bytes: f64| {
            scrape.knows("kvnode_prefix_keys")
                && scrape.sum("kvnode_prefix_keys", &[("prefix", prefix)]) == keys
                && scrape.sum("kvnode_prefix_bytes", &[("prefix", prefix)]) == bytes
        };
        // More than a step of the count looks at.
        for number in 0..2500 {
            client.write(format!("/a/{number:04}"), "0123456789").await;
        }
        client.write("/b", "elsewhere").await;
        until(server, "all are counted", |scrape| {
            is(scrape, "/a/", 2500.0, 2500.0 * 17.0) && is(scrape, "/none/", 0.0, 0.0)
        })
        .await;
        client
            .delete_range(delete_span("/a/", "/a0"))
            .await
            .expect("deleted");
        until(server, "none are left", |scrape| {
            is(scrape, "/a/", 0.0, 0.0)
        })
        .await;
    });
}
