//! When each peer was last heard of and since when its connection stands, in ticks. A handful of
//! members: a sorted vector does.

use kvnode_wal::Membership;

use crate::membership::{self, MEMBERS_MAX};

#[derive(Debug, Default)]
pub(crate) struct Peers(Vec<Peer>);

#[derive(Debug, Default)]
struct Peer {
    id: u64,
    heard: Option<u64>,
    /// Its connection came up then and has not broken since.
    linked: Option<u64>,
}

impl Peers {
    /// Notes a message from a member of the cluster; strangers take no room.
    pub(crate) fn heard(&mut self, member: u64, now: u64, members: &Membership) {
        match self.find(member) {
            Ok(at) => self.0[at].heard = Some(now),
            Err(at) if membership::names(members, member) => {
                let peer = Peer {
                    id: member,
                    heard: Some(now),
                    linked: None,
                };
                self.0.insert(at, peer);
            }
            Err(_) => {}
        }
    }

    /// Notes that a connection came up or broke. One may come up before the member is named here, so
    /// it is kept; the transport connects members only, which bounds their number.
    pub(crate) fn linked(&mut self, member: u64, now: u64, up: bool) {
        match self.find(member) {
            // Told again of a connection that stands: the peer has started anew.
            Ok(at) if up => self.0[at].linked = Some(now),
            Ok(at) => self.0[at].linked = None,
            Err(at) if up && self.0.len() < MEMBERS_MAX => {
                let peer = Peer {
                    id: member,
                    heard: None,
                    linked: Some(now),
                };
                self.0.insert(at, peer);
            }
            Err(_) => {}
        }
    }

    /// True if the member was heard of within the last `ticks`.
    pub(crate) fn active(&self, member: u64, now: u64, ticks: u64) -> bool {
        let heard = self.find(member).ok().and_then(|at| self.0[at].heard);
        heard.is_some_and(|heard| now.saturating_sub(heard) <= ticks)
    }

    /// True if its connection has stood for `ticks`.
    pub(crate) fn linked_for(&self, member: u64, now: u64, ticks: u64) -> bool {
        let linked = self.find(member).ok().and_then(|at| self.0[at].linked);
        linked.is_some_and(|since| now.saturating_sub(since) >= ticks)
    }

    /// Forgets members that have left.
    pub(crate) fn keep(&mut self, members: &Membership) {
        self.0
            .retain(|peer| peer.linked.is_some() || membership::names(members, peer.id));
    }

    fn find(&self, member: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&member, |peer| peer.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[u64]) -> Membership {
        Membership {
            voters: voters.to_vec(),
            ..Membership::default()
        }
    }

    #[test]
    fn a_connection_counts_from_when_it_came_up_until_it_breaks() {
        let mut peers = Peers::default();
        assert!(!peers.linked_for(2, 100, 0));
        peers.linked(2, 10, true);
        assert!(!peers.linked_for(2, 14, 5));
        assert!(peers.linked_for(2, 15, 5));
        peers.linked(2, 20, true);
        assert!(!peers.linked_for(2, 24, 5));
        peers.linked(2, 30, false);
        assert!(!peers.linked_for(2, 90, 5));
        assert!(!peers.active(2, 90, 1000), "connected is not heard of");
    }

    #[test]
    fn a_member_may_connect_before_it_is_named_and_is_forgotten_when_it_has_gone() {
        let mut peers = Peers::default();
        peers.heard(3, 1, &members(&[1, 2]));
        assert!(!peers.active(3, 1, 10), "a stranger takes no room");
        peers.linked(3, 1, true);
        peers.keep(&members(&[1, 2]));
        assert!(peers.linked_for(3, 6, 5));
        peers.heard(2, 6, &members(&[1, 2]));
        peers.linked(3, 7, false);
        peers.keep(&members(&[1, 2]));
        assert_eq!(peers.0.len(), 1);
        assert!(peers.active(2, 6, 0));
    }
}
