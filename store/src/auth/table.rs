//! The table of users and roles, and what their permissions come to.
//!
//! Small, so each view has it whole; a change copies it. What a user may touch is worked out when
//! it changes, not when it is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kvnode_api::permission::Type;
use kvnode_api::{KeyRange, Message, Permission, Role, Status, User};

use super::ROOT;
use super::spans::Spans;
use crate::engine::{Batch, Reader, Space};
use crate::error::Error;
use crate::schema::{
    AUTH_KEY, AuthRecord, TAG_ROLE, TAG_USER, named_key, versioned, versioned_message,
};

/// The state of auth. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    pub(super) record: AuthRecord,
    pub(super) users: BTreeMap<String, Arc<Entry>>,
    pub(super) roles: BTreeMap<String, Arc<Role>>,
}

/// A user and what its roles allow it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub user: User,
    pub rights: Rights,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rights {
    /// Holds the role root: everything is allowed.
    pub root: bool,
    pub read: Spans,
    pub write: Spans,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            record: AuthRecord {
                enabled: false,
                revision: 1,
            },
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
        }
    }
}

impl Auth {
    pub fn is_enabled(&self) -> bool {
        self.record.enabled
    }

    /// Counts changes of users, roles and permissions; 1 on a fresh store.
    pub fn revision(&self) -> u64 {
        self.record.revision
    }

    /// Names of all users, sorted.
    pub fn users(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// Names of all roles, sorted.
    pub fn roles(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    /// The user as stored: hash of its password, its roles sorted.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|entry| &entry.user)
    }

    /// What a role allows, as clients are shown it: by key, and for root everything.
    ///
    /// # Errors
    /// No such role.
    pub fn role_permissions(&self, name: &str) -> Result<Vec<Permission>, Status> {
        let role = self.roles.get(name).ok_or_else(Status::role_not_found)?;
        if name == ROOT {
            return Ok(vec![Permission {
                perm_type: Type::Readwrite as i32,
                key: Bytes::new(),
                range_end: Bytes::from_static(kvnode_api::FROM_KEY),
            }]);
        }
        Ok(role.key_permission.clone())
    }

    pub fn has_role(&self, user: &str, role: &str) -> bool {
        self.user(user).is_some_and(|user| holds(user, role))
    }

    pub(super) fn entry(&self, name: &[u8]) -> Option<&Entry> {
        let name = std::str::from_utf8(name).ok()?;
        self.users.get(name).map(|entry| &**entry)
    }

    pub(crate) fn load<V: Reader>(reader: &V) -> Result<Self, Error> {
        let mut auth = Self::default();
        if let Some(record) = reader.get(Space::State, &AUTH_KEY)? {
            auth.record = AuthRecord::decode(&record)?;
        }
        for item in named::<V, Role>(reader, TAG_ROLE) {
            let (name, role) = item?;
            auth.roles.insert(name, Arc::new(role));
        }
        for item in named::<V, User>(reader, TAG_USER) {
            let (name, user) = item?;
            auth.insert_user(name, user);
        }
        Ok(auth)
    }

    /// Stores a user as it now is and works out its rights.
    pub(super) fn put_user(&mut self, user: User, batch: &mut Batch) {
        let name = String::from_utf8_lossy(&user.name).into_owned();
        let record = versioned(&user.encode_to_vec());
        batch.put(Space::State, named_key(TAG_USER, &name), record);
        self.insert_user(name, user);
    }

    pub(super) fn delete_user(&mut self, name: &str, batch: &mut Batch) {
        self.users.remove(name);
        batch.delete(Space::State, named_key(TAG_USER, name));
    }

    /// Stores a role as it now is, and works out the rights of its holders anew.
    pub(super) fn put_role(&mut self, name: &str, role: Role, batch: &mut Batch) {
        let record = versioned(&role.encode_to_vec());
        batch.put(Space::State, named_key(TAG_ROLE, name), record);
        self.roles.insert(name.to_owned(), Arc::new(role));
        for user in self.holders(name) {
            let name = String::from_utf8_lossy(&user.name).into_owned();
            self.insert_user(name, user);
        }
    }

    /// Takes a role away, from its holders too.
    pub(super) fn delete_role(&mut self, name: &str, batch: &mut Batch) {
        self.roles.remove(name);
        batch.delete(Space::State, named_key(TAG_ROLE, name));
        for mut user in self.holders(name) {
            user.roles.retain(|role| role != name);
            self.put_user(user, batch);
        }
    }

    pub(super) fn put_record(&mut self, batch: &mut Batch) {
        batch.put(Space::State, AUTH_KEY.to_vec(), self.record.encode());
    }

    fn holders(&self, role: &str) -> Vec<User> {
        let users = self.users.values().map(|entry| &entry.user);
        users.filter(|user| holds(user, role)).cloned().collect()
    }

    fn insert_user(&mut self, name: String, user: User) {
        let rights = self.rights(&user);
        self.users.insert(name, Arc::new(Entry { user, rights }));
    }

    fn rights(&self, user: &User) -> Rights {
        let roles = user.roles.iter().filter_map(|name| self.roles.get(name));
        let granted: Vec<&Permission> = roles.flat_map(|role| &role.key_permission).collect();
        let of = |wanted: Type| {
            let allowing = granted.iter().filter(move |permission| {
                let kind = permission.perm_type();
                kind == wanted || kind == Type::Readwrite
            });
            Spans::union(
                allowing.map(|permission| KeyRange::new(&permission.key, &permission.range_end)),
            )
        };
        Rights {
            root: holds(user, ROOT),
            read: of(Type::Read),
            write: of(Type::Write),
        }
    }
}

/// Roles are kept sorted, but what was loaded is not trusted to be.
fn holds(user: &User, role: &str) -> bool {
    user.roles.iter().any(|held| held == role)
}

fn named<V: Reader, M: Message + Default>(
    reader: &V,
    tag: u8,
) -> impl Iterator<Item = Result<(String, M), Error>> + '_ {
    let records = reader.scan(Space::State, &[tag], Some(&[tag + 1]), false);
    records.map(|item| {
        let (key, record) = item?;
        let wrong = || Error::record(Space::State, &key, "is no user or role");
        let name = key.get(1..).and_then(|name| std::str::from_utf8(name).ok());
        let name = name.ok_or_else(wrong)?.to_owned();
        let message = versioned_message(&record).ok_or_else(wrong)?;
        Ok((name, M::decode(message).map_err(|_| wrong())?))
    })
}
