//! Who votes and who learns, as plain data. The log repeats it in every checkpoint so that a member
//! knows its peers before anything was applied; it never interprets it.

use bytes::BufMut;

use crate::record::{Fields, Malformed};

/// The members as of a log index, joint configurations included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Index of the last conf change contained.
    pub index: u64,
    /// Voters of the (incoming) configuration.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// Voters of the outgoing configuration; empty unless joint.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when the joint configuration is left.
    pub learners_next: Vec<u64>,
    /// Whether the joint configuration is left without being asked.
    pub auto_leave: bool,
}

/// Most ids in one list that a reader accepts; far above any cluster, and a bound on memory.
pub const IDS_MAX: usize = 4096;

impl Membership {
    /// Bytes of the encoded form.
    pub fn encoded_bytes(&self) -> usize {
        8 + self
            .lists()
            .iter()
            .map(|ids| 4 + 8 * ids.len())
            .sum::<usize>()
            + 1
    }

    /// Appends the encoded form: index, four counted lists of ids, the auto-leave byte.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.index);
        for ids in self.lists() {
            let count = u32::try_from(ids.len()).expect("lists were checked against IDS_MAX");
            out.put_u32_le(count);
            ids.iter().for_each(|id| out.put_u64_le(*id));
        }
        out.put_u8(u8::from(self.auto_leave));
    }

    /// Reads what [`Membership::encode`] wrote and leaves `from` behind it.
    pub(crate) fn decode(from: &mut Fields<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            index: from.u64()?,
            voters: ids(from)?,
            learners: ids(from)?,
            voters_outgoing: ids(from)?,
            learners_next: ids(from)?,
            auto_leave: match from.u8()? {
                0 => false,
                1 => true,
                _ => return Err(Malformed("auto-leave is neither 0 nor 1")),
            },
        })
    }

    /// Whether every list is within [`IDS_MAX`].
    pub fn is_encodable(&self) -> bool {
        self.lists().iter().all(|ids| ids.len() <= IDS_MAX)
    }

    fn lists(&self) -> [&Vec<u64>; 4] {
        [
            &self.voters,
            &self.learners,
            &self.voters_outgoing,
            &self.learners_next,
        ]
    }
}

fn ids(from: &mut Fields<'_>) -> Result<Vec<u64>, Malformed> {
    let count = usize::try_from(from.u32()?).map_err(|_| Malformed("id count"))?;
    if count > IDS_MAX {
        return Err(Malformed(
            "more ids in a membership list than any cluster has",
        ));
    }
    (0..count).map(|_| from.u64()).collect()
}
