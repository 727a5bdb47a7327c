//! The client library's examples, run against a server; each asserts what it shows.

use kvnode_tests::{Options, Server};

#[path = "../../client/examples/blocking.rs"]
#[allow(dead_code, reason = "its main is for people")]
mod blocking;
#[path = "../../client/examples/keys.rs"]
#[allow(dead_code, reason = "its main is for people")]
mod keys;
#[path = "../../client/examples/lock.rs"]
#[allow(dead_code, reason = "its main is for people")]
mod lock;
#[path = "../../client/examples/watch.rs"]
#[allow(dead_code, reason = "its main is for people")]
mod watch;

#[test]
fn the_examples_of_the_client_library_do_what_they_say() {
    let server = Server::start(Options::default());
    let endpoint = server.url();
    blocking::example(&endpoint).expect("blocking");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        keys::example(&endpoint).await.expect("keys");
        watch::example(&endpoint).await.expect("watch");
        lock::example(&endpoint).await.expect("lock");
    });
}
