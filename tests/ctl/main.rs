//! The client library and `kvctl` against real servers.

mod client;
