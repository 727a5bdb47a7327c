//! A whole cluster in one thread: the real replica, log and store of several members over a simulated
//! clock, network and disk, with clients, watchers, and somebody who makes things go wrong.
//!
//! One seed gives one run, to the last event; two runs of a seed have the same fingerprint. What must
//! hold is checked after every event (`checks.rs`) and, for what clients were told, at the end
//! (`run.rs`, `watching.rs`, and the checker of all whole-system tests).
//!
//! ```text
//! cargo run --release -p kvnode-tests --bin kvsim -- --seeds 0..10000    many seeds, all processors
//! cargo run --release -p kvnode-tests --bin kvsim -- --seed 17 --verbose one seed again
//! ```
//!
//! `member.rs`, `node.rs` and `streams.rs` put the parts together as the node does. Defects are
//! planted there on purpose ([`Plant`]); a suite that does not find each of them is itself
//! defective.

mod asks;
mod chance;
mod checks;
mod clients;
mod disk;
mod engine;
mod member;
mod nemesis;
mod node;
mod plan;
mod run;
mod shadow;
mod streams;
mod watchers;
mod watching;
mod world;

pub use asks::{Ask, Reply};
pub use checks::Counts;
pub use disk::{Damage, Fault};
pub use member::{Member, Process};
pub use plan::{CALM_NET, MS, Plan, Plant, SECOND, TICK};
pub use run::{Report, begin, run, run_seed};
pub use watchers::Watcher;
pub use watching::check as check_watcher;
pub use watching::is_complete;
pub use world::World;
