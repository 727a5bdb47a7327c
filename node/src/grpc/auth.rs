//! The Auth service, and what every other service asks of it: who calls, and what is wanted for which RPC.
//!
//! Reads are checked against the very view they are answered from, so that rights and data are of one moment; writes
//! carry who asks, and are checked where they apply.

use std::rc::Rc;

use bytes::Bytes;
use kvnode_api::service::Method;
use kvnode_api::status::{Code, Status};
use kvnode_api::{
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleListResponse, AuthStatusResponse,
    AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserGetRequest,
    AuthUserGetResponse, AuthUserListResponse, AuthenticateRequest, AuthenticateResponse, frame,
};
use kvnode_store::Response;
use kvnode_store::auth::{Auth, Gate};
use kvnode_store::command::Kind;
use prost::Message as _;

use super::kv::wrong_result;
use crate::auth::{Asker, Provider, Told, passwords, token_of, tokens};
use crate::cores::View;
use crate::cores::client::ClientCore;
use crate::http::{Call, Reply};
use crate::metrics::Limit;

/// A log-in is tried again so often when users or roles change while it goes on.
const TRIES_MAX: usize = 4;

/// Who calls while auth is off, which needs no waiting; `None` while it is on.
pub fn nobody(core: &ClientCore) -> Option<Asker> {
    let on = core.with_view(|view| view.auth().is_enabled());
    (!on).then(Asker::default)
}

/// Who calls. Waits for a token that was issued at an index this member has yet to apply.
///
/// # Errors
/// There is a token, and it stands for nobody.
pub async fn identify(core: &Rc<ClientCore>, call: &Call) -> Result<Asker, Status> {
    let state = |view: &View| (view.auth().is_enabled(), view.auth().revision());
    if !core.with_view(|view| view.auth().is_enabled()) {
        return Ok(Asker::default());
    }
    let Some(token) = token_of(|name| call.get(name)) else {
        let (_, revision) = core.with_view(state);
        // As in etcd: where certificates are required, the holder's common name is the user.
        let by_certificate = core.shared.config.security.client.cert_auth;
        let holder = call.peer.holder.as_ref().filter(|_| by_certificate);
        let user = holder.map(|holder| Bytes::copy_from_slice(holder.common_name.as_bytes()));
        return Ok(Asker {
            user: user.unwrap_or_default(),
            revision,
        });
    };
    let token = std::str::from_utf8(token).map_err(|_| Status::invalid_auth_token())?;
    let give_up_ms = core.shared.now_ms() + core.shared.request_timeout_ms();
    loop {
        let (enabled, revision) = core.with_view(state);
        if !enabled {
            return Ok(Asker::default());
        }
        let now_ms = core.shared.now_ms();
        let unix_s = core.shared.unix_ms() / 1000;
        match core.authority.tell(token, revision, now_ms, unix_s)? {
            Told::Asker(asker) => return Ok(asker),
            Told::NotBefore(index) => {
                let applied = core.with_view(View::applied_index);
                if index <= applied || now_ms >= give_up_ms {
                    return Err(Status::invalid_auth_token());
                }
                core.next_apply().await?;
            }
        }
    }
}

/// What an RPC wants before anything else is looked at. Those about keys are checked where they are read or applied.
///
/// # Errors
/// See `Auth::check_known` and `Auth::check_admin`.
pub fn check_method(core: &ClientCore, asker: &Asker, method: Method) -> Result<(), Status> {
    core.with_view(|view| {
        let (auth, identity) = (view.auth(), asker.identity());
        match method {
            Method::Compact
            | Method::MemberAdd
            | Method::MemberRemove
            | Method::MemberUpdate
            | Method::MemberPromote
            | Method::Defragment
            | Method::Hash
            | Method::HashKV
            | Method::Snapshot
            | Method::MoveLeader
            | Method::Downgrade => auth.check_admin(identity),
            Method::Status | Method::MemberList | Method::Alarm | Method::LeaseGrant => {
                auth.check_known(identity)
            }
            _ => Ok(()),
        }
    })
}

