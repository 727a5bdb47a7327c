//! Running other people's programs.

pub use kvnode_tests::program::{Guard, Ran as Output, run, skip};
