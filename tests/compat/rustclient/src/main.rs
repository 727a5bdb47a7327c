//! What a Rust program can do with a cluster of three over TLS with users, through the crate etcd-client, and how it goes on
//! when the leader dies. Ends with "all well" or a panic.

use std::env::var;
use std::fs::read;
use std::time::{Duration, Instant};

use etcd_client::{
    AlarmAction, AlarmType, Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions,
    Error, EventType, GetOptions, Identity, LeaseTimeToLiveOptions, LockOptions, MemberAddOptions,
    Permission, ProclaimOptions, PutOptions, ResignOptions, RoleRevokePermissionOptions, SortOrder,
    SortTarget, TlsOptions, Txn, TxnOp, WatchFilterType, WatchOptions,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

fn urls() -> Vec<String> {
    let all = var("KVNODE_ENDPOINTS").expect("urls");
    all.split(',').map(str::to_owned).collect()
}

async fn connect(user: &str, urls: &[String]) -> Client {
    let file = |name: &str| read(var(name).expect("a file")).expect("readable");
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(file("KVNODE_CACERT")))
        .identity(Identity::from_pem(file("KVNODE_CERT"), file("KVNODE_KEY")));
    let mut options = ConnectOptions::new()
        .with_tls(tls)
        .with_connect_timeout(Duration::from_secs(5))
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5));
    if !user.is_empty() {
        options = options.with_user(user, user);
    }
    Client::connect(urls, Some(options))
        .await
        .expect("connected")
}

