//! Tokens through the gateway, and nothing without one.

use kvnode_api as api;
use kvnode_api::json::ROUTES;
use kvnode_api::permission::Type;
use kvnode_api::service::{Kind, Method};
use kvnode_tests::gateway::{Heard, Stream, WebSocket, post, post_with};
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, fresh_with};
use serde_json::{Value, json};

use super::b;

const USER_EMPTY: &str = "etcdserver: user name is empty";

/// A user `u` who may read and write below `u/`, and auth on.
async fn enable(client: &Client) {
    for name in ["root", "u"] {
        let request = api::AuthUserAddRequest {
            name: name.into(),
            password: "secret".into(),
            ..Default::default()
        };
        client.user_add(request).await.expect("a new user");
        let request = api::AuthRoleAddRequest { name: name.into() };
        client.role_add(request).await.expect("a new role");
        let request = api::AuthUserGrantRoleRequest {
            user: name.into(),
            role: name.into(),
        };
        client.user_grant_role(request).await.expect("its role");
    }
    let request = api::AuthRoleGrantPermissionRequest {
        name: "u".into(),
        perm: Some(api::Permission {
            perm_type: Type::Readwrite as i32,
            key: bytes("u/"),
            range_end: bytes("u0"),
        }),
    };
    client
        .role_grant_permission(request)
        .await
        .expect("a permission");
    client
        .auth_enable(Default::default())
        .await
        .expect("auth on");
}

fn token(server: &Server, name: &str) -> String {
    let body = json!({"name": name, "password": "secret"});
    let (status, answer) = post(server.address(), "/v3/auth/authenticate", &body);
    assert_eq!(status, 200, "{answer}");
    answer["token"].as_str().expect("a token").to_owned()
}

fn with_auth(body: impl AsyncFnOnce(&Server, Client)) {
    let options = Options::default().arg("--bcrypt-cost=4");
    fresh_with(options, async |server, client: Client| {
        enable(&client).await;
        body(server, client).await;
    });
}

#[test]
fn a_token_is_taken_with_bearer_and_without() {
    with_auth(async |server, client| {
        let token = token(server, "u");
        let body = json!({"key": b("u/k"), "value": b("v")});
        let mut headers = vec![
            ("authorization", token.clone()),
            ("grpc-metadata-token", token.clone()),
        ];
        if server.kind().is_kvnode() {
            headers.push(("authorization", format!("Bearer {token}")));
        }
        for (name, value) in &headers {
            let (status, answer) =
                post_with(server.address(), "/v3/kv/put", &[(name, value)], &body);
            assert_eq!(status, 200, "{name}: {answer}");
        }
        let headers = [("authorization", &*token)];
        let foreign = json!({"key": b("k"), "value": b("v")});
        let (status, answer) = post_with(server.address(), "/v3/kv/put", &headers, &foreign);
        assert_eq!(
            (status, &answer["message"]),
            (403, &json!("etcdserver: permission denied"))
        );
        for bad in ["", "nonsense"] {
            let headers = [("authorization", bad)];
            let (status, answer) = post_with(server.address(), "/v3/kv/put", &headers, &body);
            assert_eq!(
                (status, &answer["code"]),
                (401, &json!(16)),
                "{bad:?}: {answer}"
            );
        }
        // A header of that name is a client's own affair, unless it is marked as metadata.
        let headers = [("token", &*token)];
        let (status, answer) = post_with(server.address(), "/v3/kv/put", &headers, &body);
        assert_eq!((status, &answer["message"]), (400, &json!(USER_EMPTY)));
        drop(client);
    });
}

