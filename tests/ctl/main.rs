//! The client library and `kvctl` against real servers.

mod checks;
mod client;
mod cluster;
mod connecting;
mod examples;
mod holding;
mod keys;
mod table;
mod terminal;
mod tls;
mod tour;
mod watching;
