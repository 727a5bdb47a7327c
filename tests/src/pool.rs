//! Running a test body against a server nobody else uses meanwhile.
//!
//! [`idle`] hands out servers again and again (wiped between tests: no keys, no leases; the revision goes
//! on), [`fresh`] starts a new one. Both run the body on a small runtime of its own under a time limit.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kvnode_api as api;

use crate::client::Client;
use crate::server::{Options, Server};
use crate::words::everything;

/// No test of one promise takes longer; the limit turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// Servers that wait for the next test of this process; at most one per test thread ever exists.
static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// Runs a test on a wiped server that may have a past: revisions are relative to what it says.
pub fn idle(body: impl AsyncFnOnce(&Server, Client)) {
    let waiting = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let server = waiting.unwrap_or_else(|| Server::start(Options::default()));
    run(async {
        let client = Client::connect(server.address()).await;
        wipe(&client).await;
        body(&server, client).await;
    });
    // Not reached when the test failed: such a server is printed and dropped, not handed on.
    IDLE.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(server);
}

/// Runs a test on a new, empty server.
pub fn fresh(body: impl AsyncFnOnce(&mut Server, Client)) {
    fresh_with(Options::default(), body);
}

/// Runs a test on a new, empty server started this way.
pub fn fresh_with(options: Options, body: impl AsyncFnOnce(&mut Server, Client)) {
    let mut server = Server::start(options);
    run(async {
        let client = Client::connect(server.address()).await;
        body(&mut server, client).await;
    });
}

/// Runs a test body to its end, within the limit of a minute. Connections are driven by a thread of their
/// own: they answer the server also while the body waits for a process.
pub fn run<T>(body: impl Future<Output = T>) -> T {
    run_within(LIMIT, body)
}

/// As [`run`] with a limit of its own, for the few tests that load a server for long.
pub fn run_within<T>(limit: Duration, body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        match tokio::time::timeout(limit, body).await {
            Ok(output) => output,
            Err(_) => panic!("the test did not end within {limit:?}"),
        }
    })
}

async fn wipe(client: &Client) {
    let leases = client
        .lease_leases(api::LeaseLeasesRequest {})
        .await
        .expect("leases are listed");
    for lease in leases.leases {
        let _ = client
            .lease_revoke(api::LeaseRevokeRequest { id: lease.id })
            .await;
    }
    let (key, range_end) = everything();
    let request = api::DeleteRangeRequest {
        key,
        range_end,
        ..Default::default()
    };
    client
        .delete_range(request)
        .await
        .expect("everything can be deleted");
}
