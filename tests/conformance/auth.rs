//! Users, roles, tokens and what they allow (cases 141-155, 157, 159-161).

use std::time::Duration;

use kvnode_api as api;
use kvnode_api::permission::Type;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, Status, fresh_with};

const ROOT: &str = "root";

fn user_empty() -> Status {
    Status::new(3, "etcdserver: user name is empty")
}

fn bad_token() -> Status {
    Status::new(16, "etcdserver: invalid auth token")
}

fn denied() -> Status {
    Status::new(7, "etcdserver: permission denied")
}

fn old_revision() -> Status {
    Status::new(3, "etcdserver: revision of auth store is old")
}

/// Cheap password hashes: the tests are not about them.
fn options() -> Options {
    Options::default().arg("--bcrypt-cost=4")
}

async fn add_user(client: &Client, name: &str) {
    let request = api::AuthUserAddRequest {
        name: name.into(),
        password: format!("{name}'s password"),
        ..Default::default()
    };
    client.user_add(request).await.expect("a new user");
}

async fn add_role(client: &Client, role: &str, grants: &[(Type, &str, &str)]) {
    let request = api::AuthRoleAddRequest { name: role.into() };
    client.role_add(request).await.expect("a new role");
    for (kind, key, end) in grants {
        let request = permission(role, *kind, key, end);
        client
            .role_grant_permission(request)
            .await
            .expect("a permission");
    }
}

fn permission(role: &str, kind: Type, key: &str, end: &str) -> api::AuthRoleGrantPermissionRequest {
    api::AuthRoleGrantPermissionRequest {
        name: role.into(),
        perm: Some(api::Permission {
            perm_type: kind as i32,
            key: bytes(key),
            range_end: bytes(end),
        }),
    }
}

fn role_of(user: &str, role: &str) -> api::AuthUserGrantRoleRequest {
    api::AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    }
}

async fn add_user_with(client: &Client, name: &str, grants: &[(Type, &str, &str)]) {
    add_user(client, name).await;
    let role = format!("{name}'s role");
    add_role(client, &role, grants).await;
    client
        .user_grant_role(role_of(name, &role))
        .await
        .expect("a role");
}

/// Root with its role, and auth on.
async fn enable(client: &Client) {
    add_user(client, ROOT).await;
    client
        .user_grant_role(role_of(ROOT, ROOT))
        .await
        .expect("root's role");
    client
        .auth_enable(api::AuthEnableRequest {})
        .await
        .expect("auth on");
}

async fn token(client: &Client, name: &str) -> String {
    let request = api::AuthenticateRequest {
        name: name.into(),
        password: format!("{name}'s password"),
    };
    client.authenticate(request).await.expect("a token").token
}

/// A connection that speaks for the user.
async fn login(server: &Server, client: &Client, name: &str) -> Client {
    let token = token(client, name).await;
    Client::connect(server.address())
        .await
        .with_metadata("token", token)
}

/// case 141, 142, 143
#[test]
fn auth_needs_root_and_its_role_before_it_can_be_switched_on() {
    fresh_with(options(), async |server, client| {
        let enable = || client.auth_enable(api::AuthEnableRequest {});
        refused(
            enable().await,
            Status::new(9, "etcdserver: root user does not exist"),
        );
        add_user(&client, ROOT).await;
        let no_role = Status::new(9, "etcdserver: root user does not have root role");
        refused(enable().await, no_role);
        // The role root can be granted before it exists, and more than once.
        let revision = async || {
            let status = client.auth_status(api::AuthStatusRequest {}).await;
            status.expect("auth status").auth_revision
        };
        assert_eq!(revision().await, 2);
        client
            .user_grant_role(role_of(ROOT, ROOT))
            .await
            .expect("root's role");
        assert_eq!(revision().await, 3);
        client
            .user_grant_role(role_of(ROOT, ROOT))
            .await
            .expect("once more");
        assert_eq!(revision().await, 3);
        let role = client
            .role_get(api::AuthRoleGetRequest { role: ROOT.into() })
            .await;
        refused(role, Status::new(9, "etcdserver: role name not found"));

        let early = api::AuthenticateRequest {
            name: ROOT.into(),
            password: String::new(),
        };
        let not_enabled = Status::new(9, "etcdserver: authentication is not enabled");
        refused(client.authenticate(early).await, not_enabled);
        enable().await.expect("auth on");
        let root = login(server, &client, ROOT).await;
        root.auth_enable(api::AuthEnableRequest {})
            .await
            .expect("on already");
        root.auth_disable(api::AuthDisableRequest {})
            .await
            .expect("auth off");
        client
            .put(put("k", "v"))
            .await
            .expect("open to everybody again");
        root.auth_disable(api::AuthDisableRequest {})
            .await
            .expect("off already");
    });
}

