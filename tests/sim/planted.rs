//! Defects put in on purpose. Each must be found within 500 seeds, or the suite itself is defective.

use kvnode_tests::sim::{Plan, Plant, run};

const SEEDS_MAX: u64 = 500;

/// Which seed finds it, and what it says.
fn found(plant: Plant) -> (u64, String) {
    for seed in 0..SEEDS_MAX {
        // Some defects are met by an assertion inside a crate first: that finds them, too.
        let outcome = std::panic::catch_unwind(|| run(Plan::of_seed(seed).plant(plant)));
        match outcome {
            Ok(report) => {
                if let Some(violation) = report.violation {
                    return (seed, violation);
                }
            }
            Err(_) => return (seed, "a panic".to_owned()),
        }
    }
    panic!("{plant:?} was not found in {SEEDS_MAX} seeds");
}

/// What is found has to do with the defect.
fn finds(plant: Plant, words: &[&str]) {
    let (seed, violation) = found(plant);
    println!("{plant:?}: seed {seed}: {violation}");
    let fits = words.iter().any(|word| violation.contains(word));
    assert!(fits, "{plant:?} was found as something else: {violation}");
}

#[test]
fn a_log_that_is_not_synced_is_found() {
    finds(Plant::SkipFsync, &["durable", "refuses to start"]);
}

#[test]
fn an_answer_before_the_sync_is_found() {
    finds(Plant::AnswerBeforeSync, &["durable"]);
}

#[test]
fn an_answer_before_the_quorum_has_it_is_found() {
    finds(Plant::AnswerBeforeQuorum, &["committed while durable on"]);
}

#[test]
fn a_read_without_asking_the_quorum_is_found() {
    finds(Plant::ReadWithoutIndex, &["Stale", "future"]);
}

#[test]
fn a_read_before_its_index_is_applied_is_found() {
    finds(Plant::ReadBeforeApply, &["Stale", "future"]);
}

#[test]
fn a_forgotten_vote_is_found() {
    finds(Plant::ForgetVote, &["vote"]);
}

#[test]
fn an_entry_applied_twice_after_a_restart_is_found() {
    finds(
        Plant::ApplyTwice,
        &[
            "differently",
            "another at",
            "states differ",
            "the next one is",
        ],
    );
}

#[test]
fn a_compaction_that_takes_its_own_revision_away_is_found() {
    finds(
        Plant::DropBoundaryTombstone,
        &["watch at", "not strictly serializable"],
    );
}

#[test]
fn a_proposal_that_is_forwarded_again_is_found() {
    finds(Plant::ForwardAgain, &["executed twice"]);
}

#[test]
fn a_directory_that_is_not_synced_is_found() {
    finds(
        Plant::SkipDirSync,
        &["no log", "durable", "refuses to start"],
    );
}

#[test]
fn a_lease_that_ends_by_a_followers_clock_is_found() {
    finds(Plant::EveryClockExpires, &["ends lease"]);
}

#[test]
fn watchers_that_miss_an_installed_snapshot_are_found() {
    finds(
        Plant::WatchesMissSnapshot,
        &["watch at", "was not told of everything"],
    );
}
