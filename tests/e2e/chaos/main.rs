//! Real members, real clients, real faults: three processes on loopback whose peer connections run through a network the
//! test owns, killed, stopped, cut off and replaced while clients write, read and watch.
//!
//! After every round all ways are open again and everybody runs; then
//! - every acknowledged write is there and everything there was asked for, in one order that all answers fit
//!   (`kvnode_tests::checker`, the same that judges the simulator),
//! - all members hold the same state at the same revision,
//! - every watcher has seen every change once and in order, wherever it had to go on.
//!
//! | variable | default | |
//! |---|---|---|
//! | `KVNODE_CHAOS_ROUNDS` | 8 | rounds; the first eight bring each fault once |
//! | `KVNODE_CHAOS_SEED` | the clock | repeats the choices, not the timing |
//! | `KVNODE_FAILOVER_ROUNDS` | 3 | how often the leader is killed to see when writes go on |
//!
//! The long form: `KVNODE_CHAOS_ROUNDS=400 KVNODE_FAILOVER_ROUNDS=100 cargo test --release -p kvnode-tests --test chaos --
//! --nocapture`, about half an hour.

mod clients;
mod failover;
mod faults;
mod rounds;

/// A number given by the environment.
fn given(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}
