//! The member table: who belongs to the cluster, and how each member describes itself.
//!
//! Who votes is decided by the log's own machine; the table repeats it, because both change with the
//! same entry: a change of the membership carries its record along (`Kind::MemberAdd` and its
//! neighbours). So a member opened again finds in the table, as of the applied index, what its peers
//! are. Whether a change may be made is asked before it is proposed (`rules.rs`); here is only
//! refused what would make the table contradict itself. An id that was removed never comes back.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvnode_api::{
    Member, MemberListResponse, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    Message, Status,
};

use crate::apply::read;
use crate::command::Kind;
use crate::engine::{Batch, Reader, Space};
use crate::error::Error;
use crate::schema::{TAG_MEMBER, decode_member, encode_member, member_key};
pub use rules::Rules;

/// The table; small, so each view has it whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    present: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
}

impl Members {
    /// All members by id.
    pub fn list(&self) -> Vec<Member> {
        self.present.values().cloned().collect()
    }

    /// As [`list`](Self::list), without a copy.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.present.values()
    }

    pub fn get(&self, id: u64) -> Option<&Member> {
        self.present.get(&id)
    }

    /// Those that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.present.values().filter(|member| !member.is_learner)
    }

    /// Those that only learn.
    pub fn learners(&self) -> impl Iterator<Item = &Member> {
        self.present.values().filter(|member| member.is_learner)
    }

    /// The member that is reached by this peer URL.
    pub fn holder(&self, peer_url: &str) -> Option<&Member> {
        let holds = |member: &&Member| member.peer_urls.iter().any(|url| url == peer_url);
        self.present.values().find(holds)
    }

    /// Whether the id was a member once and must not be one again.
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// All ids that must not come back, ascending.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.present.len()
    }

    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    pub(crate) fn load<V: Reader>(reader: &V) -> Result<Self, Error> {
        let mut members = Self::default();
        for item in reader.scan(Space::State, &[TAG_MEMBER], Some(&[TAG_MEMBER + 1]), false) {
            let (key, record) = item?;
            let wrong = || Error::record(Space::State, &key, "is no member");
            let id = key
                .get(1..)
                .and_then(|id| id.try_into().ok())
                .ok_or_else(wrong)?;
            let id = u64::from_be_bytes(id);
            let (removed, message) = decode_member(id, &record)?;
            if removed {
                members.removed.insert(id);
            } else {
                let member = Member::decode(message).map_err(|_| wrong())?;
                members.present.insert(id, member);
            }
        }
        Ok(members)
    }

    /// One entry's change. Other kinds change nothing.
    pub(crate) fn change(
        &mut self,
        kind: Kind,
        message: Bytes,
        batch: &mut Batch,
    ) -> Result<(), Status> {
        match kind {
            Kind::MemberAttributes => self.set(read(message)?, batch),
            Kind::MembersFound => {
                let founders: MemberListResponse = read(message)?;
                self.found(founders.members, batch)
            }
            Kind::MemberAdd => self.add(read(message)?, batch),
            Kind::MemberPromote => {
                let request: MemberPromoteRequest = read(message)?;
                self.promote(request.id, batch)
            }
            Kind::MemberUpdate => {
                let request: MemberUpdateRequest = read(message)?;
                self.update(request.id, request.peer_urls, batch)
            }
            Kind::MemberRemove => {
                let request: MemberRemoveRequest = read(message)?;
                self.remove(request.id, batch)
            }
            _ => Ok(()),
        }
    }

    /// Takes over what a member says of itself: name and client URLs. Peer URLs and the learner flag
    /// are the cluster's to change; they are taken from the member only while it has no record.
    fn set(&mut self, said: Member, batch: &mut Batch) -> Result<(), Status> {
        self.check_id(said.id)?;
        let member = match self.present.get(&said.id) {
            None => said,
            Some(known) => Member {
                name: said.name,
                client_urls: said.client_urls,
                ..known.clone()
            },
        };
        self.keep(member, batch);
        Ok(())
    }

    /// The founders, all at once: a table is either empty or complete.
    fn found(&mut self, founders: Vec<Member>, batch: &mut Batch) -> Result<(), Status> {
        for founder in &founders {
            self.check_id(founder.id)?;
        }
        for founder in founders {
            self.keep(founder, batch);
        }
        Ok(())
    }

    fn add(&mut self, member: Member, batch: &mut Batch) -> Result<(), Status> {
        self.check_id(member.id)?;
        if self.present.contains_key(&member.id) {
            return Err(Status::member_exists());
        }
        self.keep(member, batch);
        Ok(())
    }

    /// From now on it votes.
    fn promote(&mut self, id: u64, batch: &mut Batch) -> Result<(), Status> {
        let known = self.present.get(&id).ok_or_else(Status::member_not_found)?;
        let member = Member {
            is_learner: false,
            ..known.clone()
        };
        self.keep(member, batch);
        Ok(())
    }

    /// Replaces its peer URLs, nothing else.
    fn update(&mut self, id: u64, peer_urls: Vec<String>, batch: &mut Batch) -> Result<(), Status> {
        let known = self.present.get(&id).ok_or_else(Status::member_not_found)?;
        let member = Member {
            peer_urls,
            ..known.clone()
        };
        self.keep(member, batch);
        Ok(())
    }

    fn remove(&mut self, id: u64, batch: &mut Batch) -> Result<(), Status> {
        if self.present.remove(&id).is_none() {
            return Err(Status::member_not_found());
        }
        self.removed.insert(id);
        batch.put(Space::State, member_key(id), encode_member(true, &[]));
        Ok(())
    }

    fn check_id(&self, id: u64) -> Result<(), Status> {
        if id == 0 || self.removed.contains(&id) {
            return Err(Status::member_not_found());
        }
        Ok(())
    }

    fn keep(&mut self, member: Member, batch: &mut Batch) {
        let record = encode_member(false, &member.encode_to_vec());
        batch.put(Space::State, member_key(member.id), record);
        self.present.insert(member.id, member);
    }
}
