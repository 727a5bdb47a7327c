//! The state of one member is not that of the others: it is found, the member shows nothing of it to anybody, its data stay
//! for whoever examines them, and a new member takes its place, or the member itself gets the right state.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kvnode_api as api;
use kvnode_store::engine::fjall::{FjallEngine, Options as EngineOptions};
use kvnode_store::engine::{Batch, Engine, Persister, Space};
use kvnode_store::schema;
use kvnode_tests::pool::run_within;
use kvnode_tests::program::{self, Ran};
use kvnode_tests::server::free_port;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options, Server, build, http};

pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// Another value under the key than was ever written, in the store of a member that is stopped.
pub(crate) fn tamper(data: &Path, key: &str) {
    let mut engine =
        FjallEngine::open(&data.join("kv"), &EngineOptions::default()).expect("an engine");
    let head_key = schema::head_key(key.as_bytes());
    let head = engine
        .latest_get(Space::State, &head_key)
        .expect("readable")
        .expect("the key is there");
    // The value stands at the end of the record.
    let mut head = head.to_vec();
    *head.last_mut().expect("a value") ^= 1;
    let mut batch = Batch::new();
    batch.put(Space::State, head_key, head);
    engine.commit(batch).expect("written");
    engine.persister().persist().expect("synced");
    engine.close().expect("closed");
}

/// How many comparisons made by the members that run came to this.
fn checks(cluster: &Cluster, result: &str) -> u64 {
    let name = format!("kvnode_integrity_checks_total{{result=\"{result}\"}} ");
    let count = |number: usize| {
        let metrics = http::get(cluster.member(number).address(), "/metrics");
        let metrics = metrics.expect("an answer").body;
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("the family is there")
            .parse::<u64>()
            .expect("a count")
    };
    cluster.running().into_iter().map(count).sum()
}

/// Waits until the member behind `client` has at `revision` what was found elsewhere.
pub(crate) async fn once_the_same(
    cluster: &Cluster,
    client: &Client,
    revision: i64,
    wanted: Option<(u32, i64)>,
) {
    assert!(wanted.is_some());
    cluster
        .until("it has the same", async || {
            (hash(client, revision).await == wanted).then_some(())
        })
        .await;
}

pub(crate) async fn hash(client: &Client, revision: i64) -> Option<(u32, i64)> {
    let answer = client.hash_kv(api::HashKVRequest { revision }).await.ok()?;
    Some((answer.hash, answer.compact_revision))
}

pub(crate) fn serializable(key: &str) -> api::RangeRequest {
    api::RangeRequest {
        serializable: true,
        ..get(key)
    }
}

/// A client of the member, as soon as that refuses the read.
pub(crate) async fn once_fenced(
    cluster: &Cluster,
    number: usize,
    read: &api::RangeRequest,
) -> Client {
    let client = cluster.client(number).await;
    cluster
        .until("it is fenced", async || {
            (client.range(read.clone()).await == Err(refusal::corrupt())).then_some(())
        })
        .await;
    client
}

