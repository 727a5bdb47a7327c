//! The settings of one replica.

use raft::{Config as RaftConfig, ReadOnlyOption};

use crate::error::Error;

/// raft's own election window, in ticks: never reached.
const NEVER: usize = 1 << 40;

/// Settings of one replica. Ticks are whatever the node makes them; 100 ms is usual.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member, not 0.
    pub id: u64,
    /// Differs in every life of this member (a start counter, a random number); part of read
    /// contexts, so that a late answer to an earlier life means nothing.
    pub incarnation: u64,
    /// Feeds the election timeouts. May be the same on all members.
    pub seed: u64,
    /// Without a leader's word for this long a member campaigns; timeouts are drawn from
    /// `election_ticks .. 2 * election_ticks`. At least 2, greater than `heartbeat_ticks`.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats, at least 1.
    pub heartbeat_ticks: usize,
    /// Ask before campaigning, so that a member which was cut off does not disturb.
    pub pre_vote: bool,
    /// Entry bytes per append message; one entry goes out whatever its size.
    pub message_bytes_max: u64,
    /// Append messages on their way to one peer.
    pub messages_in_flight_max: usize,
    /// Entry bytes handed out as committed per poll; one entry whatever its size.
    pub committed_bytes_max: u64,
    /// Payload bytes of one proposal.
    pub entry_bytes_max: usize,
    /// Proposals taken and not yet applied; one more is refused as busy.
    pub proposals_max: usize,
    /// Their bytes (each charged 64 more than its payload); the one that would exceed it is refused
    /// as busy.
    pub proposal_bytes_max: usize,
    /// Bytes of log kept in memory for peers that are a little behind. What is not applied yet is
    /// kept beyond this; an append from a leader that would reach twice the sum of this and
    /// `proposal_bytes_max` is dropped until the store has caught up.
    pub tail_bytes_max: usize,
    /// Reads held at a time; one more is refused as busy.
    pub reads_max: usize,
    /// Ticks until a batch of reads is asked again.
    pub read_retry_ticks: u64,
    /// Ticks until a read is given up as timed out.
    pub read_patience_ticks: u64,
    /// A learner this many entries behind the leader's commit may be promoted.
    pub promote_gap: u64,
    /// Refuse membership changes after which fewer than a quorum would be reachable.
    pub strict_reconfiguration: bool,
    /// A peer counts as reachable for such a change only when its connection has stood for this many
    /// ticks (see [`linked`](crate::Replica::linked)); 0 does without connections.
    pub linked_ticks_min: u64,
}

impl Config {
    /// Defaults for a member.
    pub fn new(id: u64) -> Self {
        Config {
            id,
            incarnation: 0,
            seed: 0,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            message_bytes_max: 1 << 20,
            messages_in_flight_max: 256,
            committed_bytes_max: 4 << 20,
            entry_bytes_max: 12 << 20,
            proposals_max: 10_000,
            proposal_bytes_max: 64 << 20,
            tail_bytes_max: 64 << 20,
            reads_max: 100_000,
            read_retry_ticks: 5,
            read_patience_ticks: 100,
            promote_gap: 1_000,
            strict_reconfiguration: true,
            linked_ticks_min: 0,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.to_owned()));
        if self.id == 0 {
            return wrong("member id must not be 0");
        }
        if self.heartbeat_ticks == 0 || self.election_ticks <= self.heartbeat_ticks {
            return wrong("election ticks must be greater than heartbeat ticks, and those than 0");
        }
        if self.election_ticks > 1 << 20 {
            return wrong("election ticks beyond a million");
        }
        if self.messages_in_flight_max == 0 || self.proposals_max == 0 || self.reads_max == 0 {
            return wrong("a limit of 0 would refuse everything");
        }
        Ok(())
    }

    pub(crate) fn raft(&self, applied: u64) -> RaftConfig {
        RaftConfig {
            id: self.id,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            min_election_tick: NEVER,
            max_election_tick: NEVER + 1,
            applied,
            max_size_per_msg: self.message_bytes_max,
            max_inflight_msgs: self.messages_in_flight_max,
            check_quorum: true,
            pre_vote: self.pre_vote,
            // The other option answers reads on the strength of a guess about clocks.
            read_only_option: ReadOnlyOption::Safe,
            // Followers serve watches: they should hear of commits early.
            skip_bcast_commit: false,
            batch_append: false,
            priority: 0,
            // Limits are kept in `proposals.rs`, before anything is taken.
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: self.committed_bytes_max,
        }
    }
}
