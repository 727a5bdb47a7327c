//! The tree against its own rules: who may know what, what may not be left behind, how files look.
//!
//! These tests read source text; they build nothing and need no git. They see every file under the
//! workspace except build output and hidden directories (`.ci` is seen).

mod crates;
mod dependencies;
mod leftovers;
mod looks;
mod packaging;
mod tree;
