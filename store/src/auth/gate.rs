//! The permission gate: one place that says what each request needs, walked in the same way for
//! plain requests and for every operation of a transaction, nested ones included.
//!
//! | request | needs |
//! |---|---|
//! | range, compare, previous pair of a put or delete, watch | read on its keys |
//! | put, delete | write on its keys |
//! | put with a lease, revoke, keep-alive | write on every key that hangs on the lease |
//! | time to live with keys | read on every key that hangs on the lease |
//! | everything an operator does | the role root |
//!
//! A transaction needs all of its compares and both branches, whichever is taken: else the answer
//! would tell what may not be read.

use bytes::Bytes;
use kvnode_api::request_op::Request;
use kvnode_api::{DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, Status, TxnRequest};

use super::Identity;
use super::table::{Auth, Entry};

/// What one user may do at one auth revision. `attached` finds the keys that hang on a lease; it is
/// asked only if the answer matters.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'a> {
    /// `None`: auth is off, or the user holds the role root.
    bounded: Option<&'a Entry>,
}

impl Auth {
    /// Opens the gate for data requests.
    ///
    /// # Errors
    /// Nobody said who asks; found out before the last change of auth; the user is gone.
    pub fn gate(&self, identity: Identity<'_>) -> Result<Gate<'_>, Status> {
        if !self.is_enabled() || identity.is_cluster_itself() {
            return Ok(Gate { bounded: None });
        }
        if identity.user.is_empty() {
            return Err(Status::user_empty());
        }
        if identity.revision < self.revision() {
            return Err(Status::auth_old_revision());
        }
        let entry = self
            .entry(identity.user)
            .ok_or_else(Status::permission_denied)?;
        Ok(Gate {
            bounded: (!entry.rights.root).then_some(entry),
        })
    }

    /// For requests that any known user may make.
    ///
    /// # Errors
    /// Auth is on and nobody said who asks.
    pub fn check_known(&self, identity: Identity<'_>) -> Result<(), Status> {
        if self.is_enabled() && identity.user.is_empty() && !identity.is_cluster_itself() {
            return Err(Status::user_empty());
        }
        Ok(())
    }

    /// For what only an operator may do.
    ///
    /// # Errors
    /// Auth is on, and nobody said who asks or the user does not hold the role root.
    pub fn check_admin(&self, identity: Identity<'_>) -> Result<(), Status> {
        self.check_known(identity)?;
        if !self.is_enabled() || identity.is_cluster_itself() {
            return Ok(());
        }
        match self.entry(identity.user) {
            Some(entry) if entry.rights.root => Ok(()),
            _ => Err(Status::permission_denied()),
        }
    }

    /// For looking at a user: an operator, or the user itself.
    ///
    /// # Errors
    /// As [`check_admin`](Self::check_admin).
    pub fn check_user_get(&self, identity: Identity<'_>, name: &str) -> Result<(), Status> {
        self.check_admin(identity).or_else(|refused| {
            let own = !identity.user.is_empty() && identity.user == name.as_bytes();
            if own { Ok(()) } else { Err(refused) }
        })
    }

    /// For looking at a role: an operator, or who holds it.
    ///
    /// # Errors
    /// As [`check_admin`](Self::check_admin).
    pub fn check_role_get(&self, identity: Identity<'_>, role: &str) -> Result<(), Status> {
        self.check_admin(identity).or_else(|refused| {
            let user = std::str::from_utf8(identity.user).unwrap_or_default();
            if self.has_role(user, role) {
                Ok(())
            } else {
                Err(refused)
            }
        })
    }
}

impl Gate<'_> {
    /// True if nothing will be refused.
    pub fn is_open(&self) -> bool {
        self.bounded.is_none()
    }

    /// # Errors
    /// A key of the interval may not be read.
    pub fn read(&self, range: &KeyRange) -> Result<(), Status> {
        allowed(
            self.bounded
                .is_none_or(|entry| entry.rights.read.cover(range)),
        )
    }

