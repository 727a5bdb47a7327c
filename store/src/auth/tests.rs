use bytes::Bytes;
use kvnode_api::permission::Type;
use kvnode_api::request_op::Request;
use kvnode_api::*;

use super::{Auth, AuthCommand, CLUSTER_ITSELF, Identity, ROOT};
use crate::engine::memory::MemoryEngine;
use crate::engine::{Batch, Engine};
use crate::error::Failure;

/// Auth over an engine, so that every test can also reload what was stored.
struct World {
    engine: MemoryEngine,
    auth: Auth,
}

impl World {
    fn new() -> Self {
        World {
            engine: MemoryEngine::new(),
            auth: Auth::default(),
        }
    }

    fn run(&mut self, command: AuthCommand) -> Result<(), Status> {
        let mut batch = Batch::new();
        let before = self.auth.clone();
        let result = self.auth.manage(command, &mut batch);
        if result.is_err() {
            assert_eq!(self.auth, before, "a refused command changed something");
            assert_eq!(batch.len(), 0, "a refused command wrote something");
        }
        self.engine.commit(batch).unwrap();
        assert_eq!(Auth::load(&self.engine.view()).unwrap(), self.auth);
        result
    }

    fn ok(&mut self, command: AuthCommand) {
        self.run(command).unwrap();
    }

    fn user(&mut self, name: &str) {
        self.ok(user_add(name));
    }

    /// A user with one role that grants the permissions.
    fn user_with(&mut self, name: &str, grants: &[(Type, &str, &str)]) {
        self.user(name);
        let role = format!("role of {name}");
        self.ok(role_add(&role));
        for (kind, key, end) in grants {
            self.ok(grant(&role, *kind, key, end));
        }
        self.ok(grant_role(name, &role));
    }

    /// Root, and auth on.
    fn enable(&mut self) {
        self.user(ROOT);
        self.ok(grant_role(ROOT, ROOT));
        self.ok(AuthCommand::Enable);
    }

    fn identity<'a>(&self, user: &'a str) -> Identity<'a> {
        Identity {
            user: user.as_bytes(),
            revision: self.auth.revision(),
        }
    }
}

fn user_add(name: &str) -> AuthCommand {
    AuthCommand::UserAdd(AuthUserAddRequest {
        name: name.into(),
        hashed_password: format!("hash of {name}"),
        ..Default::default()
    })
}

fn role_add(name: &str) -> AuthCommand {
    AuthCommand::RoleAdd(AuthRoleAddRequest { name: name.into() })
}

fn role_delete(name: &str) -> AuthCommand {
    AuthCommand::RoleDelete(AuthRoleDeleteRequest { role: name.into() })
}

fn user_delete(name: &str) -> AuthCommand {
    AuthCommand::UserDelete(AuthUserDeleteRequest { name: name.into() })
}

fn grant_role(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole(AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    })
}

fn revoke_role(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserRevokeRole(AuthUserRevokeRoleRequest {
        name: user.into(),
        role: role.into(),
    })
}

fn grant(role: &str, kind: Type, key: &str, end: &str) -> AuthCommand {
    AuthCommand::RoleGrantPermission(AuthRoleGrantPermissionRequest {
        name: role.into(),
        perm: Some(permission(kind, key, end)),
    })
}

fn permission(kind: Type, key: &str, end: &str) -> Permission {
    Permission {
        perm_type: kind as i32,
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
    }
}

fn revoke(role: &str, key: &str, end: &str) -> AuthCommand {
    AuthCommand::RoleRevokePermission(AuthRoleRevokePermissionRequest {
        role: role.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
    })
}

fn range(key: &'static str, end: &'static str) -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(key.as_bytes()),
        range_end: Bytes::from_static(end.as_bytes()),
        ..Default::default()
    }
}

fn put(key: &'static str) -> PutRequest {
    PutRequest {
        key: Bytes::from_static(key.as_bytes()),
        ..Default::default()
    }
}

