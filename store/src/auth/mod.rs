//! Users, roles, and who may do what. Replicated state: every member decides alike.
//!
//! * `table.rs`: what is stored, loaded and shown;
//! * `manage.rs`: the commands that change it;
//! * `gate.rs`: the one permission gate, for reads before they run and for writes as they apply;
//! * `spans.rs`: unions of key intervals.
//!
//! A request carries who asks and the auth revision at which that was found out ([`Identity`]).
//! Every change of users, roles or permissions raises the revision, and a request checked at an
//! older one is refused: so nothing slips through between the check of a token and the apply.
//!
//! No password in clear ever gets here: the shell hashes it first, and the log holds the hash.

mod gate;
mod manage;
mod spans;
mod table;
#[cfg(test)]
mod tests;

pub use gate::Gate;
pub use manage::{AuthCommand, TokenChange};
pub use table::Auth;

/// Name of the user and of the role that may do everything.
pub const ROOT: &str = "root";

/// The `auth_revision` of what the cluster does by itself: expiring leases, raising alarms, scheduled
/// compaction, a member's own record. No token ever carries it.
pub const CLUSTER_ITSELF: u64 = u64::MAX;

/// Who asks, as found out from a token or a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Empty: nobody has said.
    pub user: &'a [u8],
    /// The auth revision at which the user was found out.
    pub revision: u64,
}

impl Identity<'_> {
    fn is_cluster_itself(&self) -> bool {
        self.user.is_empty() && self.revision == CLUSTER_ITSELF
    }
}
