//! From a stopped node's data to a snapshot file to a node that serves it: the tool and the server together.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::pool::run_within;
use kvnode_tests::server::free_port;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options, Server, build};

const LIMIT: Duration = Duration::from_secs(300);

fn kvutil(words: &[&str]) -> String {
    let output = Command::new(build::tool("kvutil"))
        .args(words)
        .output()
        .expect("kvutil runs");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{words:?}: {out}{err}");
    out.into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

async fn value(client: &Client, key: &str) -> bytes::Bytes {
    client.read(key).await.expect("it is there").value
}

async fn hash(client: &Client) -> (u32, i64) {
    let request = api::HashKVRequest { revision: 0 };
    let answer = client.hash_kv(request).await.expect("a hash");
    (answer.hash, answer.hash_revision)
}

#[test]
fn a_restored_node_serves_what_was_saved_and_its_watchers_list_again() {
    let mut server = Server::start(Options::default());
    run_within(LIMIT, async {
        let client = Client::connect(server.address()).await;
        let lease = client.lease(600).await;
        for number in 0..50 {
            client
                .write(format!("k{:02}", number % 20), format!("v{number}"))
                .await;
        }
        client.write_leased("leased", "x", lease).await;
        let before = hash(&client).await;
        let live = server.home().join("live.kvs");
        kvutil(&[
            "snapshot",
            "save",
            text(&live),
            "--live",
            "--data-dir",
            text(server.data_dir()),
        ]);
        server.stop();
        let file = server.home().join("saved.kvs");
        kvutil(&[
            "snapshot",
            "save",
            text(&file),
            "--data-dir",
            text(server.data_dir()),
        ]);
        // Exit code 3 if they differed.
        kvutil(&["snapshot", "verify", text(&live), "--against", text(&file)]);
        let restore = |name: &str, bump: &str| {
            let to = server.home().join(name);
            let words = ["snapshot", "restore", text(&file), "--single", "test"];
            let more = ["--data-dir", text(&to), "--revision-bump", bump];
            kvutil(&[&words[..], &more].concat());
            Server::start(Options::default().data_dir(to))
        };
        let same = restore("same", "0");
        let client = Client::connect(same.address()).await;
        assert_eq!(hash(&client).await, before);
        assert_eq!(value(&client, "k07").await, "v47");

        // What the node itself gave while it ran makes the same.
        let to = server.home().join("from-live");
        let words = ["snapshot", "restore", text(&live), "--single", "test"];
        let more = ["--data-dir", text(&to), "--revision-bump", "0"];
        kvutil(&[&words[..], &more].concat());
        let from_live = Server::start(Options::default().data_dir(to));
        let client = Client::connect(from_live.address()).await;
        assert_eq!(hash(&client).await, before);

        let bumped = restore("bumped", "auto");
        let client = Client::connect(bumped.address()).await;
        assert_eq!(client.revision().await, before.1 + 1_000_000_000);
        assert_eq!(value(&client, "k07").await, "v47");
        let keys = api::LeaseTimeToLiveRequest {
            id: lease,
            keys: true,
        };
        let kept = client.lease_time_to_live(keys).await.expect("the lease");
        assert_eq!(kept.keys, ["leased"]);
        assert_eq!(kept.granted_ttl, 600);
        let mut watching = client.watching().await;
        let from = api::WatchCreateRequest {
            start_revision: before.1 + 1,
            ..watch_span("k", "l")
        };
        watching.create(from).await;
        let told = watching.next().await;
        assert!(
            told.canceled && told.compact_revision == before.1 + 1_000_000_000,
            "{told:?}"
        );
        let written = client.write("k-new", "it goes on").await;
        assert_eq!(written, before.1 + 1_000_000_001);
    });
}

#[test]
fn a_restored_cluster_forms_and_an_old_member_cannot_join_it() {
    let names = ["m0", "m1", "m2"];
    let ports: Vec<u16> = names.iter().map(|_| free_port()).collect();
    let entries: Vec<String> = names
        .iter()
        .zip(&ports)
        .map(|(name, port)| format!("{name}=http://127.0.0.1:{port}"))
        .collect();
    let all = entries.join(",");
    let options = |number: usize| {
        Options::default().arg("--wal-segment-bytes=8MiB").member(
            names[number],
            ports[number],
            &all,
        )
    };
    let begin = |number| Server::begin(options(number));
    let mut old = Cluster::of((0..3).map(begin).collect());
    run_within(LIMIT, async {
        let leader = old.leader().await;
        let client = old.client(leader).await;
        for number in 0..30 {
            client.write(format!("k{number:02}"), "before").await;
        }
        (0..3).for_each(|number| {
            old.member_mut(number).stop();
        });
        let home = old.member(0).home().to_path_buf();
        let file = home.join("saved.kvs");
        let data = old.member(leader).data_dir().to_path_buf();
        kvutil(&["snapshot", "save", text(&file), "--data-dir", text(&data)]);
        let restored: Vec<Server> = (0..3)
            .map(|number| {
                let to = home.join(format!("restored-{number}"));
                kvutil(&[
                    "snapshot",
                    "restore",
                    text(&file),
                    "--initial-cluster",
                    &all,
                    "--name",
                    names[number],
                    "--data-dir",
                    text(&to),
                ]);
                Server::begin(options(number).data_dir(to))
            })
            .collect();
        let mut new = Cluster::of(restored);
        let leader = new.leader().await;
        let client = new.client(leader).await;
        assert_eq!(value(&client, "k07").await, "before");
        let request = api::MemberListRequest { linearizable: true };
        let members = client.member_list(request).await.expect("members").members;
        assert_eq!(members.len(), 3);

        // One of the old members comes back in the place of a new one, on the same address.
        let behind = new.others(leader)[0];
        new.member_mut(behind).stop();
        old.member_mut(behind).begin_again();
        let refused = |number: usize| old.member(number).output().contains("is of cluster");
        new.until("the old member is told whose cluster it is", async || {
            refused(behind).then_some(())
        })
        .await;
        client
            .write("after", "the new cluster goes on without it")
            .await;
        let ask = async {
            let stranger = Client::try_connect(old.member(behind).address()).await?;
            let range = api::RangeRequest {
                key: "after".into(),
                ..Default::default()
            };
            stranger.range(range).await
        };
        // It has no leader to ask: an error, or no answer.
        let answer = tokio::time::timeout(Duration::from_secs(2), ask).await;
        assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
        old.kill(behind);
        new.restart(behind);
        let client = new.client(behind).await;
        new.until(
            "the restored member has what was written meanwhile",
            async || client.read("after").await.map(|_| ()),
        )
        .await;
    });
}
