//! What etcd's published security advisories are about, as far as a client can try it. What other files hold already:
//! nested transactions with puts, `prev_kv` and leases (`auth.rs`, cases 147-150), watches without an end (case 159), lease
//! keys (case 150), the gateway without a token (`gateway/auth.rs`), hosts and origins (`gateway.rs`).

use kvnode_api as api;
use kvnode_api::permission::Type;
use kvnode_tests::gateway::{post, post_with};
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, Status, fresh_with, http};
use serde_json::json;

const PASSWORD: &str = "a password nobody else would think of";

fn denied() -> Status {
    Status::new(7, "etcdserver: permission denied")
}

async fn add_user(client: &Client, name: &str, grants: &[(Type, &str, &str)]) {
    let user = api::AuthUserAddRequest {
        name: name.into(),
        password: PASSWORD.into(),
        ..Default::default()
    };
    client.user_add(user).await.expect("a new user");
    let role = api::AuthRoleAddRequest { name: name.into() };
    client.role_add(role).await.expect("a new role");
    for (kind, key, end) in grants {
        let grant = api::AuthRoleGrantPermissionRequest {
            name: name.into(),
            perm: Some(api::Permission {
                perm_type: *kind as i32,
                key: bytes(key),
                range_end: bytes(end),
            }),
        };
        client
            .role_grant_permission(grant)
            .await
            .expect("a permission");
    }
    let grant = api::AuthUserGrantRoleRequest {
        user: name.into(),
        role: name.into(),
    };
    client.user_grant_role(grant).await.expect("its role");
}

async fn login(server: &Server, client: &Client, name: &str) -> Client {
    let request = api::AuthenticateRequest {
        name: name.into(),
        password: PASSWORD.into(),
    };
    let token = client.authenticate(request).await.expect("a token").token;
    let client = Client::connect(server.address()).await;
    client.with_metadata("token", token)
}

/// A user who may write `k` and read nothing, a secret it has no right to, and auth on.
fn with_a_writer(body: impl AsyncFnOnce(&mut Server, Client, Client)) {
    let options = Options::default().arg("--bcrypt-cost=4");
    fresh_with(options, async |server, client: Client| {
        client.write("secret", "s").await;
        client.write("k", "hidden").await;
        add_user(&client, "root", &[]).await;
        add_user(&client, "w", &[(Type::Write, "k", "")]).await;
        client
            .auth_enable(Default::default())
            .await
            .expect("auth on");
        let writer = login(server, &client, "w").await;
        body(server, client, writer).await;
    });
}

/// What a write returns of the past is a read.
#[test]
fn previous_pairs_need_the_right_to_read_them() {
    with_a_writer(async |_, _, writer| {
        let put_and_look = api::PutRequest {
            prev_kv: true,
            ..put("k", "v")
        };
        let delete_and_look = api::DeleteRangeRequest {
            prev_kv: true,
            ..delete("k")
        };
        refused(writer.put(put_and_look.clone()).await, denied());
        refused(writer.delete_range(delete_and_look.clone()).await, denied());
        for op in [put_and_look.op(), delete_and_look.op()] {
            refused(writer.txn(then(vec![op.clone()])).await, denied());
            let nested = then(vec![then(vec![op.clone()]).op()]);
            refused(writer.txn(nested).await, denied());
            let untaken = txn(vec![], vec![put("k", "v").op()], vec![op]);
            refused(writer.txn(untaken).await, denied());
        }
        writer.put(put("k", "v")).await.expect("a write alone");
        writer
            .delete_range(delete("k"))
            .await
            .expect("a delete alone");
    });
}

/// Reads and compares hidden in transactions within transactions, whichever branch they are in.
#[test]
fn nesting_hides_no_read_and_no_compare() {
    with_a_writer(async |_, _, writer| {
        let looks = [
            then(vec![get("secret").op()]),
            then(vec![get("k").op()]),
            then(vec![span("a", "z").op()]),
            txn(vec![compare_value("secret", EQUAL, "s")], vec![], vec![]),
            txn(
                vec![compare_number("k", GREATER, VERSION, 0)],
                vec![],
                vec![],
            ),
            txn(vec![], vec![], vec![get("secret").op()]),
        ];
        for look in looks {
            refused(writer.txn(look.clone()).await, denied());
            let mut nested = look;
            for _ in 0..3 {
                nested = then(vec![nested.op()]);
                refused(writer.txn(nested.clone()).await, denied());
                let beside = then(vec![put("k", "v").op(), nested.clone().op()]);
                refused(writer.txn(beside).await, denied());
                let untaken = txn(vec![], vec![put("k", "v").op()], vec![nested.clone().op()]);
                refused(writer.txn(untaken).await, denied());
            }
        }
        // Nothing of it was done.
        writer.put(put("k", "v")).await.expect("a write alone");
    });
}