#[test]
fn a_member_whose_store_was_changed_is_found_and_fenced_and_a_new_one_takes_its_place() {
    let options = Options::default().arg("--corrupt-check-time=500ms");
    let mut cluster = Cluster::start(3, options.clone());
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        let bad = cluster.others(leader)[0];
        let writer = cluster.client(leader).await;
        for number in 0..20 {
            writer.write(format!("k{number:02}"), "as written").await;
        }
        let id = cluster.status(bad).await.expect("status");
        let id = id.header.expect("a header").member_id;
        cluster
            .until("all three were compared", async || {
                (checks(&cluster, "verified") > 0).then_some(())
            })
            .await;

        // What is not there cannot be verified, and is never counted as if it were.
        assert!(cluster.member_mut(bad).stop().success());
        let unverified = async |more: u64| {
            let before = checks(&cluster, "unverified");
            cluster
                .until("comparisons without it", async || {
                    (checks(&cluster, "unverified") >= before + more).then_some(())
                })
                .await;
        };
        unverified(1).await;
        let verified = checks(&cluster, "verified");
        unverified(2).await;
        assert_eq!(checks(&cluster, "verified"), verified);
        assert_eq!(checks(&cluster, "corrupt"), 0);

        let data = cluster.member(bad).data_dir().to_owned();
        tamper(&data, "k07");
        cluster.restart(bad);
        let alarms = cluster
            .until("the alarm is raised", async || {
                let answer = writer.alarm(api::AlarmRequest::default()).await.ok()?;
                (!answer.alarms.is_empty()).then_some(answer.alarms)
            })
            .await;
        assert_eq!(alarms.len(), 1, "{alarms:?}");
        assert_eq!(
            (alarms[0].member_id, alarms[0].alarm),
            (id, number::CORRUPT)
        );
        assert!(checks(&cluster, "corrupt") > 0);
        assert_eq!(checks(&cluster, "verified"), verified);

        // It serves nothing; the others serve reads, and take no writes while the alarm stands.
        let old = serializable("k07");
        let fenced = once_fenced(&cluster, bad, &old).await;
        refused(fenced.range(get("k07")).await, refusal::corrupt());
        refused(fenced.put(put("k07", "x")).await, refusal::corrupt());
        let right = writer.read("k07").await.expect("it is there");
        assert_eq!(&right.value[..], b"as written");
        refused(writer.put(put("k07", "x")).await, refusal::corrupt());

        // A restart does not make it forget, and its data are as they were.
        assert!(cluster.member_mut(bad).stop().success());
        cluster.restart(bad);
        let fenced = cluster.client(bad).await;
        refused(fenced.range(old).await, refusal::corrupt());

        // The operator's way back: remove it, take the alarm off, add a new one.
        let url = cluster.member(bad).peer_url();
        cluster
            .until("it is removed", async || {
                let remove = api::MemberRemoveRequest { id };
                writer.member_remove(remove).await.ok()
            })
            .await;
        let off = api::AlarmRequest {
            action: number::ALARM_DEACTIVATE,
            member_id: id,
            alarm: number::CORRUPT,
        };
        writer.alarm(off).await.expect("taken off");
        writer.write("k07", "written again").await;
        let begun = Instant::now();
        while cluster.member_mut(bad).ended().is_none() {
            assert!(begun.elapsed() < LIMIT, "it goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let port = free_port();
        let new_url = format!("http://127.0.0.1:{port}");
        let add = api::MemberAddRequest {
            peer_urls: vec![new_url],
            is_learner: false,
        };
        let all = cluster
            .until("a new one is added", async || {
                writer.member_add(add.clone()).await.ok()
            })
            .await
            .members;
        let entries = all.iter().map(|member| {
            let name = match &member.name[..] {
                "" => "new",
                name => name,
            };
            format!("{name}={}", member.peer_urls[0])
        });
        let entries: Vec<String> = entries.collect();
        let options = options
            .member("new", port, entries.join(","))
            .arg("--initial-cluster-state=existing");
        let new = cluster.push(Server::start(options));
        let last = writer.write("k08", "after").await;
        let wanted = hash(&writer, last).await;
        assert!(wanted.is_some());
        let newcomer = cluster.client(new).await;
        cluster
            .until("the new one has all of it", async || {
                let found = hash(&newcomer, last).await;
                (found.is_some() && found == wanted).then_some(())
            })
            .await;
        let before = checks(&cluster, "verified");
        cluster
            .until("all three were compared again", async || {
                (checks(&cluster, "verified") > before).then_some(())
            })
            .await;
        assert!(data.join("kv").is_dir(), "kept for whoever examines it");
        assert_eq!(cluster.member(bad).peer_url(), url);
    });
}

fn kvutil(words: &[&str], data: &Path, more: &[&str]) -> Ran {
    let mut command = Command::new(build::tool("kvutil"));
    command.args(words).arg("--data-dir").arg(data).args(more);
    program::run(command, "", LIMIT)
}

pub(crate) fn resync(data: &Path, more: &[&str]) -> Ran {
    kvutil(&["data", "resync", "--live"], data, more)
}

/// The value of a key in an engine that nobody has open.
fn value_in(engine: &Path, key: &str) -> Vec<u8> {
    let engine = FjallEngine::open(engine, &EngineOptions::default()).expect("an engine");
    let head = engine
        .latest_get(Space::State, &schema::head_key(key.as_bytes()))
        .expect("readable")
        .expect("the key is there");
    let value = head[head.len() - b"as written".len()..].to_vec();
    engine.close().expect("closed");
    value
}

