//! What members count of each other, under the names that dashboards and alerts know.

use std::time::Duration;

use kvnode_tests::pool::run_within;
use kvnode_tests::{Cluster, Options, http};

const LIMIT: Duration = Duration::from_secs(120);

/// A number of a member's, by the whole series.
fn number(cluster: &Cluster, at: usize, series: &str) -> Option<f64> {
    let metrics = http::get(cluster.member(at).address(), "/metrics").ok()?;
    let mut lines = metrics.body.lines();
    lines.find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn each_member_counts_what_goes_back_and_forth_with_every_other_one() {
    let mut cluster = Cluster::start(3, Options::default());
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        let others = cluster.others(leader);
        let mut ids = Vec::new();
        for at in 0..3 {
            let status = cluster.status(at).await.expect("status");
            ids.push(format!("{:x}", status.header.expect("a header").member_id));
        }
        let client = cluster.client(leader).await;
        let value = "v".repeat(100_000);
        for round in 0..10 {
            client.write(format!("k{round}"), &value).await;
        }
        let (local, remote) = (&ids[leader], &ids[others[0]]);
        let sent = format!("etcd_network_peer_sent_bytes_total{{To=\"{remote}\"}}");
        let received = format!("etcd_network_peer_received_bytes_total{{From=\"{local}\"}}");
        let reaches = async |at: usize, series: &str, least: f64| {
            cluster
                .until(series, async || {
                    number(&cluster, at, series).filter(|value| *value >= least)
                })
                .await
        };
        reaches(leader, &sent, 1e6).await;
        reaches(others[0], &received, 1e6).await;
        let trips = format!("etcd_network_peer_round_trip_time_seconds_count{{To=\"{remote}\"}}");
        reaches(leader, &trips, 1.0).await;
        let pair = |name: &str| format!("{name}{{Local=\"{local}\",Remote=\"{remote}\"}}");
        let known = pair("etcd_network_known_peers");
        let active = pair("etcd_network_active_peers");
        let lost = pair("etcd_network_disconnected_peers_total");
        for (series, value) in [(&known, 1.0), (&active, 1.0), (&lost, 0.0)] {
            assert_eq!(number(&cluster, leader, series), Some(value), "{series}");
        }

        cluster.kill(others[0]);
        let reaches = async |series: &str, least: f64| {
            cluster
                .until(series, async || {
                    number(&cluster, leader, series).filter(|value| *value >= least)
                })
                .await
        };
        reaches(&lost, 1.0).await;
        assert_eq!(number(&cluster, leader, &active), Some(0.0));
        assert_eq!(number(&cluster, leader, &known), Some(1.0));
        let failures = format!("etcd_network_peer_sent_failures_total{{To=\"{remote}\"}}");
        reaches(&failures, 1.0).await;
    });
}