fn delete(key: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: Bytes::from_static(key.as_bytes()),
        ..Default::default()
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn no_leases(_: i64) -> Result<Vec<Bytes>, Failure> {
    Ok(Vec::new())
}

fn denied<T: std::fmt::Debug>(result: Result<T, Failure>) {
    match result {
        Err(Failure::Refused(status)) => assert_eq!(status, Status::permission_denied()),
        other => panic!("not denied: {other:?}"),
    }
}

#[test]
fn the_revision_counts_changes_and_nothing_else() {
    let mut world = World::new();
    let expect = |world: &World, revision| assert_eq!(world.auth.revision(), revision);
    expect(&world, 1);
    world.user("a");
    expect(&world, 2);
    world.ok(role_add("r"));
    expect(&world, 3);
    world.ok(grant_role("a", "r"));
    expect(&world, 4);
    world.ok(grant_role("a", "r"));
    expect(&world, 4);
    world.ok(grant("r", Type::Read, "k", ""));
    expect(&world, 5);
    world.ok(revoke("r", "k", ""));
    expect(&world, 6);
    world.ok(revoke_role("a", "r"));
    expect(&world, 7);
    world.ok(role_delete("r"));
    expect(&world, 8);
    world.ok(user_delete("a"));
    expect(&world, 9);
    world.ok(AuthCommand::Disable);
    expect(&world, 9);
    world.enable();
    expect(&world, 11);
    world.ok(AuthCommand::Enable);
    expect(&world, 11);
    world.ok(AuthCommand::Disable);
    expect(&world, 12);
    assert!(world.run(role_delete("r")).is_err());
    expect(&world, 12);
}

#[test]
fn refusals_are_those_of_the_protocol() {
    let mut world = World::new();
    assert_eq!(
        world.run(AuthCommand::Enable),
        Err(Status::root_user_missing())
    );
    world.user(ROOT);
    assert_eq!(
        world.run(AuthCommand::Enable),
        Err(Status::root_role_missing())
    );
    assert_eq!(world.run(user_add("")), Err(Status::user_empty()));
    assert_eq!(world.run(user_add(ROOT)), Err(Status::user_exists()));
    assert_eq!(world.run(user_delete("x")), Err(Status::user_not_found()));
    assert_eq!(world.run(role_add("")), Err(Status::role_empty()));
    world.ok(role_add("r"));
    assert_eq!(world.run(role_add("r")), Err(Status::role_exists()));
    assert_eq!(world.run(role_delete("x")), Err(Status::role_not_found()));
    assert_eq!(
        world.run(grant_role("x", "r")),
        Err(Status::user_not_found())
    );
    assert_eq!(
        world.run(grant_role(ROOT, "x")),
        Err(Status::role_not_found())
    );
    assert_eq!(
        world.run(revoke_role(ROOT, "r")),
        Err(Status::role_not_granted())
    );
    assert_eq!(
        world.run(revoke_role("x", "r")),
        Err(Status::user_not_found())
    );
    let no_permission = AuthCommand::RoleGrantPermission(AuthRoleGrantPermissionRequest {
        name: "r".into(),
        perm: None,
    });
    assert_eq!(
        world.run(no_permission),
        Err(Status::permission_not_given())
    );
    for (key, end) in [("", ""), ("", "z"), ("b", "b"), ("b", "a")] {
        let command = grant("r", Type::Read, key, end);
        assert_eq!(
            world.run(command),
            Err(Status::invalid_auth_management()),
            "{key:?} {end:?}"
        );
    }
    assert_eq!(
        world.run(grant("x", Type::Read, "k", "")),
        Err(Status::role_not_found())
    );
    assert_eq!(
        world.run(revoke("r", "k", "")),
        Err(Status::permission_not_granted())
    );
    assert_eq!(
        world.run(revoke("x", "k", "")),
        Err(Status::role_not_found())
    );
}

#[test]
fn while_auth_is_on_root_cannot_lock_everybody_out() {
    let mut world = World::new();
    world.enable();
    world.ok(role_add(ROOT));
    for command in [
        user_delete(ROOT),
        role_delete(ROOT),
        revoke_role(ROOT, ROOT),
    ] {
        assert_eq!(world.run(command), Err(Status::invalid_auth_management()));
    }
    world.ok(AuthCommand::Disable);
    for command in [
        revoke_role(ROOT, ROOT),
        role_delete(ROOT),
        user_delete(ROOT),
    ] {
        world.ok(command);
    }
}

#[test]
fn a_grant_on_the_same_keys_replaces_the_kind() {
    let mut world = World::new();
    world.user_with("a", &[(Type::Read, "k", "m"), (Type::Read, "k", "")]);
    world.ok(grant("role of a", Type::Write, "k", "m"));
    let permissions = world.auth.role_permissions("role of a").unwrap();
    assert_eq!(
        permissions,
        [
            permission(Type::Read, "k", ""),
            permission(Type::Write, "k", "m")
        ]
    );
    world.ok(role_add(ROOT));
    assert_eq!(
        world.auth.role_permissions(ROOT).unwrap(),
        [permission(Type::Readwrite, "", "\0")]
    );
}

#[test]
fn a_deleted_role_is_gone_from_its_holders() {
    let mut world = World::new();
    world.user_with("a", &[(Type::Readwrite, "k", "")]);
    world.enable();
    let identity = world.identity("a");
    world
        .auth
        .gate(identity)
        .unwrap()
        .put(&put("k"), &mut no_leases)
        .unwrap();
    world.ok(role_delete("role of a"));
    assert_eq!(world.auth.user("a").unwrap().roles, Vec::<String>::new());
    denied(
        world
            .auth
            .gate(world.identity("a"))
            .unwrap()
            .put(&put("k"), &mut no_leases),
    );
}

#[test]
fn nobody_old_revisions_and_deleted_users_are_refused() {
    let mut world = World::new();
    world.user("a");
    let anonymous = Identity::default();
    assert!(world.auth.gate(anonymous).unwrap().is_open(), "auth is off");
    world.enable();
    assert_eq!(
        world.auth.gate(anonymous).unwrap_err(),
        Status::user_empty()
    );
    let before = world.identity("a");
    world.user("b");
    assert_eq!(
        world.auth.gate(before).unwrap_err(),
        Status::auth_old_revision()
    );
    world.ok(user_delete("a"));
    let gone = world.identity("a");
    assert_eq!(
        world.auth.gate(gone).unwrap_err(),
        Status::permission_denied()
    );
    assert!(world.auth.gate(world.identity(ROOT)).unwrap().is_open());
}

#[test]
fn users_touch_what_their_roles_grant_and_no_more() {
    let mut world = World::new();
    world.user_with(
        "a",
        &[
            (Type::Read, "a", "c"),
            (Type::Write, "b", "d"),
            (Type::Read, "c", "e"),
        ],
    );
    world.enable();
    let gate = world.auth.gate(world.identity("a")).unwrap();
    // Two grants that touch are one interval.
    gate.range(&range("a", "e")).unwrap();
    assert_eq!(
        gate.range(&range("a", "f")),
        Err(Status::permission_denied())
    );
    assert_eq!(
        gate.range(&range("a", "\0")),
        Err(Status::permission_denied())
    );
    gate.put(&put("c"), &mut no_leases).unwrap();
    denied(gate.put(&put("a"), &mut no_leases));
    gate.delete_range(&delete("b")).unwrap();
    assert_eq!(
        gate.delete_range(&delete("d")),
        Err(Status::permission_denied())
    );
}

#[test]
fn previous_pairs_need_the_right_to_read() {
    let mut world = World::new();
    world.user_with("a", &[(Type::Write, "k", "")]);
    world.enable();
    let gate = world.auth.gate(world.identity("a")).unwrap();
    gate.put(&put("k"), &mut no_leases).unwrap();
    denied(gate.put(
        &PutRequest {
            prev_kv: true,
            ..put("k")
        },
        &mut no_leases,
    ));
    gate.delete_range(&delete("k")).unwrap();
    let with_previous = DeleteRangeRequest {
        prev_kv: true,
        ..delete("k")
    };
    assert_eq!(
        gate.delete_range(&with_previous),
        Err(Status::permission_denied())
    );
}

#[test]
fn a_transaction_needs_compares_both_branches_and_nested_ones() {
    let mut world = World::new();
    world.user_with("a", &[(Type::Readwrite, "k", "")]);
    world.enable();
    let gate = world.auth.gate(world.identity("a")).unwrap();
    let allowed = TxnRequest {
        compare: vec![Compare {
            key: "k".into(),
            ..Default::default()
        }],
        success: vec![op(Request::RequestPut(put("k")))],
        failure: vec![op(Request::RequestRange(range("k", "")))],
    };
    gate.txn(&allowed, &mut no_leases).unwrap();

    let foreign_compare = TxnRequest {
        compare: vec![Compare {
            key: "x".into(),
            ..Default::default()
        }],
        ..allowed.clone()
    };
    let wide_compare = TxnRequest {
        compare: vec![Compare {
            key: "k".into(),
            range_end: "\0".into(),
            ..Default::default()
        }],
        ..allowed.clone()
    };
    let forbidden = [
        op(Request::RequestPut(put("x"))),
        op(Request::RequestRange(range("x", ""))),
        op(Request::RequestDeleteRange(delete("x"))),
        op(Request::RequestPut(PutRequest {
            lease: 7,
            ..put("k")
        })),
        op(Request::RequestTxn(foreign_compare.clone())),
    ];
    denied(gate.txn(&foreign_compare, &mut no_leases));
    denied(gate.txn(&wide_compare, &mut no_leases));
    let mut lease_of_others = |_: i64| Ok(vec![Bytes::from_static(b"x")]);
    for bad in forbidden {
        let in_success = TxnRequest {
            success: vec![bad.clone()],
            ..allowed.clone()
        };
        denied(gate.txn(&in_success, &mut lease_of_others));
        let in_failure = TxnRequest {
            failure: vec![bad],
            ..allowed.clone()
        };
        denied(gate.txn(&in_failure, &mut lease_of_others));
        let nested = TxnRequest {
            success: vec![op(Request::RequestTxn(TxnRequest {
                failure: vec![op(Request::RequestTxn(in_failure))],
                ..Default::default()
            }))],
            ..allowed.clone()
        };
        denied(gate.txn(&nested, &mut lease_of_others));
    }
}

#[test]
fn leases_are_as_guarded_as_their_keys() {
    let mut world = World::new();
    world.user_with("a", &[(Type::Write, "k", ""), (Type::Read, "x", "")]);
    world.enable();
    let gate = world.auth.gate(world.identity("a")).unwrap();
    let mut own = |_: i64| Ok(vec![Bytes::from_static(b"k")]);
    let mut mixed = |_: i64| Ok(vec![Bytes::from_static(b"k"), Bytes::from_static(b"x")]);
    let leased = PutRequest {
        lease: 1,
        ..put("k")
    };
    gate.put(&leased, &mut own).unwrap();
    denied(gate.put(&leased, &mut mixed));
    gate.lease_write(1, &mut own).unwrap();
    denied(gate.lease_write(1, &mut mixed));
    denied(gate.lease_read(1, &mut own));
    let root = world.auth.gate(world.identity(ROOT)).unwrap();
    root.put(&leased, &mut |_: i64| -> Result<Vec<Bytes>, Status> {
        panic!("root needs no look at the lease")
    })
    .unwrap();
}

#[test]
fn only_the_role_root_administers_but_everybody_may_look_at_itself() {
    let mut world = World::new();
    world.user_with("a", &[]);
    assert_eq!(world.auth.check_admin(Identity::default()), Ok(()));
    world.enable();
    let (a, root) = (world.identity("a"), world.identity(ROOT));
    let auth = &world.auth;
    let denied = Err(Status::permission_denied());
    assert_eq!(auth.check_admin(root), Ok(()));
    assert_eq!(auth.check_admin(a), denied);
    assert_eq!(
        auth.check_admin(Identity::default()),
        Err(Status::user_empty())
    );
    let itself = Identity {
        user: b"",
        revision: CLUSTER_ITSELF,
    };
    assert_eq!(auth.check_admin(itself), Ok(()));
    assert!(auth.gate(itself).unwrap().is_open());
    assert_eq!(auth.check_known(a), Ok(()));
    assert_eq!(
        auth.check_known(Identity::default()),
        Err(Status::user_empty())
    );
    assert_eq!(auth.check_user_get(a, "a"), Ok(()));
    assert_eq!(auth.check_user_get(a, ROOT), denied);
    assert_eq!(
        auth.check_user_get(Identity::default(), ""),
        Err(Status::user_empty())
    );
    assert_eq!(auth.check_role_get(a, "role of a"), Ok(()));
    assert_eq!(auth.check_role_get(a, ROOT), denied);
}

#[test]
fn users_without_password_keep_none() {
    let mut world = World::new();
    world.ok(AuthCommand::UserAdd(AuthUserAddRequest {
        name: "c".into(),
        hashed_password: "sent along".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    }));
    let change = |name: &str| {
        AuthCommand::UserChangePassword(AuthUserChangePasswordRequest {
            name: name.into(),
            hashed_password: "new".into(),
            ..Default::default()
        })
    };
    world.ok(change("c"));
    assert_eq!(world.auth.user("c").unwrap().password, "");
    world.user("d");
    assert_eq!(world.auth.user("d").unwrap().password, "hash of d");
    world.ok(change("d"));
    assert_eq!(world.auth.user("d").unwrap().password, "new");
    assert_eq!(world.run(change("e")), Err(Status::user_not_found()));
}
