//! TLS: the only part of the node that meets the library for it.
//!
//! - `files.rs`, `names.rs`: what lies in files, and what is wrong with it;
//! - `context.rs`, `rules.rs`, `suites.rs`: what is served and asked for;
//! - `live.rs`: that, as of now: files are looked at once a second and taken over when they have changed;
//! - `auto.rs`: self-signed certificates;
//! - `registry.rs`: what a registry of founders is called with;
//! - `session.rs`, `stream.rs` (executors), `blocking.rs` (threads), `handshake.rs`: connections;
//! - `address.rs`: whether a member's certificate fits the address it calls from.
//!
//! Sessions are never resumed: each connection shows its certificate anew, so that a revocation counts from the next
//! connection on.

mod address;
mod auto;
mod blocking;
mod context;
mod files;
mod handshake;
mod live;
mod metrics;
mod names;
mod registry;
mod rules;
mod session;
mod stream;
pub mod suites;
#[cfg(test)]
mod tests;

pub(crate) use blocking::Link;
pub use files::FileError;
pub use handshake::Holder;
pub(crate) use handshake::{HandshakeError, NOT_HERE, accept, check_address, holder};
pub(crate) use live::Live;
pub use live::Tls;
pub(crate) use live::calls;
pub(crate) use registry::registry;
pub(crate) use stream::Stream;

/// What members, or a registry, are called with, as of one moment.
pub(crate) type Calling = std::sync::Arc<rustls::ClientConfig>;
