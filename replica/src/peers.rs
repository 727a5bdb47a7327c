//! When each peer was last heard of, in ticks. A handful of members: a sorted vector does.

use kvnode_wal::Membership;

use crate::membership;

#[derive(Debug, Default)]
pub(crate) struct Peers(Vec<(u64, u64)>);

impl Peers {
    /// Notes a message from a member of the cluster; strangers take no room.
    pub(crate) fn heard(&mut self, member: u64, now: u64, members: &Membership) {
        match self.0.binary_search_by_key(&member, |&(id, _)| id) {
            Ok(at) => self.0[at].1 = now,
            Err(at) if membership::names(members, member) => self.0.insert(at, (member, now)),
            Err(_) => {}
        }
    }

    /// True if the member was heard of within the last `ticks`.
    pub(crate) fn active(&self, member: u64, now: u64, ticks: u64) -> bool {
        let heard = self.0.binary_search_by_key(&member, |&(id, _)| id);
        heard.is_ok_and(|at| now.saturating_sub(self.0[at].1) <= ticks)
    }

    /// Forgets members that have left.
    pub(crate) fn keep(&mut self, members: &Membership) {
        self.0.retain(|&(id, _)| membership::names(members, id));
    }
}
