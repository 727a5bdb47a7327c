//! What can go wrong, and what can be refused.
//!
//! [`Error`] ends a replica (or keeps it from starting) and carries the numbers an operator needs.
//! [`Refused`] is an ordinary answer: the request was not taken and may be tried again or
//! elsewhere. [`MessageError`] says why a peer's bytes are not a message.

/// Why a replica cannot start or must stop. After one of these left in an output, the replica is
/// inert: it sends, writes and promises nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A setting outside its bounds.
    #[error("configuration: {0}")]
    Config(String),
    /// A membership no cluster can have.
    #[error("membership as of index {index}: member {member} {reason}")]
    Membership {
        index: u64,
        member: u64,
        reason: &'static str,
    },
    /// The restored entries do not follow each other.
    #[error("restored log: entry {found} where {expected} should be")]
    EntryGap { expected: u64, found: u64 },
    /// Terms must not fall along the log.
    #[error("restored log: term falls from {before} to {found} at index {index}")]
    TermFalls { index: u64, before: u64, found: u64 },
    /// The snapshot and the log disagree about one index.
    #[error("restored log: entry {index} has term {found}, the snapshot says {expected}")]
    SnapshotTerm {
        index: u64,
        expected: u64,
        found: u64,
    },
    /// The store claims more than the log holds: acknowledged entries are missing.
    #[error("store has applied up to {applied}, but the log ends at {last}")]
    AppliedBeyondLog { applied: u64, last: u64 },
    /// The store needs entries the log no longer has.
    #[error("store has applied up to {applied}, but the log begins at {first}")]
    AppliedBelowLog { applied: u64, first: u64 },
    /// The hard state claims more than the log holds.
    #[error("hard state says {commit} is committed, but the log ends at {last}")]
    CommitBeyondLog { commit: u64, last: u64 },
    /// The leader knows that we had an entry which our log no longer holds. Going on could lose
    /// acknowledged writes; the member must be checked with the offline tool and, if its log is
    /// really short, replaced under a new id.
    #[error(
        "log regressed: leader {leader:x} of term {term} told commit {told}, this log ends at \
         {last}; check the data directory offline, then remove this member and add it anew"
    )]
    LogRegressed {
        leader: u64,
        term: u64,
        told: u64,
        last: u64,
    },
    /// A committed membership change that this version cannot read.
    #[error("entry {index}: membership change not understood: {reason}")]
    ConfChange { index: u64, reason: &'static str },
    /// The raft crate refused what should have been acceptable.
    #[error("raft: {0}")]
    Raft(String),
}

/// Why a request was not taken. Nothing was changed; the request did not and will not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another member leads, or nobody known (`None`).
    #[error("not the leader")]
    NotLeader { leader: Option<u64> },
    /// A limit on requests in flight is reached; try again shortly.
    #[error("too many requests")]
    Busy,
    /// Leadership is being handed over; ask the next leader.
    #[error("leadership is being transferred")]
    Transferring,
    /// The leader's disk does not answer; another member should lead.
    #[error("disk is stalled")]
    Stalled,
    /// One entry must not be larger than `limit` bytes.
    #[error("entry of {bytes} bytes exceeds {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// An entry without a payload is raft's own.
    #[error("empty entry")]
    Empty,
    /// This member was removed from the cluster.
    #[error("member was removed")]
    Removed,
    /// The replica has stopped with an error.
    #[error("replica has failed")]
    Failed,
    /// The read was not confirmed within its ticks.
    #[error("timed out")]
    TimedOut,
    /// A membership change is still on its way, or (after an election) may be.
    #[error("a membership change is pending")]
    ConfChangePending,
    /// The membership has changed since the asker looked: it must look again.
    #[error("the membership has changed meanwhile")]
    ConfChangeStale,
    /// The change makes no sense for the present membership.
    #[error("membership change: {0}")]
    ConfChangeInvalid(&'static str),
    /// The leader must hand over before it is removed or demoted.
    #[error("the leader must transfer leadership before it is removed")]
    TransferFirst,
    /// A learner may vote only when it has nearly everything.
    #[error("learner {member:x} has {matched} of {commit} entries")]
    LearnerBehind {
        member: u64,
        matched: u64,
        commit: u64,
    },
    /// After the change fewer than a quorum of the voters would be reachable.
    #[error("{active} of {voters} voters reachable after the change, {quorum} needed")]
    QuorumAtRisk {
        active: usize,
        voters: usize,
        quorum: usize,
    },
    /// Nobody to transfer to: unknown, a learner, this member, or not heard of lately.
    #[error("no such voter to transfer to")]
    NoTransferee,
}

/// Why bytes are not a peer message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("message version {found}, this program reads {known}")]
    Version { found: u8, known: u8 },
    #[error("message kind {0} is unknown")]
    Kind(u8),
    #[error("flag bits {0:#x} are unknown")]
    Flags(u16),
    #[error("message of {found} bytes, at least {needed} expected")]
    Truncated { needed: usize, found: usize },
    #[error("{0} bytes behind the end of the message")]
    Trailing(usize),
    #[error("{what} is {found}, at most {limit} allowed")]
    TooMany {
        what: &'static str,
        found: u64,
        limit: u64,
    },
    #[error("entry kind {0} is unknown")]
    EntryKind(u8),
    #[error("{0} must be zero")]
    NotZero(&'static str),
    #[error("{what} is {value}, outside what a log can hold")]
    Number { what: &'static str, value: u64 },
    #[error("entry {index} has term {term} beside {neighbour}")]
    Term {
        index: u64,
        term: u64,
        neighbour: u64,
    },
    #[error("a message of this kind has no {0}")]
    Unexpected(&'static str),
    #[error("a message of this kind needs {0}")]
    Missing(&'static str),
    #[error("membership: {0}")]
    Membership(#[from] Box<Error>),
}
