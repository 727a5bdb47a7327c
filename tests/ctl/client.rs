//! The client library: what its documentation promises, against one server.

use std::future::Future;
use std::time::Duration;

use kvnode_client::concurrency::{Election, Lock, Session};
use kvnode_client::{Client, Config, Error, api, get, prefix, put};
use kvnode_tests::server::free_port;
use kvnode_tests::{Options, Server};

/// Longest wait for anything; the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(30);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
}

fn client(server: &Server) -> Client {
    Client::new(Config::new([server.url()])).expect("a good configuration")
}

fn watch_prefix(name: &'static str) -> api::WatchCreateRequest {
    let (key, range_end) = prefix(name);
    api::WatchCreateRequest {
        key,
        range_end,
        ..Default::default()
    }
}

#[test]
fn pairs_are_written_read_compared_and_deleted() {
    let server = Server::start(Options::default());
    run(async {
        let client = client(&server);
        client.put(put("k", "v")).await.expect("put");
        let answer = client.range(get("k")).await.expect("range");
        assert_eq!((answer.count, &answer.kvs[0].value[..]), (1, &b"v"[..]));
        let (key, range_end) = prefix("k");
        let all = api::RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            ..Default::default()
        };
        let pieces = client
            .range_stream(all.clone())
            .await
            .expect("stream")
            .collect()
            .await;
        assert_eq!(
            pieces.expect("pieces").kvs,
            client.range(all).await.expect("range").kvs
        );
        let deleted = client
            .delete_range(api::DeleteRangeRequest {
                key,
                range_end,
                ..Default::default()
            })
            .await
            .expect("delete");
        assert_eq!(deleted.deleted, 1);
        let error = client.range(get("")).await.expect_err("an empty key");
        assert!(error.is(&api::Status::key_not_provided()), "{error}");
    });
}

#[test]
fn an_endpoint_that_is_not_there_is_passed_over_and_named_when_there_is_no_other() {
    let server = Server::start(Options::default());
    run(async {
        let dead = format!("127.0.0.1:{}", free_port());
        let both = Client::new(Config::new([dead.clone(), server.url()])).expect("configuration");
        for _ in 0..4 {
            both.put(put("k", "v"))
                .await
                .expect("the other endpoint serves");
        }
        let mut config = Config::new([dead.clone()]);
        config.connect_timeout = Duration::from_millis(300);
        let none = Client::new(config).expect("configuration");
        let error = none.put(put("k", "v")).await.expect_err("nobody is there");
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        let tried = error.attempts().join("\n");
        assert!(
            tried.contains(&dead) && tried.contains("refused"),
            "{tried}"
        );
    });
}

#[test]
fn pages_beside_the_api_are_fetched_too() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::new(Config::new([server.url()])).expect("configuration");
        let metrics = client
            .page(&server.url(), "/metrics")
            .await
            .expect("a page");
        assert_eq!((metrics.status, metrics.certificate), (200, None));
        let text = String::from_utf8_lossy(&metrics.body);
        assert!(text.contains("\netcd_server_has_leader 1\n"), "{text}");
        let nothing = client.page(&server.url(), "/nothing").await;
        assert_eq!(nothing.expect("an answer").status, 404);
        let dead = format!("127.0.0.1:{}", free_port());
        let error = client.page(&dead, "/metrics").await.expect_err("nobody");
        assert!(error.attempts()[0].starts_with(&dead), "{error:?}");
    });
}

#[test]
fn a_client_finds_the_server_again_after_its_restart() {
    let mut server = Server::start(Options::default());
    run(async {
        let client = client(&server);
        client.put(put("k", "before")).await.expect("put");
        server.kill();
        server.restart();
        let answer = client.range(get("k")).await.expect("a read is repeated");
        assert_eq!(&answer.kvs[0].value[..], b"before");
        client.put(put("k", "after")).await.expect("put");
    });
}

#[test]
fn a_watch_goes_on_where_it_was_when_the_server_comes_back() {
    let mut server = Server::start(Options::default());
    run(async {
        let client = client(&server);
        let first = client
            .put(put("w/0", "0"))
            .await
            .expect("put")
            .header
            .expect("header")
            .revision;
        let mut request = watch_prefix("w/");
        request.start_revision = first;
        let mut watcher = client.watch(request);
        let response = watcher.next().await.expect("event");
        assert_eq!(&response.events[0].kv.as_ref().expect("kv").value[..], b"0");
        client.put(put("w/1", "1")).await.expect("put");
        server.stop();
        server.restart();
        // The write goes out on a connection known to live; a read may be repeated, a write not.
        client.range(get("w/0")).await.expect("range");
        client.put(put("w/2", "2")).await.expect("put");
        let mut seen = Vec::new();
        while seen.len() < 2 {
            for event in watcher.next().await.expect("events").events {
                seen.push(event.kv.expect("kv").value);
            }
        }
        assert_eq!(seen, ["1", "2"]);
        watcher.request_progress();
        let progress = watcher.next().await.expect("progress");
        assert!(progress.events.is_empty());
        assert_eq!(
            progress.header.expect("header").revision,
            watcher.next_revision() - 1
        );
    });
}

#[test]
fn a_watch_from_before_the_compaction_ends_with_its_revision() {
    let server = Server::start(Options::default());
    run(async {
        let client = client(&server);
        let mut revision = 0;
        for value in ["a", "b", "c"] {
            revision = client
                .put(put("k", value))
                .await
                .expect("put")
                .header
                .expect("header")
                .revision;
        }
        client
            .compact(api::CompactionRequest {
                revision,
                physical: true,
            })
            .await
            .expect("compact");
        let mut watcher = client.watch(api::WatchCreateRequest {
            key: "k".into(),
            start_revision: 1,
            ..Default::default()
        });
        let error = watcher.next().await.expect_err("history is gone");
        assert!(
            matches!(error, Error::Compacted { compact_revision, .. } if compact_revision == revision),
            "{error:?}"
        );
    });
}

