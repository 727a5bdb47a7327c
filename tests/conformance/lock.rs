//! The Lock service (cases 130-136), and who may lock.

use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Server, Status, code, idle};
use tokio::task::JoinHandle;

fn unknown(text: &str) -> Status {
    Status::new(code::UNKNOWN, text)
}

async fn lease(client: &Client) -> i64 {
    client.lease_grant(grant(600)).await.expect("a lease").id
}

fn unlock(key: impl AsRef<[u8]>) -> api::UnlockRequest {
    api::UnlockRequest { key: bytes(key) }
}

fn key_of(name: &str, lease: i64) -> String {
    format!("{name}/{lease:x}")
}

async fn lock(client: &Client, name: &str, lease: i64) -> api::LockResponse {
    client.lock(lock_on(name, lease)).await.expect("the lock")
}

/// A call that waits, in a task of its own.
fn locking(
    client: &Client,
    name: &str,
    lease: i64,
) -> JoinHandle<Result<api::LockResponse, Status>> {
    let (client, request) = (client.clone(), lock_on(name, lease));
    tokio::spawn(async move { client.lock(request).await })
}

/// Waits until these keys, in the order they were made, are what there is.
async fn until_keys(client: &Client, expected: &[String]) {
    let request = api::RangeRequest {
        sort_order: number::ASCEND,
        sort_target: number::BY_CREATE,
        ..all()
    };
    let mut seen = Vec::new();
    for _ in 0..1000 {
        let found = client.range(request.clone()).await.expect("a range").kvs;
        seen = found
            .iter()
            .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
            .collect();
        if seen == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("expected {expected:?}, there are {seen:?}");
}

async fn revision(client: &Client) -> i64 {
    let answer = client.range(get("nothing")).await.expect("a range");
    answer.header.expect("a header").revision
}

/// case 130
#[test]
fn a_lock_is_a_key_named_by_the_lease_and_the_same_when_asked_again() {
    idle(async |_, client| {
        let lease = lease(&client).await;
        let first = lock(&client, "l", lease).await;
        assert_eq!(first.key, key_of("l", lease));
        let header = first.header.expect("a header");
        assert_eq!(header.revision, revision(&client).await);
        let stored = client.range(get(&first.key)).await.expect("a get").kvs;
        assert_eq!((&stored[0].value[..], stored[0].lease), (&b""[..], lease));
        let again = lock(&client, "l", lease).await;
        assert_eq!(again.key, first.key);
        let kept = client.range(get(&first.key)).await.expect("a get").kvs;
        assert_eq!(kept, stored, "nothing was written");
        // Names are any bytes; another name is another lock.
        let odd = client
            .lock(lock_on(b"\xff/\0", lease))
            .await
            .expect("a lock");
        assert_eq!(&odd.key[..4], b"\xff/\0/");
    });
}

/// case 130: a negative lease has a sign
#[test]
fn a_negative_lease_names_its_key_with_a_sign() {
    idle(async |_, client| {
        let request = api::LeaseGrantRequest {
            id: -0x1f,
            ttl: 600,
        };
        client.lease_grant(request).await.expect("a lease");
        assert_eq!(lock(&client, "l", -0x1f).await.key, "l/-1f");
    });
}

/// case 131
#[test]
fn without_a_lease_the_server_grants_one_of_a_minute() {
    idle(async |_, client| {
        let locked = lock(&client, "l", 0).await;
        let kv = client
            .range(get(&locked.key))
            .await
            .expect("a get")
            .kvs
            .remove(0);
        assert_eq!(locked.key, key_of("l", kv.lease));
        let look = api::LeaseTimeToLiveRequest {
            id: kv.lease,
            keys: false,
        };
        let shown = client.lease_time_to_live(look).await.expect("the lease");
        assert_eq!(shown.granted_ttl, 60);
    });
}

/// case 132
#[test]
fn the_next_in_line_gets_the_lock_when_it_is_freed() {
    idle(async |_, client| {
        let (a, b) = (lease(&client).await, lease(&client).await);
        let owner = lock(&client, "l", a).await;
        let waiter = locking(&client, "l", b);
        until_keys(&client, &[key_of("l", a), key_of("l", b)]).await;
        assert!(!waiter.is_finished(), "the lock is taken");
        let freed = client.unlock(unlock(&owner.key)).await.expect("an unlock");
        let freed = freed.header.expect("a header").revision;
        let next = waiter.await.expect("no panic").expect("the lock");
        assert_eq!(next.key, key_of("l", b));
        assert!(next.header.expect("a header").revision >= freed);
        until_keys(&client, &[key_of("l", b)]).await;
    });
}

/// case 132: earlier create revisions all have to go, and one that leaves in the middle changes nothing
#[test]
fn waiters_are_served_in_the_order_they_came() {
    idle(async |_, client| {
        let mut leases = Vec::new();
        for _ in 0..4 {
            leases.push(lease(&client).await);
        }
        let keys: Vec<String> = leases.iter().map(|lease| key_of("l", *lease)).collect();
        let owner = lock(&client, "l", leases[0]).await;
        let mut waiters = Vec::new();
        for (at, lease) in leases.iter().enumerate().skip(1) {
            waiters.push(locking(&client, "l", *lease));
            until_keys(&client, &keys[..=at]).await;
        }
        // The second in line goes; the third must not take that for its turn.
        waiters.remove(1).abort();
        let left = [keys[0].clone(), keys[1].clone(), keys[3].clone()];
        until_keys(&client, &left).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        client.unlock(unlock(&owner.key)).await.expect("an unlock");
        let last = waiters.pop().expect("two wait");
        let next = waiters.pop().expect("two wait").await.expect("no panic");
        assert_eq!(next.expect("the lock").key, keys[1]);
        assert!(!last.is_finished(), "one owner at a time");
        client.unlock(unlock(&keys[1])).await.expect("an unlock");
        let next = last.await.expect("no panic").expect("the lock");
        assert_eq!(next.key, keys[3]);
    });
}

/// case 133
#[test]
fn a_caller_who_leaves_while_waiting_leaves_no_key() {
    idle(async |server: &Server, client| {
        let (a, b) = (lease(&client).await, lease(&client).await);
        lock(&client, "l", a).await;
        let owner = [key_of("l", a)];
        let both = [key_of("l", a), key_of("l", b)];
        // Its time is up.
        let hasty = client.clone().with_metadata("grpc-timeout", "300m");
        let result = hasty.lock(lock_on("l", b)).await;
        refused(
            result,
            Status::new(code::DEADLINE_EXCEEDED, "context deadline exceeded"),
        );
        until_keys(&client, &owner).await;
        // It cancels.
        let waiter = locking(&client, "l", b);
        until_keys(&client, &both).await;
        waiter.abort();
        until_keys(&client, &owner).await;
        // Its connection breaks.
        let gone = Client::connect(server.address()).await;
        let waiter = locking(&gone, "l", b);
        drop(gone);
        until_keys(&client, &both).await;
        waiter.abort();
        until_keys(&client, &owner).await;
        // It leaves before it knows whether it has a key.
        for delay in [0, 1, 2, 5] {
            let waiter = locking(&client, "l", b);
            tokio::time::sleep(Duration::from_millis(delay)).await;
            waiter.abort();
        }
        // The lock still works for whoever comes then.
        client.unlock(unlock(&owner[0])).await.expect("an unlock");
        let locked = lock(&client, "other", b).await;
        until_keys(&client, &[key_of("other", b)]).await;
        client.unlock(unlock(&locked.key)).await.expect("an unlock");
    });
}

/// case 134
#[test]
fn a_waiter_whose_lease_ended_hears_it_when_its_turn_comes() {
    idle(async |_, client| {
        let (a, b) = (lease(&client).await, lease(&client).await);
        let owner = lock(&client, "l", a).await;
        let waiter = locking(&client, "l", b);
        until_keys(&client, &[key_of("l", a), key_of("l", b)]).await;
        let revoke = api::LeaseRevokeRequest { id: b };
        client.lease_revoke(revoke).await.expect("revoked");
        until_keys(&client, &[key_of("l", a)]).await;
        client.unlock(unlock(&owner.key)).await.expect("an unlock");
        let result = waiter.await.expect("no panic");
        refused(result, unknown("mutex: session is expired"));
    });
}

/// A lock ends with its owner's lease.
#[test]
fn an_owner_whose_lease_ends_frees_the_lock() {
    idle(async |_, client| {
        let (a, b) = (lease(&client).await, lease(&client).await);
        lock(&client, "l", a).await;
        let waiter = locking(&client, "l", b);
        until_keys(&client, &[key_of("l", a), key_of("l", b)]).await;
        let revoke = api::LeaseRevokeRequest { id: a };
        client.lease_revoke(revoke).await.expect("revoked");
        let next = waiter.await.expect("no panic").expect("the lock");
        assert_eq!(next.key, key_of("l", b));
    });
}

/// History that is compacted away while a caller waits is none of its concern.
#[test]
fn waiting_survives_compaction() {
    idle(async |_, client| {
        let (a, b) = (lease(&client).await, lease(&client).await);
        let owner = lock(&client, "l", a).await;
        let waiter = locking(&client, "l", b);
        until_keys(&client, &[key_of("l", a), key_of("l", b)]).await;
        let last = client.write("k", "v").await;
        client.compact(compact(last)).await.expect("compacted");
        client.unlock(unlock(&owner.key)).await.expect("an unlock");
        waiter.await.expect("no panic").expect("the lock");
    });
}

/// case 135
#[test]
fn a_lock_on_an_unknown_lease_fails_under_code_unknown() {
    idle(async |_, client| {
        let text = "etcdserver: requested lease not found";
        refused(client.lock(lock_on("l", 12345)).await, unknown(text));
        until_keys(&client, &[]).await;
    });
}

/// case 136
#[test]
fn unlock_deletes_any_key_and_misses_none() {
    idle(async |_, client| {
        client
            .unlock(unlock("absent"))
            .await
            .expect("nothing to do");
        let text = "etcdserver: key is not provided";
        refused(client.unlock(unlock("")).await, unknown(text));
        client.write("k", "v").await;
        client.unlock(unlock("k")).await.expect("whoever's it is");
        until_keys(&client, &[]).await;
    });
}

/// The etcd API has it as any other key.
#[test]
fn a_lock_is_seen_and_freed_by_plain_kv_calls() {
    idle(async |_, client| {
        let (a, b) = (lease(&client).await, lease(&client).await);
        let owner = lock(&client, "l", a).await;
        let waiter = locking(&client, "l", b);
        until_keys(&client, &[key_of("l", a), key_of("l", b)]).await;
        // A change of the key is not its end.
        client.write(&key_of("l", a), "still here").await;
        client
            .delete_range(delete(&owner.key))
            .await
            .expect("a delete");
        waiter.await.expect("no panic").expect("the lock");
    });
}
