//! Permissions as entries apply: the same decision on every member, from the entry and the state.

use bytes::Bytes;
use kvnode_api::alarm_request::AlarmAction;
use kvnode_api::permission::Type;
use kvnode_api::{
    AlarmRequest, AlarmType, AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest,
    AuthRoleGrantPermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthUserDeleteRequest, AuthUserGrantRoleRequest, AuthenticateRequest, CompactionRequest,
    LeaseGrantRequest, LeaseRevokeRequest, Message, Permission, PutRequest, Status, TxnRequest,
};
use kvnode_store::auth::{CLUSTER_ITSELF, ROOT, TokenChange};
use kvnode_store::{Command, Committed, Config, Header, Kind, RequestId, Response, Store};

use super::harness::{Machine, delete, fresh, op, put, then};

/// A step by somebody.
fn by(
    machine: &mut Machine,
    user: &str,
    auth_revision: u64,
    kind: Kind,
    message: &impl Message,
) -> (Result<Response, Status>, Vec<TokenChange>) {
    let index = machine.next_index();
    let header = Header {
        request: RequestId {
            member: 1,
            incarnation: 1,
            sequence: index,
        },
        user: Bytes::copy_from_slice(user.as_bytes()),
        auth_revision,
        ..Header::default()
    };
    let entry = Committed {
        index,
        term: 1,
        command: Command::encode(kind, &header, &message.encode_to_vec()),
    };
    let mut step = machine.step(&[entry]);
    (step.replies.remove(0).result, step.token_changes)
}

/// A step at the present auth revision.
fn now(
    machine: &mut Machine,
    user: &str,
    kind: Kind,
    message: &impl Message,
) -> Result<Response, Status> {
    let revision = machine.view().auth().revision();
    by(machine, user, revision, kind, message).0
}

fn manage(machine: &mut Machine, kind: Kind, message: &impl Message) {
    let result = now(machine, ROOT, kind, message).unwrap();
    let revision = machine.revision();
    assert_eq!(result, Response::Auth { revision }, "{kind:?}");
}

fn add_user(machine: &mut Machine, name: &str) {
    let request = AuthUserAddRequest {
        name: name.into(),
        hashed_password: "hash".into(),
        ..Default::default()
    };
    manage(machine, Kind::AuthUserAdd, &request);
}

/// Root, and alice who may read and write `a`..`b`; auth on.
fn guarded() -> Machine {
    let mut machine = fresh();
    for name in [ROOT, "alice"] {
        add_user(&mut machine, name);
    }
    let role = "writer";
    manage(
        &mut machine,
        Kind::AuthRoleAdd,
        &AuthRoleAddRequest { name: role.into() },
    );
    let grant = AuthRoleGrantPermissionRequest {
        name: role.into(),
        perm: Some(Permission {
            perm_type: Type::Readwrite as i32,
            key: "a".into(),
            range_end: "b".into(),
        }),
    };
    manage(&mut machine, Kind::AuthRoleGrantPermission, &grant);
    for (user, role) in [(ROOT, ROOT), ("alice", role)] {
        let grant = AuthUserGrantRoleRequest {
            user: user.into(),
            role: role.into(),
        };
        manage(&mut machine, Kind::AuthUserGrantRole, &grant);
    }
    manage(&mut machine, Kind::AuthEnable, &AuthEnableRequest {});
    machine
}

fn denied(result: Result<Response, Status>) {
    assert_eq!(result, Err(Status::permission_denied()));
}

#[test]
fn a_refused_entry_changes_nothing_and_uses_no_revision() {
    let mut machine = guarded();
    now(&mut machine, "alice", Kind::Put, &put("a1", "v")).unwrap();
    let revision = machine.revision();
    denied(now(&mut machine, "alice", Kind::Put, &put("b", "v")));
    denied(now(
        &mut machine,
        "alice",
        Kind::DeleteRange,
        &delete("a", "c"),
    ));
    let nested = then([op(then([op(put("a2", "v")), op(put("b", "v"))]))]);
    denied(now(&mut machine, "alice", Kind::Txn, &nested));
    let not_taken = TxnRequest {
        failure: vec![op(put("b", "v"))],
        ..then([op(put("a2", "v"))])
    };
    denied(now(&mut machine, "alice", Kind::Txn, &not_taken));
    assert_eq!(machine.revision(), revision);
    now(
        &mut machine,
        "alice",
        Kind::Txn,
        &then([op(put("a2", "v"))]),
    )
    .unwrap();
    now(&mut machine, "alice", Kind::DeleteRange, &delete("a", "b")).unwrap();
    now(&mut machine, ROOT, Kind::Put, &put("z", "v")).unwrap();
}

#[test]
fn what_was_checked_before_a_change_of_auth_is_refused_after_it() {
    let mut machine = guarded();
    let before = machine.view().auth().revision();
    add_user(&mut machine, "bob");
    let old = Err(Status::auth_old_revision());
    let request = put("a1", "v");
    assert_eq!(
        by(&mut machine, "alice", before, Kind::Put, &request).0,
        old
    );
    assert_eq!(by(&mut machine, ROOT, before, Kind::Put, &request).0, old);
    now(&mut machine, "alice", Kind::Put, &request).unwrap();
    let nobody = now(&mut machine, "", Kind::Put, &request);
    assert_eq!(nobody, Err(Status::user_empty()));
}

