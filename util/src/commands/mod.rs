//! One directory per group, one file per verb; the front doors only dispatch.

pub mod data;
pub mod disk;
pub mod hashkv;
pub mod kv;
pub mod manual;
pub mod snapshot;
pub mod support;
pub mod version;
pub mod wal;
