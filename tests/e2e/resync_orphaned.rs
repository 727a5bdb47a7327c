//! The leader dies while its state is on the way to a member that is re-synced: that member has the state it had, fenced as
//! before, says what to type next, and gets the next leader's.

use std::time::{Duration, Instant};

use kvnode_api as api;
use kvnode_tests::pool::run_within;
use kvnode_tests::proxy::{Network, Way};
use kvnode_tests::words::*;
use kvnode_tests::{Cluster, Options};

use crate::tampered::{LIMIT, hash, once_fenced, once_the_same, resync, serializable, tamper};

/// Bytes of the state, which nothing makes shorter: at the pace of snapshots half a second's worth.
const VALUES: u64 = 100;
const VALUE_BYTES: usize = 500_000;

fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..VALUE_BYTES / 8)
        .flat_map(|_| next().to_le_bytes())
        .collect()
}

#[test]
fn a_leader_that_dies_in_the_midst_of_a_re_sync_leaves_the_member_fenced_and_the_next_one_s_state_is_taken()
 {
    let network = Network::default();
    let options = Options::default().arg("--corrupt-check-time=500ms");
    let mut cluster = Cluster::start_through(&network, 3, options);
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        let (bad, third) = (cluster.others(leader)[0], cluster.others(leader)[1]);
        let mut ids = Vec::new();
        for number in 0..3 {
            let status = cluster.status(number).await.expect("status");
            ids.push(status.header.expect("a header").member_id);
        }
        let writer = cluster.client(leader).await;
        writer.write("k07", "as written").await;
        for number in 0..VALUES {
            writer.write(format!("v{number:03}"), noise(number)).await;
        }
        assert!(cluster.member_mut(bad).stop().success());
        let data = cluster.member(bad).data_dir().to_owned();
        tamper(&data, "k07");
        cluster.restart(bad);
        let old = serializable("k07");
        let fenced = once_fenced(&cluster, bad, &old).await;

        // As soon as the state begins to arrive nothing more of the leader does.
        let at = data.clone();
        let asked = tokio::task::spawn_blocking(move || resync(&at, &["--apply"]));
        let begun = Instant::now();
        while !data.join("kv.staged.creating").exists() {
            assert!(!asked.is_finished() && begun.elapsed() < LIMIT, "it comes");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        network.set(ids[leader], ids[bad], Way::Hold);
        cluster.kill(leader);
        assert!(!data.join("kv.staged").exists(), "not all of it has come");
        network.heal();

        let ended = asked.await.expect("it ended");
        ended.fails(1, "the state was not replaced");
        ended.fails(1, "does not lead any more");
        ended.fails(1, "the member has the state it had");
        ended.fails(1, "next:  kvutil data resync --live --data-dir");
        refused(fenced.range(old.clone()).await, refusal::corrupt());

        // Whoever leads now, it is not to be the one whose state is wrong.
        let target_id = ids[third];
        cluster
            .until("the third leads", async || {
                let _ = fenced
                    .move_leader(api::MoveLeaderRequest { target_id })
                    .await;
                (cluster.leader().await == third).then_some(())
            })
            .await;
        let done = resync(&data, &["--apply", "-w", "json"]);
        assert!(
            done.stderr.contains("next:  kvctl alarm disarm"),
            "{done:?}"
        );
        let done: serde_json::Value = serde_json::from_str(&done.ok()).expect("JSON");
        assert_eq!(done["verdict"], "same", "{done}");
        assert_eq!(done["agreeing"], 2, "{done}");
        refused(fenced.range(old.clone()).await, refusal::corrupt());

        cluster.restart(leader);
        let through = cluster.client(third).await;
        // Beside the member's own there is one of member 0 by now: two that differ are no majority.
        let alarms = through.alarm(api::AlarmRequest::default()).await;
        for alarm in alarms.expect("asked").alarms {
            let off = api::AlarmRequest {
                action: number::ALARM_DEACTIVATE,
                member_id: alarm.member_id,
                alarm: alarm.alarm,
            };
            through.alarm(off).await.expect("taken off");
        }
        let right = cluster
            .until("it serves", async || fenced.range(old.clone()).await.ok())
            .await;
        assert_eq!(&right.kvs[0].value[..], b"as written");
        let last = through.write("k07", "after").await;
        let wanted = hash(&through, last).await;
        for number in [bad, leader] {
            once_the_same(&cluster, &cluster.client(number).await, last, wanted).await;
        }
    });
}
