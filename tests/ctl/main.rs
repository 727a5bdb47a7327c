//! The client library and `kvctl` against real servers.

mod client;
mod table;
mod tls;
mod tool;
mod tours;
