//! The member table: how the members of the cluster describe themselves.
//!
//! Who votes is the log's business; this is what clients are told. A member announces its own
//! record through the log when it starts; an id that was removed never comes back.

use std::collections::{BTreeMap, BTreeSet};

use kvnode_api::{Member, Message, Status};

use crate::engine::{Batch, Reader, Space};
use crate::error::Error;
use crate::schema::{TAG_MEMBER, decode_member, encode_member, member_key};

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

    pub fn get(&self, id: u64) -> Option<&Member> {
        self.present.get(&id)
    }

    /// Whether the id was a member once and must not be one again.
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
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

    /// Takes over what a member says of itself: name and client URLs always, peer URLs if it names
    /// any, the learner flag only when it is new (later that is the log's to change).
    pub(crate) fn set(&mut self, said: Member, batch: &mut Batch) -> Result<(), Status> {
        if said.id == 0 || self.removed.contains(&said.id) {
            return Err(Status::member_not_found());
        }
        let member = match self.present.get(&said.id) {
            None => said,
            Some(known) => Member {
                is_learner: known.is_learner,
                peer_urls: if said.peer_urls.is_empty() {
                    known.peer_urls.clone()
                } else {
                    said.peer_urls
                },
                ..said
            },
        };
        let record = encode_member(false, &member.encode_to_vec());
        batch.put(Space::State, member_key(member.id), record);
        self.present.insert(member.id, member);
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: u64, batch: &mut Batch) -> Result<(), Status> {
        if self.present.remove(&id).is_none() {
            return Err(Status::member_not_found());
        }
        self.removed.insert(id);
        batch.put(Space::State, member_key(id), encode_member(true, &[]));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::engine::memory::MemoryEngine;

    #[test]
    fn members_describe_themselves_and_removed_ids_stay_away() {
        let mut engine = MemoryEngine::new();
        let mut members = Members::default();
        let mut batch = Batch::new();
        let member = Member {
            id: 9,
            name: String::new(),
            peer_urls: vec!["http://a:1".into()],
            client_urls: vec![],
            is_learner: true,
        };
        members.set(member.clone(), &mut batch).unwrap();
        let started = Member {
            name: "a".into(),
            peer_urls: vec![],
            client_urls: vec!["http://a:2".into()],
            is_learner: false,
            ..member.clone()
        };
        members.set(started.clone(), &mut batch).unwrap();
        let expected = Member {
            peer_urls: member.peer_urls.clone(),
            is_learner: true,
            ..started.clone()
        };
        assert_eq!(members.get(9), Some(&expected));
        members
            .set(
                Member {
                    id: 3,
                    ..member.clone()
                },
                &mut batch,
            )
            .unwrap();
        assert_eq!(
            members
                .list()
                .iter()
                .map(|member| member.id)
                .collect::<Vec<_>>(),
            [3, 9]
        );

        members.remove(3, &mut batch).unwrap();
        assert_eq!(
            members.remove(3, &mut batch),
            Err(Status::member_not_found())
        );
        assert!(members.is_removed(3));
        let again = members.set(Member { id: 3, ..member }, &mut batch);
        assert_eq!(again, Err(Status::member_not_found()));

        engine.commit(batch).unwrap();
        assert_eq!(Members::load(&engine.view()).unwrap(), members);
    }
}