#[test]
fn a_fenced_member_is_re_synced_on_request_and_its_old_state_is_kept() {
    let options = Options::default().arg("--corrupt-check-time=500ms");
    let mut cluster = Cluster::start(3, options);
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        let bad = cluster.others(leader)[0];
        let writer = cluster.client(leader).await;
        for number in 0..20 {
            writer.write(format!("k{number:02}"), "as written").await;
        }
        let data = cluster.member(bad).data_dir().to_owned();

        // Nobody is re-synced who leads, who has nothing wrong with it, or who does not run.
        let leading = resync(cluster.member(leader).data_dir(), &["--unfenced"]);
        leading.fails(7, "this member leads");
        leading.fails(7, "next:  kvctl move-leader MEMBER_ID");
        resync(&data, &["--apply"]).fails(7, "no CORRUPT alarm names this member");
        assert!(cluster.member_mut(bad).stop().success());
        resync(&data, &[]).fails(1, "no node runs there");

        tamper(&data, "k07");
        cluster.restart(bad);
        let old = serializable("k07");
        let fenced = once_fenced(&cluster, bad, &old).await;

        // Leading, it is refused as any leader is, and gives its state to nobody.
        let id = cluster.status(bad).await.expect("status");
        let id = id.header.expect("a header").member_id;
        let lead = |target_id| api::MoveLeaderRequest { target_id };
        let usual = cluster.status(leader).await.expect("status");
        let usual = usual.header.expect("a header").member_id;
        cluster
            .until("it leads", async || {
                let _ = writer.move_leader(lead(id)).await;
                (cluster.leader().await == bad).then_some(())
            })
            .await;
        resync(&data, &["--apply"]).fails(7, "this member leads");
        let other = (0..3).find(|number| ![leader, bad].contains(number));
        let other = cluster.member(other.expect("three members")).data_dir();
        let asked = resync(other, &["--apply", "--unfenced"]);
        asked.fails(1, "its own state differs from the majority's");
        cluster
            .until("the usual one leads", async || {
                let _ = fenced.move_leader(lead(usual)).await;
                (cluster.leader().await == leader).then_some(())
            })
            .await;

        // The plan says where and from whom, and changes nothing.
        let plan = resync(&data, &[]);
        assert!(plan.stderr.contains("--apply"), "{plan:?}");
        let plan = plan.ok();
        assert!(plan.contains("fenced by a CORRUPT alarm"), "{plan}");
        assert!(plan.contains("nothing was changed"), "{plan}");
        refused(fenced.range(old.clone()).await, refusal::corrupt());

        let done = resync(&data, &["--apply", "-w", "json"]);
        assert!(
            done.stderr.contains("next:  kvctl alarm disarm"),
            "{done:?}"
        );
        let done: serde_json::Value = serde_json::from_str(&done.ok()).expect("JSON");
        assert_eq!(done["verdict"], "same", "{done}");
        assert_eq!(
            (&done["agreeing"], &done["members"]),
            (&3.into(), &3.into())
        );
        // It serves nothing before the operator has taken the alarm off.
        assert_eq!(done["fenced"], true);
        refused(fenced.range(old.clone()).await, refusal::corrupt());

        let off = api::AlarmRequest {
            action: number::ALARM_DEACTIVATE,
            member_id: id,
            alarm: number::CORRUPT,
        };
        writer.alarm(off).await.expect("taken off");
        let right = cluster
            .until("it serves", async || fenced.range(old.clone()).await.ok())
            .await;
        assert_eq!(&right.kvs[0].value[..], b"as written");
        let last = fenced.write("k07", "after").await;
        let wanted = hash(&writer, last).await;
        once_the_same(&cluster, &fenced, last, wanted).await;
        let verified = checks(&cluster, "verified");
        cluster
            .until("all three were compared again", async || {
                (checks(&cluster, "verified") > verified).then_some(())
            })
            .await;
        let alarms = writer.alarm(api::AlarmRequest::default()).await;
        assert!(alarms.expect("asked").alarms.is_empty());

        // The state that was wrong is there for whoever examines it, and stays.
        let kept = done["kept"].as_str().expect("a path");
        let kept = Path::new(kept);
        cluster
            .until("it is put aside", async || kept.is_dir().then_some(()))
            .await;
        assert!(kept.starts_with(data.join("quarantine")), "{kept:?}");
        assert_eq!(value_in(kept, "k07"), b"as writteo");
        assert!(cluster.member_mut(bad).stop().success());
        let listed = kvutil(&["data", "gc"], &data, &[]).ok();
        assert!(
            listed.contains("-resync") && listed.contains("1 could be removed"),
            "{listed}"
        );
        kvutil(&["data", "check"], &data, &[]).ok();
        cluster.restart(bad);
        let again = cluster.client(bad).await;
        let read = cluster
            .until("it serves again", async || {
                again.range(get("k07")).await.ok()
            })
            .await;
        assert_eq!(&read.kvs[0].value[..], b"after");
        assert!(kept.is_dir());
    });
}

