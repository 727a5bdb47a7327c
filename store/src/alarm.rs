//! Alarms that are on: pairs of member and type, agreed on through the log.

use std::collections::BTreeSet;

use kvnode_api::alarm_request::AlarmAction;
use kvnode_api::{AlarmMember, AlarmRequest, AlarmType};

use crate::engine::{Batch, Reader, Space};
use crate::error::Error;
use crate::schema::{TAG_ALARM, alarm_key};

/// The table; small, so each view has it whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// (type, member)
    active: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// Alarms of one type, or all of them for [`AlarmType::None`]; by type, then member.
    pub fn list(&self, alarm: i32) -> Vec<AlarmMember> {
        let wanted = |active: &&(i32, u64)| alarm == AlarmType::None as i32 || active.0 == alarm;
        let member = |&(alarm, member_id): &(i32, u64)| AlarmMember { member_id, alarm };
        self.active.iter().filter(wanted).map(member).collect()
    }

    /// Whether any member has raised it.
    pub fn is_active(&self, alarm: AlarmType) -> bool {
        self.active
            .range((alarm as i32, 0)..=(alarm as i32, u64::MAX))
            .next()
            .is_some()
    }

    /// Whether it is on for this very member.
    pub fn has(&self, alarm: AlarmType, member_id: u64) -> bool {
        self.active.contains(&(alarm as i32, member_id))
    }

    pub(crate) fn load<V: Reader>(reader: &V) -> Result<Self, Error> {
        let mut active = BTreeSet::new();
        for item in reader.scan(Space::State, &[TAG_ALARM], Some(&[TAG_ALARM + 1]), false) {
            let (key, _) = item?;
            let parsed = || {
                let (member, alarm) = key.get(1..)?.split_first_chunk::<8>()?;
                let alarm = i32::from_be_bytes(alarm.try_into().ok()?);
                Some((alarm, u64::from_be_bytes(*member)))
            };
            active.insert(
                parsed().ok_or_else(|| Error::record(Space::State, &key, "is no alarm's key"))?,
            );
        }
        Ok(Self { active })
    }

    /// Applies a request and answers with the alarms it met: all listed ones, the one that is on
    /// now, or the one taken away.
    pub(crate) fn apply(&mut self, request: &AlarmRequest, batch: &mut Batch) -> Vec<AlarmMember> {
        let place = (request.alarm, request.member_id);
        let key = || alarm_key(request.member_id, request.alarm);
        let met = vec![AlarmMember {
            member_id: request.member_id,
            alarm: request.alarm,
        }];
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.list(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                if self.active.insert(place) {
                    batch.put(Space::State, key(), "");
                }
                met
            }
            Ok(AlarmAction::Deactivate) if self.active.remove(&place) => {
                batch.delete(Space::State, key());
                met
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::engine::memory::MemoryEngine;

    fn request(action: AlarmAction, member_id: u64, alarm: AlarmType) -> AlarmRequest {
        AlarmRequest {
            action: action as i32,
            member_id,
            alarm: alarm as i32,
        }
    }

    #[test]
    fn alarms_are_raised_once_listed_and_cleared_by_exact_member_and_type() {
        use AlarmAction::{Activate, Deactivate, Get};
        use AlarmType::{Corrupt, None, Nospace};
        let mut engine = MemoryEngine::new();
        let mut alarms = Alarms::default();
        let mut batch = Batch::new();
        let mut apply = |alarms: &mut Alarms, request| alarms.apply(&request, &mut batch);

        assert_eq!(apply(&mut alarms, request(Activate, 7, None)), []);
        let on = AlarmMember {
            member_id: 7,
            alarm: Nospace as i32,
        };
        assert_eq!(apply(&mut alarms, request(Activate, 7, Nospace)), [on]);
        assert_eq!(apply(&mut alarms, request(Activate, 7, Nospace)), [on]);
        let other = AlarmMember {
            member_id: 8,
            alarm: Corrupt as i32,
        };
        assert_eq!(apply(&mut alarms, request(Activate, 8, Corrupt)), [other]);
        assert_eq!(apply(&mut alarms, request(Get, 0, None)), [on, other]);
        assert_eq!(apply(&mut alarms, request(Get, 0, Corrupt)), [other]);
        assert!(alarms.is_active(Nospace) && alarms.is_active(Corrupt));

        assert_eq!(apply(&mut alarms, request(Deactivate, 0, Nospace)), []);
        assert_eq!(apply(&mut alarms, request(Deactivate, 7, Corrupt)), []);
        assert_eq!(apply(&mut alarms, request(Deactivate, 7, Nospace)), [on]);
        assert_eq!(apply(&mut alarms, request(Deactivate, 7, Nospace)), []);
        assert!(!alarms.is_active(Nospace) && alarms.is_active(Corrupt));

        engine.commit(batch).unwrap();
        assert_eq!(Alarms::load(&engine.view()).unwrap(), alarms);
    }
}