/// case 144, 145
#[test]
fn without_a_good_token_nothing_is_answered() {
    fresh_with(options(), async |server, client| {
        enable(&client).await;
        refused(client.range(get("k")).await, user_empty());
        refused(client.put(put("k", "v")).await, user_empty());
        refused(client.lease_grant(grant(60)).await, user_empty());
        refused(client.member_list(Default::default()).await, user_empty());
        refused(client.status(Default::default()).await, user_empty());
        let mut watch = client.watching().await;
        watch.ask(watch_key("k"));
        let answer = watch.next().await;
        assert!(
            answer.created && answer.canceled && answer.watch_id == -1,
            "{answer:?}"
        );
        let reason = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
        assert_eq!(answer.cancel_reason, reason);
        for bad in ["", "nonsense", "abcdefghijklmnop.1"] {
            let wrong = Client::connect(server.address())
                .await
                .with_metadata("token", bad);
            refused(wrong.range(get("k")).await, bad_token());
            refused(wrong.put(put("k", "v")).await, bad_token());
            let mut watch = wrong.watching().await;
            watch.ask(watch_key("k"));
            let reason = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
            assert_eq!(watch.next().await.cancel_reason, reason);
        }
        let wrong = api::AuthenticateRequest {
            name: ROOT.into(),
            password: "x".into(),
        };
        let failed = Status::new(
            3,
            "etcdserver: authentication failed, invalid user ID or password",
        );
        refused(client.authenticate(wrong.clone()).await, failed.clone());
        let unknown = api::AuthenticateRequest {
            name: "mallory".into(),
            ..wrong
        };
        refused(client.authenticate(unknown).await, failed);
    });
}

/// case 146
#[test]
fn grants_that_touch_are_one_interval() {
    fresh_with(options(), async |server, client| {
        add_user_with(
            &client,
            "u",
            &[(Type::Read, "a", "c"), (Type::Read, "c", "e")],
        )
        .await;
        enable(&client).await;
        let user = login(server, &client, "u").await;
        user.range(span("a", "e")).await.expect("covered by both");
        refused(user.range(span("a", "f")).await, denied());
        refused(user.range(all()).await, denied());
        refused(user.put(put("a", "v")).await, denied());
    });
}

/// case 147, 148
#[test]
fn a_transaction_is_checked_whole_however_deep_and_whichever_branch_runs() {
    fresh_with(options(), async |server, client| {
        client
            .lease_grant(api::LeaseGrantRequest { id: 7, ttl: 600 })
            .await
            .expect("a lease");
        let foreign = api::PutRequest {
            lease: 7,
            ..put("foreign", "v")
        };
        client.put(foreign).await.expect("a key on the lease");
        add_user_with(&client, "u", &[(Type::Write, "k", "")]).await;
        enable(&client).await;
        let user = login(server, &client, "u").await;
        user.txn(then(vec![put("k", "v").op()]))
            .await
            .expect("its own key");
        let put_and_look = api::PutRequest {
            prev_kv: true,
            ..put("k", "v")
        };
        let put_on_lease = api::PutRequest {
            lease: 7,
            ..put("k", "v")
        };
        refused(user.put(put_and_look.clone()).await, denied());
        refused(user.put(put_on_lease.clone()).await, denied());
        for bad in [put("x", "v"), put_and_look, put_on_lease] {
            let untaken = api::TxnRequest {
                failure: vec![bad.op()],
                ..then(vec![put("k", "v").op()])
            };
            refused(user.txn(untaken.clone()).await, denied());
            refused(
                user.txn(then(vec![then(vec![untaken.op()]).op()])).await,
                denied(),
            );
        }
        let compares = api::TxnRequest {
            compare: vec![compare_value("k", 0, "v")],
            ..then(vec![put("k", "v").op()])
        };
        refused(user.txn(compares).await, denied());
        // Nothing asked, nothing needed.
        client
            .txn(api::TxnRequest::default())
            .await
            .expect("an empty transaction");
    });
}