/// Under writes: what is written while the state travels is in it in the end, and nobody who is connected with the member
/// notices anything.
#[test]
fn a_member_is_re_synced_while_everybody_writes_and_a_watcher_on_it_misses_nothing() {
    let cluster = Cluster::start(3, Options::default());
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        let chosen = cluster.others(leader)[0];
        let (writer, through) = (cluster.client(leader).await, cluster.client(chosen).await);
        for number in 0..300 {
            writer
                .write(format!("k{number:03}"), vec![b'v'; 4000])
                .await;
        }
        // Asked of the member that is watched: it has all writes by then, and the watcher gets none of them.
        let mut last = through.revision().await;
        let mut watching = through.watching().await;
        watching.create(watch_span("k", "l")).await;
        let data = cluster.member(chosen).data_dir().to_owned();
        let first = last + 1;
        for _ in 0..3 {
            let data = data.clone();
            let asked = tokio::task::spawn_blocking(move || {
                resync(&data, &["--apply", "--unfenced", "-w", "json"])
            });
            let mut number = 0;
            while !asked.is_finished() {
                let client = if number % 2 == 0 { &writer } else { &through };
                last = client.write(format!("k{:03}", number % 300), "new").await;
                number += 1;
            }
            let done = asked.await.expect("it ran").ok();
            let done: serde_json::Value = serde_json::from_str(&done).expect("JSON");
            assert_eq!(done["verdict"], "same", "{done}");
            assert!(number > 0, "something was written meanwhile");
        }
        let mut next = first;
        while next <= last {
            for event in watching.next().await.events {
                let revision = event.kv.expect("a pair").mod_revision;
                assert_eq!(revision, next, "one write each, none left out");
                next += 1;
            }
        }
        let wanted = hash(&writer, last).await;
        once_the_same(&cluster, &through, last, wanted).await;
    });
}

/// Whatever is there when the process dies, the next start makes one whole state of it, and another re-sync goes through.
#[test]
fn kill_9_at_any_moment_of_a_re_sync_leaves_a_member_that_has_a_whole_state() {
    let mut cluster = Cluster::start(3, Options::default());
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        let chosen = cluster.others(leader)[0];
        let writer = cluster.client(leader).await;
        for number in 0..300 {
            writer
                .write(format!("k{number:03}"), vec![b'v'; 4000])
                .await;
        }
        let data = cluster.member(chosen).data_dir().to_owned();
        for round in 0..8 {
            let last = writer.write("k000", format!("round {round}")).await;
            let wanted = hash(&writer, last).await;
            let at = data.clone();
            let asked =
                tokio::task::spawn_blocking(move || resync(&at, &["--apply", "--unfenced"]));
            tokio::time::sleep(Duration::from_millis(60 * round)).await;
            cluster.kill(chosen);
            let ended = asked.await.expect("it ended");
            // Done, broken off, or refused because the member had not heard of its leader yet.
            assert!([0, 1, 7].contains(&ended.code), "{ended:?}");
            cluster.restart(chosen);
            let again = cluster.client(chosen).await;
            cluster
                .until("it has the same", async || {
                    let found = hash(&again, last).await;
                    (found.is_some() && found == wanted).then_some(())
                })
                .await;
            for name in ["kv.keep", "kv-1", "kv.staged"] {
                assert!(!data.join(name).exists(), "{name} after round {round}");
            }
        }
        cluster
            .until("it is re-synced", async || {
                let ran = resync(&data, &["--apply", "--unfenced"]);
                ran.success().then_some(())
            })
            .await;
    });
}
