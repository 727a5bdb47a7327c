//! Making a cluster of a snapshot: who belongs to it and under which ids (`ids.rs`, `topology.rs`), written down once for
//! all members if wanted (`plan.rs`), and the data directory itself (`build.rs`).

pub mod build;
pub mod ids;
pub mod plan;
pub mod topology;
