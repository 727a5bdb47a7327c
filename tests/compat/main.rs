//! Clients that other people wrote, against the server: etcdctl of two releases, `curl`, two Python clients, Go's clientv3 of
//! two releases, a Rust crate, an npm package. Each also goes through all it can do on a cluster of three with TLS and users
//! whose leader dies meanwhile (`secure.rs`).
//!
//! What is not installed is skipped with its reason, so that the tests run anywhere; where they must not
//! be skipped, `KVNODE_TEST_REQUIRE=etcdctl,curl,python,go,node,protoc` turns a missing tool into a failure.

mod curl;
mod etcdctl;
mod etcdctl_tour;
mod go;
mod node;
mod python;
mod rust;
mod secure;
mod tls;
mod tool;