/// Checks a read against the view that will answer it. Costs a look at one flag while auth is off.
///
/// # Errors
/// What `check` and `Auth::gate` refuse.
pub fn permit(
    view: &View,
    asker: &Asker,
    check: impl FnOnce(&Gate<'_>) -> Result<(), Status>,
) -> Result<(), Status> {
    let auth = view.auth();
    if !auth.is_enabled() {
        return Ok(());
    }
    check(&auth.gate(asker.identity())?)
}

pub async fn serve(core: &Rc<ClientCore>, asker: &Asker, method: Method, message: Bytes) -> Reply {
    match method {
        Method::Authenticate => authenticate(core, message).await,
        Method::AuthStatus => status(core).await,
        Method::UserAdd => user_add(core, asker, message).await,
        Method::UserChangePassword => change_password(core, asker, message).await,
        Method::UserGet => user_get(core, asker, message).await,
        Method::UserList => user_list(core, asker).await,
        Method::RoleGet => role_get(core, asker, message).await,
        Method::RoleList => role_list(core, asker).await,
        Method::AuthEnable => manage(core, asker, Kind::AuthEnable, &message).await,
        Method::AuthDisable => manage(core, asker, Kind::AuthDisable, &message).await,
        Method::UserDelete => manage(core, asker, Kind::AuthUserDelete, &message).await,
        Method::UserGrantRole => manage(core, asker, Kind::AuthUserGrantRole, &message).await,
        Method::UserRevokeRole => manage(core, asker, Kind::AuthUserRevokeRole, &message).await,
        Method::RoleAdd => manage(core, asker, Kind::AuthRoleAdd, &message).await,
        Method::RoleDelete => manage(core, asker, Kind::AuthRoleDelete, &message).await,
        Method::RoleGrantPermission => {
            manage(core, asker, Kind::AuthRoleGrantPermission, &message).await
        }
        Method::RoleRevokePermission => {
            manage(core, asker, Kind::AuthRoleRevokePermission, &message).await
        }
        other => Err(super::not_served(other)),
    }
}

/// A change, decided where it applies. All answers of these RPCs are a header and nothing else, so one type does for all.
async fn manage(core: &Rc<ClientCore>, asker: &Asker, kind: Kind, message: &[u8]) -> Reply {
    check_admin(core, asker)?;
    match core.propose_as(asker, kind, message).await? {
        Response::Auth { revision } => {
            let response = AuthUserAddResponse {
                header: Some(core.header(revision)),
            };
            core.encode(|buffer| frame::encode_into(&response, buffer))
        }
        _ => Err(wrong_result()),
    }
}

async fn user_add(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let mut request: AuthUserAddRequest = frame::decode(message)?;
    check_admin(core, asker)?;
    if request.name.is_empty() {
        return Err(Status::user_empty());
    }
    if !request.options.is_some_and(|options| options.no_password) {
        request.hashed_password = hashed(core, std::mem::take(&mut request.password)).await?;
    }
    request.password.clear();
    manage(core, asker, Kind::AuthUserAdd, &request.encode_to_vec()).await
}

async fn change_password(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let mut request: AuthUserChangePasswordRequest = frame::decode(message)?;
    check_admin(core, asker)?;
    // Without a password the hash that was sent along counts; without that the account cannot be used.
    if !request.password.is_empty() {
        request.hashed_password = hashed(core, std::mem::take(&mut request.password)).await?;
    }
    let message = request.encode_to_vec();
    manage(core, asker, Kind::AuthUserChangePassword, &message).await
}

async fn hashed(core: &Rc<ClientCore>, password: String) -> Result<String, Status> {
    let cost = core.shared.config.bcrypt_cost;
    let mut salt = [0; 16];
    fill_random(&mut salt)?;
    core.on_hasher(move || passwords::hash(&password, cost, salt))
        .await?
}

async fn authenticate(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: AuthenticateRequest = frame::decode(message)?;
    for _ in 0..TRIES_MAX {
        core.linearize().await?;
        let (revision, stored) = core.with_view(|view| login_data(view.auth(), &request.name))?;
        let now_ms = core.shared.now_ms();
        if !core
            .authority
            .attempts()
            .borrow()
            .may_try(&request.name, now_ms)
        {
            core.refused(Limit::Logins);
            return Err(Status::too_many_requests());
        }
        let cost = core.shared.config.bcrypt_cost;
        let password = request.password.clone();
        let right = core
            .on_hasher(move || passwords::verify(&password, stored.as_deref(), cost))
            .await?;
        note_attempt(core, &request.name, right, now_ms)?;
        match token(core, &request.name, revision).await {
            // Users or roles have changed meanwhile: perhaps this one.
            Err(status) if status == Status::auth_old_revision() => {}
            Err(status) => return Err(status),
            Ok(token) => {
                let response = AuthenticateResponse {
                    header: Some(core.header(core.revision())),
                    token,
                };
                return core.encode(|buffer| frame::encode_into(&response, buffer));
            }
        }
    }
    Err(Status::auth_old_revision())
}

/// Counts a try.
fn note_attempt(core: &ClientCore, name: &str, right: bool, now_ms: u64) -> Result<(), Status> {
    let mut attempts = core.authority.attempts().borrow_mut();
    if right {
        attempts.succeeded(name);
        Ok(())
    } else {
        attempts.failed(name, now_ms);
        Err(Status::auth_failed())
    }
}

/// The auth revision, and the hash the password has to fit: `None` for a user that is not there.
fn login_data(auth: &Auth, name: &str) -> Result<(u64, Option<Bytes>), Status> {
    if !auth.is_enabled() {
        return Err(Status::auth_not_enabled());
    }
    let user = auth.user(name);
    if user.is_some_and(|user| user.options.is_some_and(|options| options.no_password)) {
        return Err(Status::no_password_user());
    }
    Ok((auth.revision(), user.map(|user| user.password.clone())))
}

/// A token for a user whose password was right at `revision`.
async fn token(core: &Rc<ClientCore>, user: &str, revision: u64) -> Result<String, Status> {
    match core.authority.provider() {
        Provider::Simple { .. } => {
            let mut random = [0; tokens::LETTERS];
            fill_random(&mut random)?;
            let noted = AuthenticateRequest {
                name: user.to_owned(),
                password: tokens::letters(&random),
            };
            let asker = Asker {
                user: Bytes::new(),
                revision,
            };
            let message = noted.encode_to_vec();
            match core
                .propose_as(&asker, Kind::Authenticate, &message)
                .await?
            {
                Response::Token { token, .. } => Ok(token),
                _ => Err(wrong_result()),
            }
        }
        Provider::Jwt(jwt) => {
            let now_s = core.shared.unix_ms() / 1000;
            jwt.issue(user, revision, now_s)
                .ok_or_else(Status::token_verify_only)
        }
    }
}

async fn status(core: &Rc<ClientCore>) -> Reply {
    core.linearize().await?;
    let response = core.with_view(|view| AuthStatusResponse {
        header: Some(core.header(view.revision())),
        enabled: view.auth().is_enabled(),
        auth_revision: view.auth().revision(),
    });
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

async fn user_get(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let request: AuthUserGetRequest = frame::decode(message)?;
    core.linearize().await?;
    let response = core.with_view(|view| {
        let auth = view.auth();
        auth.check_user_get(asker.identity(), &request.name)?;
        let user = auth
            .user(&request.name)
            .ok_or_else(Status::user_not_found)?;
        Ok::<_, Status>(AuthUserGetResponse {
            header: Some(core.header(view.revision())),
            roles: user.roles.clone(),
        })
    })?;
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

async fn user_list(core: &Rc<ClientCore>, asker: &Asker) -> Reply {
    core.linearize().await?;
    let response = core.with_view(|view| {
        view.auth().check_admin(asker.identity())?;
        Ok::<_, Status>(AuthUserListResponse {
            header: Some(core.header(view.revision())),
            users: view.auth().users(),
        })
    })?;
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

async fn role_get(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let request: AuthRoleGetRequest = frame::decode(message)?;
    core.linearize().await?;
    let response = core.with_view(|view| {
        let auth = view.auth();
        auth.check_role_get(asker.identity(), &request.role)?;
        Ok::<_, Status>(AuthRoleGetResponse {
            header: Some(core.header(view.revision())),
            perm: auth.role_permissions(&request.role)?,
        })
    })?;
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

async fn role_list(core: &Rc<ClientCore>, asker: &Asker) -> Reply {
    core.linearize().await?;
    let response = core.with_view(|view| {
        view.auth().check_admin(asker.identity())?;
        Ok::<_, Status>(AuthRoleListResponse {
            header: Some(core.header(view.revision())),
            roles: view.auth().roles(),
        })
    })?;
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

fn check_admin(core: &ClientCore, asker: &Asker) -> Result<(), Status> {
    core.with_view(|view| view.auth().check_admin(asker.identity()))
}

fn fill_random(bytes: &mut [u8]) -> Result<(), Status> {
    getrandom::fill(bytes).map_err(|_| Status::new(Code::Internal, "kvnode: no random numbers"))
}