#[track_caller]
fn refused<T>(answer: Result<T, Error>, text: &str) {
    match answer {
        Err(Error::GRpcStatus(status)) => {
            assert!(status.message().contains(text), "{status}")
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was not refused: {text}"),
    }
}

async fn users(nobody: &mut Client) -> Result<(), Error> {
    nobody.user_add("root", "root", None).await?;
    nobody.role_add("root").await?;
    nobody.user_grant_role("root", "root").await?;
    nobody.user_add("limited", "first", None).await?;
    nobody.user_change_password("limited", "limited").await?;
    nobody.role_add("limited").await?;
    let right = Permission::read_write("limited/").with_prefix();
    nobody.role_grant_permission("limited", right).await?;
    nobody.user_grant_role("limited", "limited").await?;
    nobody.auth_enable().await?;
    refused(nobody.get("k", None).await, "user name is empty");
    Ok(())
}

async fn rights(root: &mut Client, limited: &mut Client) -> Result<(), Error> {
    limited.put("limited/a", "1", None).await?;
    refused(limited.put("other", "1", None).await, "permission denied");
    refused(limited.user_list().await, "permission denied");
    assert_eq!(limited.user_get("limited").await?.roles(), ["limited"]);
    root.role_add("more").await?;
    let right = Permission::read("other");
    root.role_grant_permission("more", right).await?;
    root.user_grant_role("limited", "more").await?;
    limited.get("other", None).await?;
    assert_eq!(root.role_get("more").await?.permissions().len(), 1);
    let whole = Some(RoleRevokePermissionOptions::new());
    root.role_revoke_permission("more", "other", whole).await?;
    refused(limited.get("other", None).await, "permission denied");
    root.user_revoke_role("limited", "more").await?;
    root.role_delete("more").await?;
    root.user_add("more", "more", None).await?;
    root.user_delete("more").await?;
    assert_eq!(root.user_list().await?.users(), ["limited", "root"]);
    assert_eq!(root.role_list().await?.roles(), ["limited", "root"]);
    Ok(())
}

async fn ranges(root: &mut Client) -> Result<(), Error> {
    let mut first = 0;
    for n in 0..4 {
        let put = root
            .put(format!("range/{n}"), (9 - n).to_string(), None)
            .await?;
        if n == 0 {
            first = put.header().expect("a header").revision();
        }
    }
    let all = || GetOptions::new().with_prefix();
    let told = [
        (all(), "9876 4"),
        (all().with_limit(2), "98 4"),
        (all().with_keys_only(), " 4"),
        (all().with_count_only(), " 4"),
        (all().with_serializable().with_limit(1), "9 4"),
        (
            all().with_sort(SortTarget::Value, SortOrder::Ascend),
            "6789 4",
        ),
        (
            all().with_sort(SortTarget::Mod, SortOrder::Descend),
            "6789 4",
        ),
        (all().with_min_mod_revision(first + 2), "76 4"),
        (all().with_max_create_revision(first), "9 4"),
        (all().with_revision(first), "9 1"),
    ];
    for (options, expected) in told {
        let got = root.get("range/", Some(options)).await?;
        let mut text = String::new();
        for kv in got.kvs() {
            text += kv.value_str()?;
        }
        assert_eq!(format!("{text} {}", got.count()), expected);
    }
    let put = PutOptions::new().with_prev_key();
    let mut put = root.put("range/0", "new", Some(put)).await?;
    assert_eq!(put.take_prev_key().expect("a key").value(), b"9");
    let same = PutOptions::new().with_ignore_value();
    root.put("range/0", "", Some(same)).await?;
    let all = DeleteOptions::new().with_prefix().with_prev_key();
    let gone = root.delete("range/", Some(all)).await?;
    assert_eq!((gone.deleted(), gone.prev_kvs().len()), (4, 4));
    Ok(())
}

async fn transactions(root: &mut Client) -> Result<(), Error> {
    root.put("txn/a", "1", None).await?;
    let inner = Txn::new().and_then(vec![TxnOp::delete("txn/a", None)]);
    let txn = || {
        Txn::new()
            .when(vec![
                Compare::value("txn/a", CompareOp::Equal, "1"),
                Compare::version("txn/a", CompareOp::Less, 2),
                Compare::create_revision("txn/b", CompareOp::Equal, 0),
                Compare::mod_revision("txn/a", CompareOp::Greater, 0),
                Compare::lease("txn/a", CompareOp::Equal, 0),
            ])
            .and_then(vec![
                TxnOp::put("txn/b", "2", None),
                TxnOp::get("txn/b", None),
                TxnOp::txn(inner.clone()),
            ])
            .or_else(vec![TxnOp::get("txn/b", None)])
    };
    assert!(root.txn(txn()).await?.succeeded());
    let again = root.txn(txn()).await?;
    assert!(!again.succeeded() && again.op_responses().len() == 1);
    Ok(())
}

async fn watches(root: &mut Client, limited: &mut Client) -> Result<(), Error> {
    let put = root.put("watch/a", "0", None).await?;
    let first = put.header().expect("a header").revision();
    let options = WatchOptions::new()
        .with_prefix()
        .with_prev_key()
        .with_fragment()
        .with_progress_notify()
        .with_start_revision(first)
        .with_watch_id(7);
    let mut stream = root.watch("watch/", Some(options)).await?;
    assert!(stream.message().await?.expect("an answer").created());
    root.put("watch/a", "1", None).await?;
    root.delete("watch/a", None).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let answer = stream.message().await?.expect("an answer");
        assert_eq!(answer.watch_id(), 7);
        for event in answer.events() {
            let before = event.prev_kv().map(|kv| kv.value().to_vec());
            seen.push((event.event_type(), before));
        }
    }
    let expected = [
        (EventType::Put, None),
        (EventType::Put, Some(b"0".to_vec())),
        (EventType::Delete, Some(b"1".to_vec())),
    ];
    assert_eq!(seen, expected);
    let deletes = WatchOptions::new()
        .with_filters(vec![WatchFilterType::NoPut])
        .with_start_revision(first);
    stream.watch("watch/a", Some(deletes)).await?;
    let created = stream.message().await?.expect("an answer");
    assert!(created.created());
    let answer = stream.message().await?.expect("an answer");
    assert_eq!(answer.events()[0].event_type(), EventType::Delete);
    stream.request_progress().await?;
    let progress = stream.message().await?.expect("an answer");
    assert!(progress.events().is_empty() && progress.watch_id() == -1);
    stream.cancel(7).await?;
    assert!(stream.message().await?.expect("an answer").canceled());

    let mut own = limited.watch("limited/w", None).await?;
    assert!(own.message().await?.expect("an answer").created());
    limited.put("limited/w", "v", None).await?;
    assert_eq!(own.message().await?.expect("an answer").events().len(), 1);
    let mut denied = limited.watch("other", None).await?;
    let answer = denied.message().await?.expect("an answer");
    assert!(answer.canceled() && answer.cancel_reason().contains("permission denied"));
    Ok(())
}

