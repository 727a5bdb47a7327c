//! Making a cluster of a snapshot: who belongs to it and under which ids (`ids.rs`, `topology.rs`), written down once for
//! all members if wanted (`plan.rs`), and the data directory itself: the file is checked (`examine.rs`), its records are
//! cut into runs of keys (`pieces.rs`) and turned into tables (`build.rs`), and those are read back (`read_back.rs`).

pub mod build;
pub mod examine;
pub mod ids;
mod pieces;
pub mod plan;
mod read_back;
pub mod topology;
