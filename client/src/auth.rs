//! Users, roles and permissions.

use bytes::Bytes;
use kvnode_api as api;
use kvnode_api::service::Method;

use crate::client::{Client, Repeat};
use crate::error::Result;

impl Client {
    /// From now on every request needs a user.
    pub async fn auth_enable(&self) -> Result<api::AuthEnableResponse> {
        self.unary(
            Method::AuthEnable,
            &api::AuthEnableRequest {},
            Repeat::IfNotSent,
        )
        .await
    }

    /// Nobody is asked who they are any more.
    pub async fn auth_disable(&self) -> Result<api::AuthDisableResponse> {
        self.unary(
            Method::AuthDisable,
            &api::AuthDisableRequest {},
            Repeat::IfNotSent,
        )
        .await
    }

    /// Whether users are needed.
    pub async fn auth_status(&self) -> Result<api::AuthStatusResponse> {
        self.unary(
            Method::AuthStatus,
            &api::AuthStatusRequest {},
            Repeat::Freely,
        )
        .await
    }

    /// Adds a user; without password it can only be known by its certificate.
    pub async fn user_add(
        &self,
        name: &str,
        password: Option<&str>,
    ) -> Result<api::AuthUserAddResponse> {
        let request = api::AuthUserAddRequest {
            name: name.to_owned(),
            password: password.unwrap_or_default().to_owned(),
            options: Some(api::UserAddOptions {
                no_password: password.is_none(),
            }),
            hashed_password: String::new(),
        };
        self.unary(Method::UserAdd, &request, Repeat::IfNotSent)
            .await
    }

    pub async fn user_get(&self, name: &str) -> Result<api::AuthUserGetResponse> {
        let request = api::AuthUserGetRequest {
            name: name.to_owned(),
        };
        self.unary(Method::UserGet, &request, Repeat::Freely).await
    }

    pub async fn user_list(&self) -> Result<api::AuthUserListResponse> {
        self.unary(
            Method::UserList,
            &api::AuthUserListRequest {},
            Repeat::Freely,
        )
        .await
    }

    pub async fn user_delete(&self, name: &str) -> Result<api::AuthUserDeleteResponse> {
        let request = api::AuthUserDeleteRequest {
            name: name.to_owned(),
        };
        self.unary(Method::UserDelete, &request, Repeat::IfNotSent)
            .await
    }

    pub async fn user_change_password(
        &self,
        name: &str,
        password: &str,
    ) -> Result<api::AuthUserChangePasswordResponse> {
        let request = api::AuthUserChangePasswordRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            hashed_password: String::new(),
        };
        self.unary(Method::UserChangePassword, &request, Repeat::IfNotSent)
            .await
    }

    pub async fn user_grant_role(
        &self,
        user: &str,
        role: &str,
    ) -> Result<api::AuthUserGrantRoleResponse> {
        let request = api::AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        };
        self.unary(Method::UserGrantRole, &request, Repeat::IfNotSent)
            .await
    }

    pub async fn user_revoke_role(
        &self,
        user: &str,
        role: &str,
    ) -> Result<api::AuthUserRevokeRoleResponse> {
        let request = api::AuthUserRevokeRoleRequest {
            name: user.to_owned(),
            role: role.to_owned(),
        };
        self.unary(Method::UserRevokeRole, &request, Repeat::IfNotSent)
            .await
    }

    pub async fn role_add(&self, name: &str) -> Result<api::AuthRoleAddResponse> {
        let request = api::AuthRoleAddRequest {
            name: name.to_owned(),
        };
        self.unary(Method::RoleAdd, &request, Repeat::IfNotSent)
            .await
    }

    pub async fn role_get(&self, role: &str) -> Result<api::AuthRoleGetResponse> {
        let request = api::AuthRoleGetRequest {
            role: role.to_owned(),
        };
        self.unary(Method::RoleGet, &request, Repeat::Freely).await
    }

    pub async fn role_list(&self) -> Result<api::AuthRoleListResponse> {
        self.unary(
            Method::RoleList,
            &api::AuthRoleListRequest {},
            Repeat::Freely,
        )
        .await
    }

    pub async fn role_delete(&self, role: &str) -> Result<api::AuthRoleDeleteResponse> {
        let request = api::AuthRoleDeleteRequest {
            role: role.to_owned(),
        };
        self.unary(Method::RoleDelete, &request, Repeat::IfNotSent)
            .await
    }

    /// Lets a role read, write or both what `key` and `range_end` span.
    pub async fn role_grant_permission(
        &self,
        role: &str,
        kind: api::permission::Type,
        key: impl Into<Bytes>,
        range_end: impl Into<Bytes>,
    ) -> Result<api::AuthRoleGrantPermissionResponse> {
        let request = api::AuthRoleGrantPermissionRequest {
            name: role.to_owned(),
            perm: Some(api::Permission {
                perm_type: kind as i32,
                key: key.into(),
                range_end: range_end.into(),
            }),
        };
        self.unary(Method::RoleGrantPermission, &request, Repeat::IfNotSent)
            .await
    }

    /// Takes back what was granted on exactly this `key` and `range_end`.
    pub async fn role_revoke_permission(
        &self,
        role: &str,
        key: impl Into<Bytes>,
        range_end: impl Into<Bytes>,
    ) -> Result<api::AuthRoleRevokePermissionResponse> {
        let request = api::AuthRoleRevokePermissionRequest {
            role: role.to_owned(),
            key: key.into(),
            range_end: range_end.into(),
        };
        self.unary(Method::RoleRevokePermission, &request, Repeat::IfNotSent)
            .await
    }
}