async fn leases(root: &mut Client, limited: &mut Client) -> Result<(), Error> {
    let lease = limited.lease_grant(60, None).await?.id();
    let held = PutOptions::new().with_lease(lease);
    limited.put("limited/lease", "v", Some(held)).await?;
    let (mut keeper, mut kept) = limited.lease_keep_alive(lease).await?;
    keeper.keep_alive().await?;
    assert_eq!(kept.message().await?.expect("an answer").ttl(), 60);
    let keys = LeaseTimeToLiveOptions::new().with_keys();
    let left = limited.lease_time_to_live(lease, Some(keys)).await?;
    assert_eq!((left.granted_ttl(), left.keys().len()), (60, 1));
    let all = root.leases().await?;
    assert!(all.leases().iter().any(|each| each.id() == lease));
    limited.lease_revoke(lease).await?;
    let gone = limited.get("limited/lease", None).await?;
    assert!(gone.kvs().is_empty());
    refused(limited.lease_revoke(lease).await, "lease not found");
    Ok(())
}

async fn locks_and_elections(limited: &mut Client) -> Result<(), Error> {
    let lease = limited.lease_grant(30, None).await?.id();
    let with = LockOptions::new().with_lease(lease);
    let key = limited.lock("limited/lock", Some(with)).await?;
    let mut other = limited.clone();
    let waits = async {
        let key = other.lock("limited/lock", None).await?;
        other.unlock(key.key()).await.map(drop)
    };
    let frees = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        limited.unlock(key.key()).await.map(drop)
    };
    tokio::try_join!(waits, frees)?;

    let won = limited.campaign("limited/office", "me", lease).await?;
    let leader = won.leader().expect("a key").clone();
    let mut seen = limited.observe("limited/office").await?;
    let value = |answer: Option<etcd_client::LeaderResponse>| {
        answer
            .expect("one")
            .take_kv()
            .expect("a key")
            .value()
            .to_vec()
    };
    assert_eq!(value(seen.message().await?), b"me");
    let mine = ProclaimOptions::new().with_leader(leader.clone());
    limited.proclaim("still me", Some(mine)).await?;
    assert_eq!(value(seen.message().await?), b"still me");
    let told = limited.leader("limited/office").await?;
    assert_eq!(value(Some(told)), b"still me");
    let mine = ResignOptions::new().with_leader(leader);
    limited.resign(Some(mine)).await?;
    refused(
        limited.leader("limited/office").await,
        "election: no leader",
    );
    limited.lease_revoke(lease).await?;
    Ok(())
}

async fn upkeep(root: &mut Client, limited: &mut Client) -> Result<(), Error> {
    let members = limited.member_list().await?.members().to_vec();
    let mut known: Vec<String> = members
        .iter()
        .flat_map(|m| m.client_urls().to_vec())
        .collect();
    let mut given = urls();
    known.sort();
    given.sort();
    assert_eq!(known, given);
    let learner = MemberAddOptions::new().with_is_learner();
    let added = loop {
        // A cluster counts its members as connected some seconds after they are.
        let url = ["https://127.0.0.1:1"];
        match root.member_add(url, Some(learner.clone())).await {
            Err(Error::GRpcStatus(status)) if status.message().contains("unhealthy") => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            other => break other?,
        }
    };
    let id = added.member().expect("a member").id();
    root.member_update(id, vec!["https://127.0.0.1:2".to_owned()])
        .await?;
    refused(root.member_promote(id).await, "in sync with leader");
    root.member_remove(id).await?;

    assert!(root.hash_kv(0).await?.hash() > 0);
    assert!(root.hash().await?.hash() > 0);
    let alarms = root.alarm(AlarmAction::Get, AlarmType::None, None).await?;
    assert!(alarms.alarms().is_empty());
    root.defragment().await?;
    let mut parts = root.snapshot().await?;
    let mut length = 0;
    while let Some(part) = parts.message().await? {
        length += part.blob().len();
        if part.remaining_bytes() == 0 && length % 512 == 32 {
            break;
        }
    }
    assert_eq!(length % 512, 32);
    let got = root.get("none", None).await?;
    let now = got.header().expect("a header").revision();
    root.compact(now, None).await?;
    refused(root.compact(now, None).await, "compacted");

    let status = root.status().await?;
    assert!(status.version().starts_with("3."));
    let leader = status.leader();
    let of = |wanted: bool| members.iter().find(|m| (m.id() == leader) == wanted);
    let (first, second) = (of(true).expect("it leads"), of(false).expect("another"));
    let mut beside = connect("root", first.client_urls()).await;
    beside.move_leader(second.id()).await?;
    assert_eq!(beside.status().await?.leader(), second.id());
    Ok(())
}

