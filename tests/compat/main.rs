//! Clients that other people wrote, against the server: Debian's `etcdctl`, `curl`, two Python clients, Go's clientv3.
//!
//! What is not installed is skipped with its reason, so that the tests run anywhere; where they must not
//! be skipped, `KVNODE_TEST_REQUIRE=etcdctl,curl,python,go` turns a missing tool into a failure.

mod curl;
mod etcdctl;
mod go;
mod python;
mod tls;
mod tool;