/// case 149, 150
#[test]
fn a_lease_is_as_guarded_as_the_keys_on_it() {
    fresh_with(options(), async |server, client| {
        client
            .lease_grant(api::LeaseGrantRequest { id: 7, ttl: 600 })
            .await
            .expect("a lease");
        let on_lease = |key: &str| api::PutRequest {
            lease: 7,
            ..put(key, "v")
        };
        client
            .put(on_lease("foreign"))
            .await
            .expect("a key on the lease");
        add_user_with(&client, "u", &[(Type::Readwrite, "k", "")]).await;
        enable(&client).await;
        let user = login(server, &client, "u").await;
        refused(user.put(on_lease("k")).await, denied());
        refused(
            user.lease_revoke(api::LeaseRevokeRequest { id: 7 }).await,
            denied(),
        );
        let (mut sender, mut answers) = user.keep_alive().await;
        sender.send(&api::LeaseKeepAliveRequest { id: 7 });
        refused(answers.next_or_end().await, denied());
        let look = |keys| api::LeaseTimeToLiveRequest { id: 7, keys };
        refused(user.lease_time_to_live(look(true)).await, denied());
        user.lease_time_to_live(look(false))
            .await
            .expect("its time is no secret");
        refused(
            user.lease_leases(api::LeaseLeasesRequest {}).await,
            denied(),
        );
        let root = login(server, &client, ROOT).await;
        let shown = root
            .lease_time_to_live(look(true))
            .await
            .expect("root sees keys");
        assert_eq!(shown.keys, ["foreign"]);
        root.lease_revoke(api::LeaseRevokeRequest { id: 7 })
            .await
            .expect("root may");
    });
}

/// case 151, 152
#[test]
fn operators_do_what_operators_do_and_users_see_themselves() {
    fresh_with(options(), async |server, client| {
        add_user_with(&client, "u", &[(Type::Readwrite, "k", "")]).await;
        add_user(&client, "other").await;
        enable(&client).await;
        let user = login(server, &client, "u").await;
        refused(user.compact(compact(1)).await, denied());
        refused(user.hash_kv(Default::default()).await, denied());
        refused(user.hash(Default::default()).await, denied());
        refused(user.defragment(Default::default()).await, denied());
        let add = api::MemberAddRequest {
            peer_urls: vec!["http://127.0.0.1:1".into()],
            is_learner: true,
        };
        refused(user.member_add(add).await, denied());
        match user.snapshot().await {
            Ok(mut answers) => refused(answers.next_or_end().await, denied()),
            Err(status) => assert_eq!(status, denied()),
        }
        user.member_list(Default::default())
            .await
            .expect("the members");
        user.status(Default::default()).await.expect("the status");
        user.alarm(Default::default()).await.expect("the alarms");
        let user_get = |name: &str| api::AuthUserGetRequest { name: name.into() };
        let own = user.user_get(user_get("u")).await.expect("itself");
        assert_eq!(own.roles, ["u's role"]);
        refused(user.user_get(user_get("other")).await, denied());
        let role_get = |role: &str| api::AuthRoleGetRequest { role: role.into() };
        let held = user.role_get(role_get("u's role")).await.expect("its role");
        assert_eq!(held.perm.len(), 1);
        refused(user.role_get(role_get(ROOT)).await, denied());
        refused(user.user_list(Default::default()).await, denied());
        refused(user.auth_disable(Default::default()).await, denied());
        let root = login(server, &client, ROOT).await;
        let users = root
            .user_list(Default::default())
            .await
            .expect("all users")
            .users;
        assert_eq!(users, ["other", ROOT, "u"]);
    });
}

/// case 153, 155
#[test]
fn rights_change_at_once_and_tokens_die_with_the_password() {
    fresh_with(options(), async |server, client| {
        add_user_with(&client, "u", &[(Type::Read, "k", "")]).await;
        enable(&client).await;
        let root = login(server, &client, ROOT).await;
        let user = login(server, &client, "u").await;
        let mut watch = user.watching().await;
        watch.ask(watch_key("k"));
        assert!(watch.next().await.created);
        root.role_grant_permission(permission("u's role", Type::Readwrite, "k", ""))
            .await
            .expect("more rights");
        user.put(put("k", "v"))
            .await
            .expect("the same token, the new rights");
        assert_eq!(watch.next().await.events.len(), 1);
        let gone = api::AuthRoleDeleteRequest {
            role: "u's role".into(),
        };
        root.role_delete(gone).await.expect("the role goes");
        root.put(put("k", "w")).await.expect("root writes");
        assert_eq!(
            watch.next().await.events.len(),
            1,
            "a watch that runs goes on"
        );
        refused(user.range(get("k")).await, denied());

        let change = api::AuthUserChangePasswordRequest {
            name: "u".into(),
            password: "new".into(),
            ..Default::default()
        };
        root.user_change_password(change)
            .await
            .expect("a new password");
        refused(user.range(get("k")).await, bad_token());
    });
}