#[test]
fn operators_alone_compact_raise_alarms_and_manage() {
    let mut machine = guarded();
    now(&mut machine, ROOT, Kind::Put, &put("a", "v")).unwrap();
    let compaction = CompactionRequest {
        revision: 2,
        physical: false,
    };
    denied(now(&mut machine, "alice", Kind::Compaction, &compaction));
    now(&mut machine, ROOT, Kind::Compaction, &compaction).unwrap();
    let alarm = |action: AlarmAction| AlarmRequest {
        action: action as i32,
        member_id: 1,
        alarm: AlarmType::Nospace as i32,
    };
    denied(now(
        &mut machine,
        "alice",
        Kind::Alarm,
        &alarm(AlarmAction::Activate),
    ));
    now(&mut machine, "alice", Kind::Alarm, &alarm(AlarmAction::Get)).unwrap();
    denied(now(
        &mut machine,
        "alice",
        Kind::AuthDisable,
        &AuthDisableRequest {},
    ));
    denied(now(
        &mut machine,
        "alice",
        Kind::AuthUserDelete,
        &AuthUserDeleteRequest {
            name: "alice".into(),
        },
    ));
    assert_eq!(
        now(&mut machine, "", Kind::AuthDisable, &AuthDisableRequest {}),
        Err(Status::user_empty())
    );
}

#[test]
fn leases_expire_although_nobody_asks_but_users_are_held_to_their_keys() {
    let mut machine = guarded();
    let grant = |id| LeaseGrantRequest { id, ttl: 10 };
    assert_eq!(
        now(&mut machine, "", Kind::LeaseGrant, &grant(1)),
        Err(Status::user_empty())
    );
    now(&mut machine, "alice", Kind::LeaseGrant, &grant(1)).unwrap();
    let leased = |key: &str| PutRequest {
        lease: 1,
        ..put(key, "v")
    };
    now(&mut machine, "alice", Kind::Put, &leased("a1")).unwrap();
    now(&mut machine, ROOT, Kind::Put, &leased("z")).unwrap();
    // The lease now holds a key that is not alice's.
    denied(now(&mut machine, "alice", Kind::Put, &leased("a2")));
    let revoke = LeaseRevokeRequest { id: 1 };
    denied(now(&mut machine, "alice", Kind::LeaseRevoke, &revoke));
    let (expired, _) = by(&mut machine, "", CLUSTER_ITSELF, Kind::LeaseRevoke, &revoke);
    expired.unwrap();
    let left = machine.view().range(&super::harness::all()).unwrap();
    assert_eq!(left.count, 0);
}

#[test]
fn tokens_are_noted_for_known_users_and_dropped_with_their_reason() {
    let mut machine = guarded();
    let token = |user: &str| AuthenticateRequest {
        name: user.into(),
        password: "letters".into(),
    };
    let index = machine.next_index();
    let revision = machine.view().auth().revision();
    let (result, changes) = by(
        &mut machine,
        "",
        revision,
        Kind::Authenticate,
        &token("alice"),
    );
    let text = format!("letters.{index}");
    let expected = Response::Token {
        revision: machine.revision(),
        token: text.clone(),
    };
    assert_eq!(result, Ok(expected));
    let issued = TokenChange::Issued {
        user: "alice".into(),
        token: text,
    };
    assert_eq!(changes, [issued]);
    let stale = by(
        &mut machine,
        "",
        revision - 1,
        Kind::Authenticate,
        &token("alice"),
    );
    assert_eq!(stale, (Err(Status::auth_old_revision()), vec![]));
    let unknown = by(
        &mut machine,
        "",
        revision,
        Kind::Authenticate,
        &token("mallory"),
    );
    assert_eq!(unknown, (Err(Status::auth_failed()), vec![]));

    let change = AuthUserChangePasswordRequest {
        name: "alice".into(),
        ..Default::default()
    };
    let (_, changes) = by(
        &mut machine,
        ROOT,
        revision,
        Kind::AuthUserChangePassword,
        &change,
    );
    let dropped = TokenChange::Dropped {
        user: "alice".into(),
    };
    assert_eq!(changes, [dropped]);
    let (_, changes) = by(
        &mut machine,
        ROOT,
        revision + 1,
        Kind::AuthDisable,
        &AuthDisableRequest {},
    );
    assert_eq!(changes, [TokenChange::AllDropped]);
    let off = now(&mut machine, "", Kind::Authenticate, &token("alice"));
    assert_eq!(off, Err(Status::auth_not_enabled()));
    machine.put("z", "anybody may now");
}

#[test]
fn auth_is_there_after_a_reopen() {
    let machine = guarded();
    let before = machine.view().auth().clone();
    let store = Store::open(machine.store.into_engine(), Config::default()).unwrap();
    assert_eq!(*store.view().auth(), before);
    assert!(before.is_enabled() && before.has_role("alice", "writer"));
}