/// The same until it works: the cluster may be between leaders.
async fn put_patiently(client: &mut Client, key: &str) {
    let begun = Instant::now();
    loop {
        let put = client.put(key, "v", None);
        match tokio::time::timeout(Duration::from_secs(10), put).await {
            Ok(Ok(_)) => return,
            other => assert!(begun.elapsed() < Duration::from_secs(60), "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn failover(limited: &mut Client) -> Result<(), Error> {
    let control = var("KVNODE_CONTROL").expect("an address");
    let mut control = BufReader::new(TcpStream::connect(control).await.expect("connected"));
    let mut ask = async |line: &str| {
        control.write_all(line.as_bytes()).await.expect("written");
        let mut answer = String::new();
        control.read_line(&mut answer).await.expect("an answer");
        let url = answer.trim().split_once(' ').expect("a word and a url").1;
        url.to_owned()
    };
    let lease = limited.lease_grant(60, None).await?.id();
    let held = limited
        .lock("limited/held", Some(LockOptions::new().with_lease(lease)))
        .await?;
    let (mut written, mut killed) = (Vec::new(), String::new());
    for n in 0..60 {
        if n == 20 {
            killed = ask("kill\n").await;
        }
        let key = format!("limited/did/{n:03}");
        put_patiently(limited, &key).await;
        written.push(key);
    }
    // This client goes on asking who does not answer, and repeats nothing.
    limited.remove_endpoint(&killed).await?;
    let prefix = GetOptions::new().with_prefix();
    let got = limited.get("limited/did/", Some(prefix.clone())).await?;
    let keys = |got: &etcd_client::GetResponse| -> Vec<String> {
        let keys = got
            .kvs()
            .iter()
            .map(|kv| kv.key_str().expect("text").to_owned());
        keys.collect()
    };
    assert_eq!(keys(&got), written);
    // A watch from where the work began tells all of it, in order; a write repeated for want of an answer is told twice.
    let from = got.kvs()[0].create_revision();
    let options = WatchOptions::new().with_prefix().with_start_revision(from);
    let mut stream = limited.watch("limited/did/", Some(options)).await?;
    let mut told: Vec<String> = Vec::new();
    let mut last = 0;
    while told.last() != written.last() {
        let answer = stream.message().await?.expect("an answer");
        for event in answer.events() {
            let kv = event.kv().expect("a key");
            assert!(kv.mod_revision() > last);
            last = kv.mod_revision();
            told.push(kv.key_str()?.to_owned());
        }
    }
    told.dedup();
    assert_eq!(told, written);
    assert_eq!(limited.get(held.key(), None).await?.count(), 1);
    limited.unlock(held.key()).await?;
    let back = ask("restart\n").await;
    assert_eq!(back, killed);
    limited.add_endpoint(&back).await?;
    put_patiently(limited, "limited/after").await;
    let mut again = connect("limited", &[back]).await;
    assert_eq!(
        keys(&again.get("limited/did/", Some(prefix)).await?),
        written
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // This client does not ask again when a member that is a moment behind calls its log-in old, so users are changed through
    // one member, and the others are waited for.
    let first = &urls()[..1];
    users(&mut connect("", first).await).await?;
    let (mut root, mut limited) = (
        connect("root", first).await,
        connect("limited", first).await,
    );
    rights(&mut root, &mut limited).await?;
    for url in urls() {
        put_patiently(&mut connect("root", &[url]).await, "settled").await;
    }
    let (mut root, mut limited) = (
        connect("root", &urls()).await,
        connect("limited", &urls()).await,
    );
    ranges(&mut root).await?;
    transactions(&mut root).await?;
    watches(&mut root, &mut limited).await?;
    leases(&mut root, &mut limited).await?;
    locks_and_elections(&mut limited).await?;
    upkeep(&mut root, &mut limited).await?;
    println!("failover");
    failover(&mut limited).await?;
    println!("all well");
    Ok(())
}
