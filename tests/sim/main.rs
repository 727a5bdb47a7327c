//! The simulator: random runs, planted defects, and one scenario per known hazard.
//!
//! `KVNODE_SIM_SEEDS=10000` runs more random seeds than usual; for long runs the program `kvsim` of
//! this package is the better tool: it prints one line per failing seed, which runs it again.

mod planted;
mod scenarios;

use kvnode_tests::sim::{Counts, Report, run_seed};

/// Fixed seeds of every test run.
const SEEDS: u64 = 1500;

fn seeds() -> u64 {
    let told = std::env::var("KVNODE_SIM_SEEDS").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

fn swarm(from: u64, to: u64) -> Counts {
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    for seed in from..to {
        let report = run_seed(seed);
        counts.add(&report.counts);
        if let Some(violation) = report.violation {
            failed.push(format!("kvsim --seed {seed}   # {violation}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    counts
}

#[test]
fn nothing_promised_is_broken_in_random_runs() {
    let half = seeds() / 2;
    let mut counts = std::thread::scope(|scope| {
        let other = scope.spawn(move || swarm(half, 2 * half));
        let mut counts = swarm(0, half);
        counts.add(&other.join().expect("the seeds above say why"));
        counts
    });
    println!("{counts:?}");
    // A run that does nothing proves nothing.
    counts.events /= seeds();
    let enough = counts.events > 2000
        && counts.committed > 50 * seeds()
        && counts.power_cuts > 5 * seeds()
        && counts.snapshots > seeds() / 4
        && counts.conf_changes > seeds() / 4
        && counts.damages > seeds() / 10
        && counts.refusals > seeds() / 20
        && counts.watch_cancels > seeds() / 5
        && counts.expired > seeds();
    assert!(enough, "{counts:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let mut hashes = Vec::new();
    for seed in 0..12 {
        let (a, b): (Report, Report) = (run_seed(seed), run_seed(seed));
        assert_eq!(a, b);
        hashes.push(a.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 12, "different seeds run differently");
}
