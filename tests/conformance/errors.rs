//! Refusals that clients know by their text, and that no other file of these meets: users and roles, downgrades, metadata.

use kvnode_api as api;
use kvnode_api::permission::Type;
use kvnode_tests::client::frame;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Status, code, fresh_with, idle};

fn status(code: u32, text: &str) -> Status {
    Status::new(code, format!("etcdserver: {text}"))
}

fn failed(text: &str) -> Status {
    status(code::FAILED_PRECONDITION, text)
}

fn invalid(text: &str) -> Status {
    status(code::INVALID_ARGUMENT, text)
}

fn user(name: &str, password: &str) -> api::AuthUserAddRequest {
    api::AuthUserAddRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    }
}

fn cheap() -> Options {
    Options::default().arg("--bcrypt-cost=4")
}

async fn given(client: &Client) {
    client.user_add(user("anna", "secret")).await.expect("new");
    let role = api::AuthRoleAddRequest {
        name: "reader".into(),
    };
    client.role_add(role).await.expect("new");
}

#[test]
fn users_and_roles_that_cannot_be_are_refused_by_name() {
    fresh_with(cheap(), async |server, client| {
        given(&client).await;
        let taken = client.user_add(user("anna", "other")).await;
        refused(taken, failed("user name already exists"));
        let nameless = client.user_add(user("", "x")).await;
        refused(nameless, invalid("user name is empty"));
        let role = |name: &str| api::AuthRoleAddRequest { name: name.into() };
        let taken = client.role_add(role("reader")).await;
        refused(taken, failed("role name already exists"));
        refused(
            client.role_add(role("")).await,
            invalid("role name is empty"),
        );

        let nobody = || failed("user name not found");
        let get = api::AuthUserGetRequest {
            name: "nobody".into(),
        };
        refused(client.user_get(get).await, nobody());
        let delete = api::AuthUserDeleteRequest {
            name: "nobody".into(),
        };
        refused(client.user_delete(delete).await, nobody());
        let change = api::AuthUserChangePasswordRequest {
            name: "nobody".into(),
            password: "x".into(),
            ..Default::default()
        };
        refused(client.user_change_password(change).await, nobody());
        let grant = |user: &str, role: &str| api::AuthUserGrantRoleRequest {
            user: user.into(),
            role: role.into(),
        };
        let granted = client.user_grant_role(grant("nobody", "reader")).await;
        refused(granted, nobody());
        let granted = client.user_grant_role(grant("anna", "none")).await;
        refused(granted, failed("role name not found"));
        let revoke = api::AuthUserRevokeRoleRequest {
            name: "anna".into(),
            role: "reader".into(),
        };
        let revoked = client.user_revoke_role(revoke).await;
        refused(revoked, failed("role is not granted to the user"));
        if server.kind().is_kvnode() {
            let long = client.user_add(user("long", &"x".repeat(73))).await;
            let text = "bcrypt: password length exceeds 72 bytes";
            assert_eq!(long.expect_err("too long").message, text);
        }
    });
}

#[test]
fn permissions_that_cannot_be_are_refused_by_name() {
    fresh_with(cheap(), async |_, client| {
        given(&client).await;
        let bare = api::AuthRoleGrantPermissionRequest {
            name: "reader".into(),
            perm: None,
        };
        let granted = client.role_grant_permission(bare).await;
        refused(granted, invalid("permission not given"));
        let perm = api::Permission {
            perm_type: Type::Read as i32,
            key: bytes("k"),
            range_end: bytes(""),
        };
        let unknown = api::AuthRoleGrantPermissionRequest {
            name: "none".into(),
            perm: Some(perm),
        };
        let granted = client.role_grant_permission(unknown).await;
        refused(granted, failed("role name not found"));
        let revoke = |role: &str| api::AuthRoleRevokePermissionRequest {
            role: role.into(),
            key: bytes("k"),
            range_end: bytes(""),
        };
        let revoked = client.role_revoke_permission(revoke("reader")).await;
        refused(revoked, failed("permission is not granted to the role"));
        let revoked = client.role_revoke_permission(revoke("none")).await;
        refused(revoked, failed("role name not found"));
    });
}

#[test]
fn a_user_without_a_password_has_none_to_log_in_with() {
    const TEXT: &str = "auth: authentication failed, password was given for no password user";
    fresh_with(cheap(), async |_, client| {
        let root = api::AuthUserAddRequest {
            options: Some(api::UserAddOptions { no_password: true }),
            ..user("machine", "")
        };
        client.user_add(root).await.expect("new");
        client.user_add(user("root", "root")).await.expect("new");
        let role = api::AuthRoleAddRequest {
            name: "root".into(),
        };
        client.role_add(role).await.expect("new");
        let grant = api::AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "root".into(),
        };
        client.user_grant_role(grant).await.expect("granted");
        let on = api::AuthEnableRequest {};
        client.auth_enable(on).await.expect("on");
        let login = api::AuthenticateRequest {
            name: "machine".into(),
            password: "guess".into(),
        };
        let error = client.authenticate(login).await.expect_err("no way in");
        assert_eq!(error.message, TEXT);
    });
}

#[test]
fn metadata_that_is_no_version_is_refused() {
    idle(async |server, client| {
        // A release of etcd before 3.6 does not look.
        if !server.kind().from_3(6) {
            return;
        }
        let mut request = client.request("/etcdserverpb.KV/Range", &[]);
        let value = http::HeaderValue::from_bytes(b"\xff3.5").expect("a header may be opaque");
        request.headers_mut().insert("client-api-version", value);
        let answer = client.raw(request, &frame(&get("k"))).await;
        assert_eq!(answer.status(), Some(invalid("invalid client api version")));
    });
}

/// Who has the public key alone looks at tokens, and makes none.
#[test]
fn a_member_without_the_private_key_signs_no_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = rcgen::KeyPair::generate().expect("a key");
    let path = directory.path().join("key.pem");
    std::fs::write(&path, key.public_key_pem()).expect("a file");
    let provider = format!(
        "--auth-token=jwt,pub-key={},sign-method=ES256",
        path.display()
    );
    fresh_with(cheap().arg(provider), async |_, client| {
        client.user_add(user("root", "secret")).await.expect("new");
        let role = api::AuthRoleAddRequest {
            name: "root".into(),
        };
        client.role_add(role).await.expect("new");
        let grant = api::AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "root".into(),
        };
        client.user_grant_role(grant).await.expect("granted");
        client.auth_enable(Default::default()).await.expect("on");
        let login = api::AuthenticateRequest {
            name: "root".into(),
            password: "secret".into(),
        };
        let text = "auth: token signing attempted with verify-only key";
        refused(
            client.authenticate(login).await,
            Status::new(code::UNKNOWN, text),
        );
    });
}

/// Streams learn that the server leaves, in words that send a client to another member.
#[test]
fn a_server_that_stops_says_so_on_its_watch_streams() {
    fresh_with(Options::default(), async |server, client| {
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        if !server.kind().is_kvnode() {
            return;
        }
        server.signal(rustix::process::Signal::TERM);
        let end = watching.answers.next_or_end().await;
        let stopped = status(code::UNAVAILABLE, "server stopped");
        assert_eq!(end.expect_err("the stream ends"), stopped);
    });
}
