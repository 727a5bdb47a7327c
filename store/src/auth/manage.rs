//! The commands that change users, roles and permissions.
//!
//! Each is checked whole before anything is written, so a refused one changes nothing. All but
//! switching on raise the auth revision when they change something.

use bytes::Bytes;
use kvnode_api::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthUserDeleteRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, FROM_KEY, Message,
    Permission, Role, Status, User,
};

use super::ROOT;
use super::table::Auth;
use crate::command::Kind;
use crate::engine::Batch;

/// A change, as the log carries it. Passwords arrive hashed in `hashed_password`; `password` is
/// empty.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthCommand {
    Enable,
    Disable,
    UserAdd(AuthUserAddRequest),
    UserDelete(AuthUserDeleteRequest),
    UserChangePassword(AuthUserChangePasswordRequest),
    UserGrantRole(AuthUserGrantRoleRequest),
    UserRevokeRole(AuthUserRevokeRoleRequest),
    RoleAdd(AuthRoleAddRequest),
    RoleDelete(AuthRoleDeleteRequest),
    RoleGrantPermission(AuthRoleGrantPermissionRequest),
    RoleRevokePermission(AuthRoleRevokePermissionRequest),
}

/// What the members' token tables have to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenChange {
    /// From now on the token speaks for the user.
    Issued { user: String, token: String },
    /// No token speaks for this user any more.
    Dropped { user: String },
    /// No token is worth anything any more.
    AllDropped,
}

impl AuthCommand {
    /// The command in an entry of this kind; `None` for other kinds, or bytes that do not decode.
    pub(crate) fn read(kind: Kind, message: Bytes) -> Option<Self> {
        fn of<M: Message + Default>(message: Bytes) -> Option<M> {
            M::decode(message).ok()
        }
        Some(match kind {
            Kind::AuthEnable => AuthCommand::Enable,
            Kind::AuthDisable => AuthCommand::Disable,
            Kind::AuthUserAdd => AuthCommand::UserAdd(of(message)?),
            Kind::AuthUserDelete => AuthCommand::UserDelete(of(message)?),
            Kind::AuthUserChangePassword => AuthCommand::UserChangePassword(of(message)?),
            Kind::AuthUserGrantRole => AuthCommand::UserGrantRole(of(message)?),
            Kind::AuthUserRevokeRole => AuthCommand::UserRevokeRole(of(message)?),
            Kind::AuthRoleAdd => AuthCommand::RoleAdd(of(message)?),
            Kind::AuthRoleDelete => AuthCommand::RoleDelete(of(message)?),
            Kind::AuthRoleGrantPermission => AuthCommand::RoleGrantPermission(of(message)?),
            Kind::AuthRoleRevokePermission => AuthCommand::RoleRevokePermission(of(message)?),
            _ => return None,
        })
    }

    /// Tokens that this command, once carried out, makes worthless.
    pub(crate) fn tokens_dropped(&self) -> Option<TokenChange> {
        let user = match self {
            AuthCommand::Disable => return Some(TokenChange::AllDropped),
            AuthCommand::UserDelete(request) => &request.name,
            AuthCommand::UserChangePassword(request) => &request.name,
            _ => return None,
        };
        Some(TokenChange::Dropped { user: user.clone() })
    }
}

impl Auth {
    /// Carries out a command that has passed the gate.
    ///
    /// # Errors
    /// The protocol's own refusals; nothing has changed then.
    pub(crate) fn manage(&mut self, command: AuthCommand, batch: &mut Batch) -> Result<(), Status> {
        let changed = match command {
            AuthCommand::Enable => return self.enable(batch),
            AuthCommand::Disable => self.disable(),
            AuthCommand::UserAdd(request) => self.user_add(request, batch)?,
            AuthCommand::UserDelete(request) => self.user_delete(&request.name, batch)?,
            AuthCommand::UserChangePassword(request) => self.change_password(request, batch)?,
            AuthCommand::UserGrantRole(request) => self.grant_role(request, batch)?,
            AuthCommand::UserRevokeRole(request) => self.revoke_role(&request, batch)?,
            AuthCommand::RoleAdd(request) => self.role_add(request, batch)?,
            AuthCommand::RoleDelete(request) => self.role_delete(&request.role, batch)?,
            AuthCommand::RoleGrantPermission(request) => self.grant_permission(request, batch)?,
            AuthCommand::RoleRevokePermission(request) => {
                self.revoke_permission(&request, batch)?
            }
        };
        if changed {
            self.record.revision += 1;
            self.put_record(batch);
        }
        Ok(())
    }

    fn enable(&mut self, batch: &mut Batch) -> Result<(), Status> {
        if self.record.enabled {
            return Ok(());
        }
        if self.user(ROOT).is_none() {
            return Err(Status::root_user_missing());
        }
        if !self.has_role(ROOT, ROOT) {
            return Err(Status::root_role_missing());
        }
        self.record.enabled = true;
        self.put_record(batch);
        Ok(())
    }

    fn disable(&mut self) -> bool {
        std::mem::take(&mut self.record.enabled)
    }

