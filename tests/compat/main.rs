//! Clients that other people wrote, against the server: Debian's `etcdctl`, a Python client, Go's clientv3.
//!
//! What is not installed is skipped with its reason, so that the tests run anywhere; where they must not
//! be skipped, `KVNODE_TEST_REQUIRE=etcdctl,python,go` turns a missing tool into a failure.

mod etcdctl;
mod go;
mod python;
mod tls;
mod tool;
