//! One sector of the log goes bad under the only second copy of acknowledged writes. Known from etcd 3.5: the member starts,
//! shorter by all that stood behind the sector, a leader is elected, and the writes are gone without a word.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvnode_tests::pool::run_within;
use kvnode_tests::words::*;
use kvnode_tests::{Cluster, Options, http};

const LIMIT: Duration = Duration::from_secs(180);
const SECTOR: u64 = 512;
const WRITES: usize = 60;

/// Where in a member's log a value stands.
struct Place {
    file: PathBuf,
    offset: u64,
}

fn value(number: usize) -> String {
    format!("acknowledged-{number:04}-{}", "-".repeat(700))
}

fn find(data: &Path, needle: &[u8]) -> Place {
    for entry in std::fs::read_dir(data.join("wal")).expect("a log") {
        let file = entry.expect("listed").path();
        if file.extension().is_none_or(|extension| extension != "wal") {
            continue;
        }
        let bytes = std::fs::read(&file).expect("readable");
        let at = bytes
            .windows(needle.len())
            .position(|window| window == needle);
        if let Some(at) = at {
            let offset = at as u64 / SECTOR * SECTOR;
            return Place { file, offset };
        }
    }
    panic!("no segment holds what was acknowledged");
}

/// Puts these bytes there and returns what stood there before.
fn exchange(place: &Place, bytes: [u8; SECTOR as usize]) -> [u8; SECTOR as usize] {
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&place.file)
        .expect("our own");
    let mut before = [0; SECTOR as usize];
    file.seek(SeekFrom::Start(place.offset)).expect("seek");
    file.read_exact(&mut before).expect("a whole sector");
    file.seek(SeekFrom::Start(place.offset)).expect("seek");
    file.write_all(&bytes).expect("written");
    before
}

#[test]
fn a_zeroed_sector_under_the_only_second_copy_stops_the_start_and_is_named() {
    let mut cluster = Cluster::start(3, Options::default().fsync());
    run_within(LIMIT, async {
        let first = cluster.leader().await;
        let [damaged, lagging] = cluster.others(first)[..] else {
            panic!("three members");
        };
        cluster.kill(lagging);
        let writer = cluster.client(first).await;
        for number in 0..WRITES {
            writer.write(format!("k{number:04}"), value(number)).await;
        }
        cluster.kill(first);
        cluster.kill(damaged);

        // Half of what was acknowledged stands behind it.
        let needle = value(WRITES / 2);
        let place = find(cluster.member(damaged).data_dir(), &needle.as_bytes()[..24]);
        let good = exchange(&place, [0; SECTOR as usize]);
        cluster.member_mut(lagging).begin_again();
        let server = cluster.member_mut(damaged);
        let refused = server.try_restart().expect_err("it must not start");
        let status = refused.status.expect("it ends by itself");
        assert_eq!(status.code(), Some(3), "{}", refused.output);
        let file = place.file.file_name().and_then(|name| name.to_str());
        let told = refused
            .output
            .lines()
            .rfind(|line| line.contains(file.expect("a name")))
            .unwrap_or_else(|| panic!("no line names {file:?}: {}", refused.output));
        let offset = told
            .split("offset ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let offset = offset.and_then(|number| number.parse().ok());
        let batch = 64 << 10;
        let near = place.offset.saturating_sub(batch)..=place.offset;
        assert!(offset.is_some_and(|at: u64| near.contains(&at)), "{told}");
        for part in ["offset ", "entries "] {
            assert!(
                refused.output.contains(part),
                "{part:?}: {}",
                refused.output
            );
        }
        // What to type is said once, behind what is wrong.
        let line = |word: &str| {
            let mut lines = refused.output.lines();
            let line = lines.find(|line| line.starts_with(word));
            line.unwrap_or_else(|| panic!("no {word}: {}", refused.output))
        };
        assert!(!line("error: ").contains("kvutil"), "{}", refused.output);
        let hint = line("hint: ");
        assert_eq!(hint.matches("kvutil wal repair").count(), 1, "{hint}");
        // Nobody serves a shorter history meanwhile.
        let alone = cluster.member(lagging).address();
        let health = http::get(alone, "/health");
        assert!(!health.is_ok_and(|health| health.status == 200));

        // The refusal has changed nothing: with the sector back everything is.
        exchange(&place, good);
        cluster.member_mut(damaged).begin_again();
        for number in [damaged, lagging] {
            cluster.member_mut(number).wait_until_serving();
            let client = cluster.client(number).await;
            let kvs = client.range(span("k", "l")).await.expect("a read").kvs;
            assert_eq!(kvs.len(), WRITES);
            for (number, kv) in kvs.iter().enumerate() {
                assert_eq!(kv.value, value(number).as_bytes());
            }
        }
    });
}