/// case 154
#[test]
fn a_token_lives_as_long_as_it_is_used() {
    fresh_with(
        options().arg("--auth-token-ttl=2"),
        async |server, client| {
            enable(&client).await;
            let used = login(server, &client, ROOT).await;
            let idle = login(server, &client, ROOT).await;
            // Six uses within three lifetimes keep the one alive; the other one is not used at all.
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                used.range(get("k")).await.expect("a token in use");
            }
            refused(idle.range(get("k")).await, bad_token());
        },
    );
}

/// case 157
#[test]
fn a_signed_token_goes_stale_with_any_change_of_users() {
    let directory = tempfile::tempdir().expect("a directory");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "some secret").expect("a secret");
    let signed = format!(
        "--auth-token=jwt,sign-method=HS256,priv-key={},ttl=10m",
        secret.display()
    );
    fresh_with(options().arg(signed), async |server, client| {
        enable(&client).await;
        let root = login(server, &client, ROOT).await;
        root.put(put("k", "v")).await.expect("a good token");
        add_user(&root, "u").await;
        refused(root.put(put("k", "v")).await, old_revision());
        refused(root.range(get("k")).await, old_revision());
        let mut watch = root.watching().await;
        watch.ask(watch_key("k"));
        let reason =
            "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old";
        assert_eq!(watch.next().await.cancel_reason, reason);
        let root = login(server, &client, ROOT).await;
        root.range(get("k")).await.expect("a new token");
    });
}

/// case 159, 160
#[test]
fn open_intervals_need_open_grants() {
    fresh_with(options(), async |server, client| {
        add_user_with(&client, "u", &[(Type::Read, "k", "")]).await;
        let management = Status::new(3, "etcdserver: invalid auth management");
        for (key, end) in [("", ""), ("b", "b"), ("b", "a")] {
            let bad = permission("u's role", Type::Read, key, end);
            refused(client.role_grant_permission(bad).await, management.clone());
        }
        enable(&client).await;
        let user = login(server, &client, "u").await;
        let mut watch = user.watching().await;
        watch.ask(watch_span("k", "\0"));
        let answer = watch.next().await;
        let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert!(
            answer.canceled && answer.cancel_reason == reason,
            "{answer:?}"
        );
        let root = login(server, &client, ROOT).await;
        root.role_grant_permission(permission("u's role", Type::Read, "k", "\0"))
            .await
            .expect("an open grant");
        watch.ask(watch_span("k", "\0"));
        let answer = watch.next().await;
        assert!(answer.created && !answer.canceled, "{answer:?}");
    });
}

/// case 161
#[test]
fn a_bearer_token_is_taken() {
    fresh_with(options(), async |server, client| {
        enable(&client).await;
        let token = token(&client, ROOT).await;
        for value in [token.clone(), format!("Bearer {token}")] {
            let root = Client::connect(server.address()).await;
            let root = root.with_metadata("authorization", value);
            root.range(get("k")).await.expect("a good token");
        }
    });
}

/// Users, roles and whether auth is on are state like any other.
#[test]
fn auth_outlives_a_restart_and_simple_tokens_do_not() {
    fresh_with(options(), async |server, client| {
        enable(&client).await;
        let token = token(&client, ROOT).await;
        server.stop();
        server.restart();
        let client = Client::connect(server.address()).await;
        refused(client.range(get("k")).await, user_empty());
        let stale = Client::connect(server.address())
            .await
            .with_metadata("token", token);
        refused(stale.range(get("k")).await, bad_token());
        let root = login(server, &client, ROOT).await;
        root.range(get("k")).await.expect("a new token");
    });
}

/// What the cluster does by itself needs nobody's permission.
#[test]
fn leases_expire_while_auth_is_on() {
    fresh_with(options(), async |server, client| {
        enable(&client).await;
        let root = login(server, &client, ROOT).await;
        let request = api::LeaseGrantRequest { id: 7, ttl: 2 };
        root.lease_grant(request).await.expect("a lease");
        let mut watch = root.watching().await;
        watch.create(watch_key("k")).await;
        let leased = api::PutRequest {
            lease: 7,
            ..put("k", "v")
        };
        root.put(leased).await.expect("a key on the lease");
        let events = watch.events(2).await;
        assert_eq!(events[1].r#type, number::DELETE);
    });
}
