//! The client library and `kvctl` against real servers.

mod client;
mod table;
mod tool;
mod tours;