#[test]
fn large_watch_responses_arrive_whole() {
    let server = Server::start(Options::default());
    run(async {
        let client = client(&server);
        // One transaction of more than the 1.5 MiB a response may have.
        let big = "x".repeat(200 << 10);
        let mut watcher = client.watch(api::WatchCreateRequest {
            start_revision: 1,
            ..watch_prefix("big/")
        });
        for batch in 0..2 {
            for number in 0..6 {
                client
                    .put(put(format!("big/{batch}-{number}"), big.clone()))
                    .await
                    .expect("put");
            }
        }
        let mut seen = 0;
        while seen < 12 {
            let response = watcher.next().await.expect("events");
            assert!(!response.fragment);
            seen += response.events.len();
        }
        assert_eq!(seen, 12);
    });
}

#[test]
fn leases_are_kept_alive_and_end_when_revoked() {
    let server = Server::start(Options::default());
    run(async {
        let client = client(&server);
        let lease = client.lease_grant(600, 0).await.expect("grant").id;
        let mut keeper = client.lease_keep_alive(lease);
        assert_eq!(
            keeper.next().await.expect("renewed").expect("alive").ttl,
            600
        );
        let mut request = put("k", "v");
        request.lease = lease;
        client.put(request).await.expect("put");
        let asked = client.lease_time_to_live(lease, true).await.expect("ttl");
        assert_eq!(asked.keys, ["k"]);
        client.lease_revoke(lease).await.expect("revoke");
        let error = client
            .lease_keep_alive_once(lease)
            .await
            .expect_err("it is gone");
        assert!(error.is(&api::Status::lease_not_found()), "{error}");
        assert_eq!(client.range(get("k")).await.expect("range").count, 0);
    });
}

#[test]
fn a_lock_is_held_by_one_session_and_passes_on_when_it_ends() {
    let server = Server::start(Options::default());
    run(async {
        let client = client(&server);
        let first = Session::new(&client, 60).await.expect("session");
        let second = Session::new(&client, 60).await.expect("session");
        let mut held = Lock::new(&first, "l");
        held.acquire().await.expect("free");
        let mut other = Lock::new(&second, "l");
        assert!(!other.try_acquire().await.expect("asked"));
        let mut waiting = Box::pin(other.acquire());
        let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
        assert!(early.is_err(), "two hold the lock");
        first.close().await.expect("revoke");
        waiting.await.expect("now it is free");
        drop(held);
        other.release().await.expect("release");
        let left = client.range(api::RangeRequest {
            key: "l/".into(),
            range_end: "l0".into(),
            ..Default::default()
        });
        assert_eq!(left.await.expect("range").count, 0);
    });
}

#[test]
fn observers_see_every_leader() {
    let server = Server::start(Options::default());
    run(async {
        let client = client(&server);
        let first = Session::new(&client, 60).await.expect("session");
        let second = Session::new(&client, 60).await.expect("session");
        let mut one = Election::new(&first, "e");
        let mut two = Election::new(&second, "e");
        let mut observer = two.observe();
        one.campaign("one").await.expect("elected");
        assert_eq!(observer.next().await.expect("leader").kvs[0].value, "one");
        one.proclaim("one again").await.expect("still leader");
        assert_eq!(
            observer.next().await.expect("leader").kvs[0].value,
            "one again"
        );
        let (elected, resigned) = tokio::join!(two.campaign("two"), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            one.resign().await
        });
        elected.expect("elected");
        resigned.expect("resigned");
        assert_eq!(observer.next().await.expect("leader").kvs[0].value, "two");
        assert_eq!(
            two.leader().await.expect("asked").expect("a leader").value,
            "two"
        );
    });
}

#[test]
fn a_token_is_fetched_and_fetched_again_when_it_is_no_longer_taken() {
    let server = Server::start(Options::default());
    run(async {
        let root =
            Client::new(Config::new([server.url()]).user("root", "pw")).expect("configuration");
        // Without authentication nobody is asked for a token.
        root.user_add("root", Some("pw")).await.expect("user");
        root.role_add("root").await.expect("role");
        root.user_grant_role("root", "root").await.expect("grant");
        root.auth_enable().await.expect("enable");
        root.put(put("k", "v"))
            .await
            .expect("logged in when it was wanted");
        let nobody = client(&server);
        let error = nobody.put(put("k", "v")).await.expect_err("no user");
        assert!(error.is(&api::Status::user_empty()), "{error}");
        // A changed password makes every token of the user worthless.
        root.user_change_password("root", "pw")
            .await
            .expect("changed");
        root.put(put("k", "again")).await.expect("logged in anew");
        let wrong =
            Client::new(Config::new([server.url()]).user("root", "no")).expect("configuration");
        let error = wrong.range(get("k")).await.expect_err("wrong password");
        assert!(error.is(&api::Status::auth_failed()), "{error}");
    });
}

#[test]
fn a_snapshot_streams_whole_through_the_blocking_face() {
    let server = Server::start(Options::default());
    let client =
        kvnode_client::blocking::Client::new(Config::new([server.url()])).expect("configuration");
    client.put(put("k", "v")).expect("put");
    let mut snapshot = client.snapshot().expect("snapshot");
    let mut bytes = 0;
    while let Some(part) = snapshot.next().expect("part") {
        bytes += part.bytes.len();
    }
    assert!(bytes > 32 && bytes % 512 == 32, "{bytes} bytes");
    assert_eq!(client.status().expect("status").raft_term, 2);
    let members = client.member_list(true).expect("members").members;
    assert_eq!(members[0].client_urls, [server.url()]);
}
