//! What must hold before raft sees a peer's message.
//!
//! raft trusts its peers: it asserts where a number from a message contradicts its own state. The
//! messages that could reach such an assertion are recognised here and dropped (losing a message is
//! always legal), or end the replica with a typed error where dropping would hide that this log
//! lost something.

use raft::StateRole;

use crate::error::Error;
use crate::message::{Kind, Message};
use crate::replica::Replica;

impl Replica {
    /// True if raft may step the message.
    pub(crate) fn acceptable(&mut self, message: &Message) -> bool {
        match message.kind {
            Kind::Heartbeat => self.heartbeat_fits(message),
            Kind::Append => self.append_fits(message),
            Kind::AppendAnswer => self.answer_fits(message),
            Kind::TimeoutNow => self.timeout_now_fits(message),
            _ => true,
        }
    }

    /// A leader tells a follower no commit beyond what that follower has acknowledged in this term,
    /// and such entries are durable. Told more than the log holds, the log has lost something.
    fn heartbeat_fits(&mut self, message: &Message) -> bool {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        let listens = message.term > raft.term
            || (message.term == raft.term && raft.state != StateRole::Leader);
        if listens && message.commit > last {
            let Message {
                from: leader,
                term,
                commit: told,
                ..
            } = *message;
            self.fail(Error::LogRegressed {
                leader,
                term,
                told,
                last,
            });
            return false;
        }
        true
    }

    /// While the store is so far behind that the tail is past every bound, no more is taken. What
    /// is committed already goes on being applied, so this ends by itself.
    fn append_fits(&self, message: &Message) -> bool {
        let bound = 2 * (self.config.tail_bytes_max + self.config.proposal_bytes_max);
        message.entries.is_empty() || self.raw.store().bytes() < bound
    }

    /// A peer cannot agree beyond what this leader has.
    fn answer_fits(&self, message: &Message) -> bool {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        let counts = raft.state == StateRole::Leader && message.term == raft.term;
        !counts || (message.index <= last && message.hint <= last)
    }

    /// Told to campaign at once: under the same conditions as by timeout. A message of an older
    /// term is stale, and raft ignores it. A single voter needs nobody to tell it.
    fn timeout_now_fits(&self, message: &Message) -> bool {
        let stale = message.term < self.raw.raft.term;
        stale || (self.may_campaign() && !self.stalled && !self.alone())
    }
}