/// The other ways to see a key.
#[test]
fn every_way_to_a_key_asks_for_the_same_right() {
    with_a_writer(async |server, _, writer| {
        refused(writer.range(get("secret")).await, denied());
        let serializable = api::RangeRequest {
            serializable: true,
            ..get("secret")
        };
        refused(writer.range(serializable).await, denied());
        for counting in [get("secret"), span("a", "z"), all()] {
            let count_only = api::RangeRequest {
                count_only: true,
                ..counting
            };
            refused(writer.range(count_only).await, denied());
        }
        if server.kind().has_range_stream() {
            let mut answers = writer.range_stream(all()).await.expect("a stream");
            refused(answers.next_or_end().await, denied());
        }
        let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        let mut watch = writer.watching().await;
        for create in [
            watch_key("secret"),
            watch_span("s", "t"),
            watch_span("secret", "\0"),
        ] {
            watch.ask(create);
            let answer = watch.next().await;
            assert!(
                answer.canceled && answer.cancel_reason == reason,
                "{answer:?}"
            );
        }
    });
}

/// CVE-2018-16886 and its kin: who asks through the gateway is who has the token, nobody else.
#[test]
fn the_gateway_lends_nobody_its_own_rights() {
    with_a_writer(async |server, client, _| {
        let look = json!({"key": kvnode_tests::gateway::base64("secret")});
        let (status, answer) = post(server.address(), "/v3/kv/range", &look);
        assert_eq!((status, &answer["code"]), (400, &json!(3)), "{answer}");
        let request = api::AuthenticateRequest {
            name: "w".into(),
            password: PASSWORD.into(),
        };
        let token = client.authenticate(request).await.expect("a token").token;
        // Whatever else a client claims in headers is no identity.
        let claims = [
            ("authorization", &*token),
            ("x-forwarded-user", "root"),
            ("grpc-metadata-user", "root"),
            ("token", "root"),
        ];
        let (status, answer) = post_with(server.address(), "/v3/kv/range", &claims, &look);
        assert_eq!((status, &answer["code"]), (403, &json!(7)), "{answer}");
    });
}

/// CVE-2021-28235: no page and no log line shows what clients log in with.
#[test]
fn passwords_and_tokens_are_shown_nowhere() {
    let options = Options::default()
        .arg("--bcrypt-cost=4")
        .arg("--log-level=debug");
    fresh_with(options, async |server, client: Client| {
        add_user(&client, "root", &[]).await;
        client
            .auth_enable(Default::default())
            .await
            .expect("auth on");
        let body = json!({"name": "root", "password": PASSWORD});
        let (status, answer) = post(server.address(), "/v3/auth/authenticate", &body);
        assert_eq!(status, 200, "{answer}");
        let token = answer["token"].as_str().expect("a token").to_owned();
        let wrong = api::AuthenticateRequest {
            name: "root".into(),
            password: format!("not {PASSWORD}"),
        };
        client.authenticate(wrong).await.expect_err("wrong");
        let headers = [("authorization", &*token)];
        let (status, _) = post_with(
            server.address(),
            "/v3/kv/range",
            &headers,
            &json!({"key": "*"}),
        );
        assert_eq!(status, 400);
        if !server.kind().is_kvnode() {
            return;
        }
        for path in [
            "/debug/requests",
            "/debug/events",
            "/debug/pprof/",
            "/debug/pprof/cmdline",
        ] {
            let answer = http::get(server.address(), path).expect("an answer");
            assert_eq!(answer.status, 404, "{path}");
        }
        let metrics = http::get(server.address(), "/metrics")
            .expect("metrics")
            .body;
        for shown in [server.output(), metrics] {
            assert!(!shown.contains(PASSWORD) && !shown.contains(&token));
        }
    });
}
