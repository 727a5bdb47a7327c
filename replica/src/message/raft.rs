//! Between our messages and raft's, field by field.

use bytes::Bytes;
use raft::eraftpb::{self, MessageType};

use super::{Kind, Message};
use crate::log::{self, SnapshotOffer};
use crate::membership;

/// The context raft puts into a vote request that comes from a leadership transfer.
const BY_TRANSFER: &[u8] = b"CampaignTransfer";

impl Message {
    /// `None` for what this crate never makes raft say.
    pub(crate) fn from_raft(mut from: eraftpb::Message) -> Option<Self> {
        let kind = match from.get_msg_type() {
            MessageType::MsgAppend => Kind::Append,
            MessageType::MsgAppendResponse => Kind::AppendAnswer,
            MessageType::MsgHeartbeat => Kind::Heartbeat,
            MessageType::MsgHeartbeatResponse => Kind::HeartbeatAnswer,
            MessageType::MsgRequestPreVote => Kind::PreVote,
            MessageType::MsgRequestPreVoteResponse => Kind::PreVoteAnswer,
            MessageType::MsgRequestVote => Kind::Vote,
            MessageType::MsgRequestVoteResponse => Kind::VoteAnswer,
            MessageType::MsgSnapshot => Kind::Snapshot,
            MessageType::MsgTimeoutNow => Kind::TimeoutNow,
            _ => return None,
        };
        let mut to = Message::new(kind, from.from, from.to);
        to.term = from.term;
        to.log_term = from.log_term;
        to.index = from.index;
        to.commit = from.commit;
        to.commit_term = from.commit_term;
        to.hint = from.reject_hint;
        to.rejected = from.reject;
        if matches!(kind, Kind::Vote | Kind::PreVote) {
            to.by_transfer = from.context == BY_TRANSFER;
        } else {
            to.context = from.take_context();
        }
        if kind == Kind::Snapshot {
            let metadata = from.mut_snapshot().mut_metadata();
            to.index = metadata.index;
            to.log_term = metadata.term;
            to.membership = Some(membership::from_raft(
                metadata.take_conf_state(),
                metadata.index,
            ));
        }
        to.entries = from
            .take_entries()
            .into_iter()
            .map(log::from_raft)
            .collect();
        Some(to)
    }

    /// `None` for messages of our own.
    pub(crate) fn into_raft(self) -> Option<eraftpb::Message> {
        let kind = match self.kind {
            Kind::Append => MessageType::MsgAppend,
            Kind::AppendAnswer => MessageType::MsgAppendResponse,
            Kind::Heartbeat => MessageType::MsgHeartbeat,
            Kind::HeartbeatAnswer => MessageType::MsgHeartbeatResponse,
            Kind::PreVote => MessageType::MsgRequestPreVote,
            Kind::PreVoteAnswer => MessageType::MsgRequestPreVoteResponse,
            Kind::Vote => MessageType::MsgRequestVote,
            Kind::VoteAnswer => MessageType::MsgRequestVoteResponse,
            Kind::Snapshot => MessageType::MsgSnapshot,
            Kind::TimeoutNow => MessageType::MsgTimeoutNow,
            Kind::ReadAsk | Kind::ReadAnswer | Kind::Forward | Kind::ForwardAnswer => return None,
        };
        let mut to = eraftpb::Message::default();
        to.set_msg_type(kind);
        to.from = self.from;
        to.to = self.to;
        to.term = self.term;
        to.log_term = self.log_term;
        to.index = self.index;
        to.commit = self.commit;
        to.commit_term = self.commit_term;
        to.reject_hint = self.hint;
        to.reject = self.rejected;
        to.context = match self.kind {
            Kind::Vote | Kind::PreVote if self.by_transfer => Bytes::from_static(BY_TRANSFER),
            Kind::Vote | Kind::PreVote => Bytes::new(),
            _ => self.context,
        };
        if let Some(membership) = self.membership {
            let offer = SnapshotOffer {
                index: self.index,
                term: self.log_term,
                membership,
            };
            to.set_snapshot(log::snapshot_to_raft(&offer));
        }
        to.set_entries(self.entries.into_iter().map(log::to_raft).collect());
        Some(to)
    }
}
