//! The client library and `kvctl` against real servers.

mod client;
mod table;
mod terminal;
mod tls;
mod tool;
mod tours;