/// Every route but those for people who have no token yet.
#[test]
fn without_a_token_every_route_is_refused() {
    with_auth(async |server, client| {
        for route in ROUTES {
            let open = matches!(route.method, Method::Authenticate | Method::AuthStatus);
            // etcd 3.5 lets nobody ask for the state of auth.
            if open && (route.method == Method::Authenticate || server.kind().from_3(7)) {
                continue;
            }
            // Something to refuse: enough to get past the checks of shape.
            let op = json!({"request_range": {"key": b("k")}});
            let body = match route.method {
                Method::Txn => json!({"success": [op]}),
                Method::Compact => json!({"revision": 1}),
                Method::Proclaim | Method::Resign => {
                    json!({"leader": {"name": b("e"), "key": b("e/1"), "rev": "2", "lease": "1"}})
                }
                Method::Watch => json!({"create_request": {"key": b("k")}}),
                Method::LeaseGrant => json!({"TTL": 60}),
                Method::LeaseRevoke | Method::LeaseKeepAlive | Method::LeaseTimeToLive => {
                    json!({"ID": "7"})
                }
                Method::MemberAdd => json!({"peerURLs": ["http://127.0.0.1:1"]}),
                Method::MemberUpdate => json!({"ID": "1", "peerURLs": ["http://127.0.0.1:1"]}),
                Method::MoveLeader => json!({"targetID": "1"}),
                Method::Downgrade => json!({"version": "3.5"}),
                Method::UserAdd | Method::RoleAdd => json!({"name": "x", "password": "y"}),
                Method::RoleGrantPermission => {
                    json!({"name": "u", "perm": {"permType": "READ", "key": b("k")}})
                }
                Method::Alarm => json!({"action": "ACTIVATE", "alarm": "NOSPACE", "memberID": "1"}),
                _ => json!({"key": b("k"), "name": b("k"), "lease": "1", "value": b("v")}),
            };
            let body = match route.method.name().starts_with("User")
                || route.method.name().starts_with("Role")
            {
                true if route.method != Method::RoleGrantPermission => {
                    json!({"name": "u", "user": "u", "role": "u", "password": "x"})
                }
                _ => body,
            };
            let refusal = if route.method.kind() == Kind::Unary {
                let (status, answer) = post(server.address(), route.path, &body);
                assert_ne!(status, 200, "{}: {answer}", route.path);
                answer
            } else {
                let mut stream = Stream::open(server.address(), route.path, &[]);
                stream.say(&body);
                stream.end();
                stream
                    .line()
                    .unwrap_or_else(|| panic!("{}: nothing said", route.path))
            };
            let text = refusal.to_string();
            let refused = text.contains(USER_EMPTY)
                || text.contains("permission denied")
                || text.contains("election: observe closed early");
            assert!(refused, "{}: {text}", route.path);
        }
        // None of it has left anything behind.
        let root = Client::connect(server.address()).await;
        let root = root.with_metadata("token", token(server, "root"));
        assert_eq!(root.range(all()).await.expect("a range").count, 0);
        let users = root
            .user_list(Default::default())
            .await
            .expect("users")
            .users;
        assert_eq!(users, ["root", "u"]);
        drop(client);
    });
}

#[test]
fn a_websocket_takes_its_token_as_a_subprotocol() {
    with_auth(async |server, client| {
        let protocols = format!("Bearer, {}", token(server, "u"));
        let headers = [("sec-websocket-protocol", &*protocols)];
        let create = json!({"create_request": {"key": b("u/k")}});
        if server.kind().is_kvnode() {
            let mut socket =
                WebSocket::open(server.address(), "/v3/watch", &headers).expect("an upgrade");
            assert_eq!(socket.protocol.as_deref(), Some("Bearer"));
            socket.say(&create);
            let created = socket.result();
            assert_eq!(
                (&created["created"], created.get("canceled")),
                (&json!(true), None)
            );
        }
        let mut socket = WebSocket::open(server.address(), "/v3/watch", &[]).expect("an upgrade");
        socket.say(&create);
        let Heard::Text(answer) = socket.hear() else {
            panic!("a refusal was expected");
        };
        assert!(answer.to_string().contains(USER_EMPTY), "{answer}");
        drop(client);
    });
}

/// Locks and elections are their caller's own reads and writes.
#[test]
fn locks_and_elections_need_the_rights_of_their_keys() {
    with_auth(async |server, client| {
        let user = Client::connect(server.address()).await;
        let user = user.with_metadata("token", token(server, "u"));
        let unknown = |text: &str| kvnode_tests::Status::new(2, text);
        let denied = unknown("etcdserver: permission denied");
        refused(client.lock(lock_on("u/l", 1)).await, unknown(USER_EMPTY));
        refused(client.lock(lock_on("u/l", 0)).await, unknown(USER_EMPTY));
        refused(user.lock(lock_on("l", 0)).await, denied.clone());
        refused(
            user.campaign(campaign_for("e", 0, "v")).await,
            denied.clone(),
        );
        let ask = |name: &str| api::LeaderRequest { name: bytes(name) };
        refused(user.election_leader(ask("e")).await, denied.clone());
        let unlock = |key: &str| api::UnlockRequest { key: bytes(key) };
        refused(user.unlock(unlock("l")).await, denied.clone());
        let mut closed = user.observe(ask("e")).await.expect("a stream");
        refused(
            closed.next_or_end().await,
            unknown("election: observe closed early"),
        );

        let locked = user.lock(lock_on("u/l", 0)).await.expect("its own lock");
        // A caller who leaves takes its key along, with auth as without.
        let hasty = user.clone().with_metadata("grpc-timeout", "300m");
        hasty
            .lock(lock_on("u/l", 0))
            .await
            .expect_err("the lock is taken");
        let mut count = 0;
        for _ in 0..1000 {
            count = user
                .range(span("u/l/", "u/l0"))
                .await
                .expect("a range")
                .count;
            if count == 1 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        if server.kind().is_kvnode() {
            assert_eq!(count, 1, "the waiting key is gone");
        }
        user.unlock(api::UnlockRequest { key: locked.key })
            .await
            .expect("its own key");
        let leader = user
            .campaign(campaign_for("u/e", 0, "v"))
            .await
            .expect("elected");
        let leader = leader.leader.expect("a key");
        let seen: Value = json!({"name": b("u/e")});
        let headers = [("authorization", token(server, "u"))];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
        let (status, answer) = post_with(server.address(), "/v3/election/leader", &headers, &seen);
        assert_eq!((status, &answer["kv"]["value"]), (200, &json!(b("v"))));
        let resign = api::ResignRequest {
            leader: Some(leader),
        };
        user.resign(resign).await.expect("resigned");
    });
}