    fn user_add(&mut self, request: AuthUserAddRequest, batch: &mut Batch) -> Result<bool, Status> {
        if request.name.is_empty() {
            return Err(Status::user_empty());
        }
        if self.user(&request.name).is_some() {
            return Err(Status::user_exists());
        }
        let no_password = request.options.is_some_and(|options| options.no_password);
        let password = if no_password {
            Bytes::new()
        } else {
            Bytes::from(request.hashed_password)
        };
        let user = User {
            name: Bytes::from(request.name),
            password,
            roles: Vec::new(),
            options: request.options,
        };
        self.put_user(user, batch);
        Ok(true)
    }

    fn user_delete(&mut self, name: &str, batch: &mut Batch) -> Result<bool, Status> {
        if self.record.enabled && name == ROOT {
            return Err(Status::invalid_auth_management());
        }
        self.known_user(name)?;
        self.delete_user(name, batch);
        Ok(true)
    }

    fn change_password(
        &mut self,
        request: AuthUserChangePasswordRequest,
        batch: &mut Batch,
    ) -> Result<bool, Status> {
        let mut user = self.known_user(&request.name)?;
        if !user.options.is_some_and(|options| options.no_password) {
            user.password = Bytes::from(request.hashed_password);
        }
        self.put_user(user, batch);
        Ok(true)
    }

    /// The role root may be granted before it exists.
    fn grant_role(
        &mut self,
        request: AuthUserGrantRoleRequest,
        batch: &mut Batch,
    ) -> Result<bool, Status> {
        let mut user = self.known_user(&request.user)?;
        if request.role != ROOT && !self.roles.contains_key(&request.role) {
            return Err(Status::role_not_found());
        }
        if user.roles.contains(&request.role) {
            return Ok(false);
        }
        user.roles.push(request.role);
        user.roles.sort();
        self.put_user(user, batch);
        Ok(true)
    }

    fn revoke_role(
        &mut self,
        request: &AuthUserRevokeRoleRequest,
        batch: &mut Batch,
    ) -> Result<bool, Status> {
        if self.record.enabled && request.name == ROOT && request.role == ROOT {
            return Err(Status::invalid_auth_management());
        }
        let mut user = self.known_user(&request.name)?;
        let held = user.roles.len();
        user.roles.retain(|role| *role != request.role);
        if user.roles.len() == held {
            return Err(Status::role_not_granted());
        }
        self.put_user(user, batch);
        Ok(true)
    }

    fn role_add(&mut self, request: AuthRoleAddRequest, batch: &mut Batch) -> Result<bool, Status> {
        if request.name.is_empty() {
            return Err(Status::role_empty());
        }
        if self.roles.contains_key(&request.name) {
            return Err(Status::role_exists());
        }
        let role = Role {
            name: Bytes::from(request.name.clone()),
            key_permission: Vec::new(),
        };
        self.put_role(&request.name, role, batch);
        Ok(true)
    }

    fn role_delete(&mut self, name: &str, batch: &mut Batch) -> Result<bool, Status> {
        if self.record.enabled && name == ROOT {
            return Err(Status::invalid_auth_management());
        }
        self.known_role(name)?;
        self.delete_role(name, batch);
        Ok(true)
    }

    fn grant_permission(
        &mut self,
        request: AuthRoleGrantPermissionRequest,
        batch: &mut Batch,
    ) -> Result<bool, Status> {
        let given = request.perm.ok_or_else(Status::permission_not_given)?;
        if !makes_sense(&given) {
            return Err(Status::invalid_auth_management());
        }
        let mut role = self.known_role(&request.name)?;
        // A grant must not pin the whole request in memory.
        let given = Permission {
            key: Bytes::copy_from_slice(&given.key),
            range_end: Bytes::copy_from_slice(&given.range_end),
            ..given
        };
        let permissions = &mut role.key_permission;
        match permissions
            .iter_mut()
            .find(|known| same_keys(known, &given.key, &given.range_end))
        {
            Some(known) => known.perm_type = given.perm_type,
            None => permissions.push(given),
        }
        permissions.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
        self.put_role(&request.name, role, batch);
        Ok(true)
    }

    fn revoke_permission(
        &mut self,
        request: &AuthRoleRevokePermissionRequest,
        batch: &mut Batch,
    ) -> Result<bool, Status> {
        let mut role = self.known_role(&request.role)?;
        let held = role.key_permission.len();
        role.key_permission
            .retain(|known| !same_keys(known, &request.key, &request.range_end));
        if role.key_permission.len() == held {
            return Err(Status::permission_not_granted());
        }
        self.put_role(&request.role, role, batch);
        Ok(true)
    }

    fn known_user(&self, name: &str) -> Result<User, Status> {
        self.user(name).cloned().ok_or_else(Status::user_not_found)
    }

    fn known_role(&self, name: &str) -> Result<Role, Status> {
        let role = self.roles.get(name).ok_or_else(Status::role_not_found)?;
        Ok(Role::clone(role))
    }
}

fn same_keys(permission: &Permission, key: &Bytes, range_end: &Bytes) -> bool {
    permission.key == *key && permission.range_end == *range_end
}

/// A key, an interval with room for a key, or an open end.
fn makes_sense(permission: &Permission) -> bool {
    let (key, end) = (&permission.key, &permission.range_end);
    !key.is_empty() && (end.is_empty() || end.as_ref() == FROM_KEY || key < end)
}
