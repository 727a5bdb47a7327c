//! Service `etcdserverpb.Auth`, and the stored forms of `authpb`.
//!
//! Beware of the irregular names: granting a role names the user `user`, revoking one names it
//! `name`; role messages say `name` for add and grant, `role` for get, delete and revoke.

use bytes::Bytes;
use prost::Message;

use crate::header::ResponseHeader;

/// How a user may log in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct UserAddOptions {
    /// Not by password.
    #[prost(bool, tag = "1")]
    pub no_password: bool,
}

/// A user as stored.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct User {
    /// Never empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Hash of the password.
    #[prost(bytes = "bytes", tag = "2")]
    pub password: Bytes,
    /// Sorted.
    #[prost(string, repeated, tag = "3")]
    pub roles: Vec<String>,
    /// How it may log in.
    #[prost(message, optional, tag = "4")]
    pub options: Option<UserAddOptions>,
}

/// Access to one key or an interval of keys.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Permission {
    /// Read, write or both.
    #[prost(enumeration = "permission::Type", tag = "1")]
    pub perm_type: i32,
    /// First key.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// As in `RangeRequest`.
    #[prost(bytes = "bytes", tag = "3")]
    pub range_end: Bytes,
}

pub mod permission {
    /// Kind of access.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum Type {
        Read = 0,
        Write = 1,
        Readwrite = 2,
    }
}

/// A role as stored.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Role {
    /// Never empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Sorted by key.
    #[prost(message, repeated, tag = "2")]
    pub key_permission: Vec<Permission>,
}

/// Switches auth on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthEnableRequest {}

/// Answer to `AuthEnable`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthEnableResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Switches auth off.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthDisableRequest {}

/// Answer to `AuthDisable`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthDisableResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Asks whether auth is on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthStatusRequest {}

/// Answer to `AuthStatus`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthStatusResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Auth is on.
    #[prost(bool, tag = "2")]
    pub enabled: bool,
    /// Counts changes of the auth data, 1 on a fresh store.
    #[prost(uint64, tag = "3")]
    pub auth_revision: u64,
}

/// Exchanges a password for a token.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthenticateRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// In clear.
    #[prost(string, tag = "2")]
    pub password: String,
}

/// Answer to `Authenticate`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthenticateResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// To send as metadata from now on.
    #[prost(string, tag = "2")]
    pub token: String,
}

/// Adds a user.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthUserAddRequest {
    /// Empty is refused.
    #[prost(string, tag = "1")]
    pub name: String,
    /// In clear, at most 72 bytes.
    #[prost(string, tag = "2")]
    pub password: String,
    /// How it may log in.
    #[prost(message, optional, tag = "3")]
    pub options: Option<UserAddOptions>,
    /// Overwritten by the server unless `no_password`.
    #[prost(string, tag = "4")]
    pub hashed_password: String,
}

/// Answer to `UserAdd`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthUserAddResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Asks for a user's roles.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthUserGetRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Answer to `UserGet`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthUserGetResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Sorted.
    #[prost(string, repeated, tag = "2")]
    pub roles: Vec<String>,
}

/// Lists the users.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthUserListRequest {}

/// Answer to `UserList`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthUserListResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Their names.
    #[prost(string, repeated, tag = "2")]
    pub users: Vec<String>,
}

/// Deletes a user.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthUserDeleteRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Answer to `UserDelete`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthUserDeleteResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Sets a password.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthUserChangePasswordRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// In clear.
    #[prost(string, tag = "2")]
    pub password: String,
    /// Kept if `password` is empty.
    #[prost(string, tag = "3")]
    pub hashed_password: String,
}

/// Answer to `UserChangePassword`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthUserChangePasswordResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Gives a role to a user.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthUserGrantRoleRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The role.
    #[prost(string, tag = "2")]
    pub role: String,
}

/// Answer to `UserGrantRole`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthUserGrantRoleResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Takes a role from a user.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthUserRevokeRoleRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The role.
    #[prost(string, tag = "2")]
    pub role: String,
}

/// Answer to `UserRevokeRole`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthUserRevokeRoleResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Adds a role.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleAddRequest {
    /// Empty is refused.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Answer to `RoleAdd`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleAddResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Asks for a role's permissions.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleGetRequest {
    /// The role.
    #[prost(string, tag = "1")]
    pub role: String,
}

/// Answer to `RoleGet`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleGetResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Sorted by key.
    #[prost(message, repeated, tag = "2")]
    pub perm: Vec<Permission>,
}

/// Lists the roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleListRequest {}

/// Answer to `RoleList`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleListResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Their names.
    #[prost(string, repeated, tag = "2")]
    pub roles: Vec<String>,
}

/// Deletes a role.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleDeleteRequest {
    /// The role.
    #[prost(string, tag = "1")]
    pub role: String,
}

/// Answer to `RoleDelete`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleDeleteResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Adds a permission to a role.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleGrantPermissionRequest {
    /// The role.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Absent is refused.
    #[prost(message, optional, tag = "2")]
    pub perm: Option<Permission>,
}

/// Answer to `RoleGrantPermission`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleGrantPermissionResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Takes a permission from a role.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleRevokePermissionRequest {
    /// The role.
    #[prost(string, tag = "1")]
    pub role: String,
    /// Exactly as granted.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// Exactly as granted.
    #[prost(bytes = "bytes", tag = "3")]
    pub range_end: Bytes,
}

/// Answer to `RoleRevokePermission`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AuthRoleRevokePermissionResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}