    /// # Errors
    /// A key of the interval may not be written.
    pub fn write(&self, range: &KeyRange) -> Result<(), Status> {
        allowed(
            self.bounded
                .is_none_or(|entry| entry.rights.write.cover(range)),
        )
    }

    /// # Errors
    /// See [`read`](Self::read).
    pub fn range(&self, request: &RangeRequest) -> Result<(), Status> {
        self.read(&KeyRange::new(&request.key, &request.range_end))
    }

    /// # Errors
    /// The key may not be written, or not read although its previous pair is asked for, or the
    /// lease holds keys that may not be written.
    pub fn put<E: From<Status>>(
        &self,
        request: &PutRequest,
        attached: &mut (impl FnMut(i64) -> Result<Vec<Bytes>, E> + ?Sized),
    ) -> Result<(), E> {
        if self.is_open() {
            return Ok(());
        }
        let key = KeyRange::Single(request.key.clone());
        self.write(&key)?;
        if request.prev_kv {
            self.read(&key)?;
        }
        if request.lease != 0 {
            self.lease_write(request.lease, attached)?;
        }
        Ok(())
    }

    /// # Errors
    /// A key may not be written, or not read although previous pairs are asked for.
    pub fn delete_range(&self, request: &DeleteRangeRequest) -> Result<(), Status> {
        let range = KeyRange::new(&request.key, &request.range_end);
        self.write(&range)?;
        if request.prev_kv {
            self.read(&range)?;
        }
        Ok(())
    }

    /// # Errors
    /// Any part of it is not allowed, at whatever depth and in whichever branch.
    pub fn txn<E: From<Status>>(
        &self,
        request: &TxnRequest,
        attached: &mut (impl FnMut(i64) -> Result<Vec<Bytes>, E> + ?Sized),
    ) -> Result<(), E> {
        if self.is_open() {
            return Ok(());
        }
        for compare in &request.compare {
            self.read(&KeyRange::new(&compare.key, &compare.range_end))?;
        }
        for op in request.success.iter().chain(&request.failure) {
            match &op.request {
                Some(Request::RequestRange(range)) => self.range(range)?,
                Some(Request::RequestPut(put)) => self.put(put, attached)?,
                Some(Request::RequestDeleteRange(delete)) => self.delete_range(delete)?,
                // As deep as the decoder lets messages nest.
                Some(Request::RequestTxn(txn)) => self.txn(txn, attached)?,
                None => {}
            }
        }
        Ok(())
    }

    /// # Errors
    /// The lease holds a key that may not be written.
    pub fn lease_write<E: From<Status>>(
        &self,
        lease: i64,
        attached: &mut (impl FnMut(i64) -> Result<Vec<Bytes>, E> + ?Sized),
    ) -> Result<(), E> {
        self.each_attached(lease, attached, Self::write)
    }

    /// # Errors
    /// The lease holds a key that may not be read.
    pub fn lease_read<E: From<Status>>(
        &self,
        lease: i64,
        attached: &mut (impl FnMut(i64) -> Result<Vec<Bytes>, E> + ?Sized),
    ) -> Result<(), E> {
        self.each_attached(lease, attached, Self::read)
    }

    fn each_attached<E: From<Status>>(
        &self,
        lease: i64,
        attached: &mut (impl FnMut(i64) -> Result<Vec<Bytes>, E> + ?Sized),
        check: impl Fn(&Self, &KeyRange) -> Result<(), Status>,
    ) -> Result<(), E> {
        if self.is_open() {
            return Ok(());
        }
        for key in attached(lease)? {
            check(self, &KeyRange::Single(key))?;
        }
        Ok(())
    }
}

fn allowed(yes: bool) -> Result<(), Status> {
    if yes {
        Ok(())
    } else {
        Err(Status::permission_denied())
    }
}
