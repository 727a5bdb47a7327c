//! gRPC statuses and the exact texts of the protocol.
//!
//! Clients turn a text they know into a typed error, some whatever the code is; so both are
//! protocol. Every fixed text lives in this one table.

use std::borrow::Cow;
use std::fmt;

/// gRPC status code, numbered as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The number as the `grpc-status` trailer writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::Ok => "0",
            Code::Cancelled => "1",
            Code::Unknown => "2",
            Code::InvalidArgument => "3",
            Code::DeadlineExceeded => "4",
            Code::NotFound => "5",
            Code::AlreadyExists => "6",
            Code::PermissionDenied => "7",
            Code::ResourceExhausted => "8",
            Code::FailedPrecondition => "9",
            Code::Aborted => "10",
            Code::OutOfRange => "11",
            Code::Unimplemented => "12",
            Code::Internal => "13",
            Code::Unavailable => "14",
            Code::DataLoss => "15",
            Code::Unauthenticated => "16",
        }
    }

    /// The code with this number; a number nobody defined reads as `Unknown`.
    pub const fn from_u8(number: u8) -> Code {
        match number {
            0 => Code::Ok,
            1 => Code::Cancelled,
            3 => Code::InvalidArgument,
            4 => Code::DeadlineExceeded,
            5 => Code::NotFound,
            6 => Code::AlreadyExists,
            7 => Code::PermissionDenied,
            8 => Code::ResourceExhausted,
            9 => Code::FailedPrecondition,
            10 => Code::Aborted,
            11 => Code::OutOfRange,
            12 => Code::Unimplemented,
            13 => Code::Internal,
            14 => Code::Unavailable,
            15 => Code::DataLoss,
            16 => Code::Unauthenticated,
            _ => Code::Unknown,
        }
    }

    /// The name as Go's gRPC prints it inside `rpc error: code = ...` texts.
    pub const fn go_name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Cancelled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }
}

/// Why a call failed, as the client will read it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.go_name())
    }
}

impl Status {
    /// A status with a text of its own.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Status {
        Status {
            code,
            message: message.into(),
        }
    }

    const fn fixed(code: Code, message: &'static str) -> Status {
        Status {
            code,
            message: Cow::Borrowed(message),
        }
    }

    /// The same text with code UNKNOWN: how the lock and election services pass on every error.
    pub fn into_unknown(self) -> Status {
        Status {
            code: Code::Unknown,
            ..self
        }
    }

    /// The form a watch refusal carries as its `cancel_reason` when auth is the cause.
    pub fn to_cancel_reason(&self) -> String {
        format!(
            "rpc error: code = {} desc = {}",
            self.code.go_name(),
            self.message
        )
    }

    /// A request longer than the receive limit (both in bytes).
    pub fn message_too_large(announced: u64, limit: usize) -> Status {
        Status::new(
            Code::ResourceExhausted,
            format!("grpc: received message larger than max ({announced} vs. {limit})"),
        )
    }

    /// An answer longer than the send limit (both in bytes).
    pub fn answer_too_large(length: usize, limit: usize) -> Status {
        Status::new(
            Code::ResourceExhausted,
            format!("grpc: trying to send message larger than max ({length} vs. {limit})"),
        )
    }

    /// The request's bytes are not the message the method takes.
    pub fn malformed(error: &prost::DecodeError) -> Status {
        Status::new(
            Code::Internal,
            format!("grpc: error unmarshalling request: {error}"),
        )
    }

    /// The request is compressed in a way this server does not read; it reads none.
    pub fn unknown_encoding(encoding: &str) -> Status {
        Status::new(
            Code::Unimplemented,
            format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}"),
        )
    }
}

/// `name, code, text` for every fixed text; makes a constructor of each.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident, $code:ident, $text:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const fn $name() -> Status { Status::fixed(Code::$code, $text) })*

            /// Every fixed status with the name of its constructor.
            pub const ALL: &'static [(&'static str, Status)] = &[
                $((stringify!($name), Status::$name()),)*
            ];
        }
    };
}

texts! {
    /// Empty key in a read, write, compare or transaction operation.
    key_not_provided, InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on an absent key; a transaction operation without member.
    key_not_found, InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    value_provided, InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    lease_provided, InvalidArgument, "etcdserver: lease is provided";
    /// More compares or operations than allowed, nested ones included.
    too_many_ops, InvalidArgument, "etcdserver: too many operations in txn request";
    /// A branch puts a key twice, or puts one that it also deletes.
    duplicate_key, InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// Metadata `client-api-version` is not text.
    invalid_client_api_version, InvalidArgument, "etcdserver: invalid client api version";
    /// Unknown sort order or target.
    invalid_sort_option, InvalidArgument, "etcdserver: invalid sort option";
    /// Below the compact revision.
    compacted, OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// Above the current revision.
    future_revision, OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// Over quota, or a NOSPACE alarm is on.
    no_space, ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// Put or revoke with a lease that does not exist.
    lease_not_found, NotFound, "etcdserver: requested lease not found";
    /// Grant with an id in use.
    lease_exists, FailedPrecondition, "etcdserver: lease already exists";
    /// Grant with a TTL above 9 000 000 000 s.
    lease_ttl_too_large, OutOfRange, "etcdserver: too large lease TTL";
    /// The server ended the watch stream.
    watch_canceled, Cancelled, "etcdserver: watch canceled";
    member_exists, FailedPrecondition, "etcdserver: member ID already exist";
    /// The odd capital is the protocol's.
    peer_urls_exist, FailedPrecondition, "etcdserver: Peer URLs already exists";
    member_urls_invalid, InvalidArgument, "etcdserver: given member URLs are invalid";
    member_not_found, NotFound, "etcdserver: member not found";
    /// Promotion of a voter.
    member_not_learner, FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Promotion of a learner that has less than 90 % of the leader's log.
    learner_not_ready, FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    too_many_learners, FailedPrecondition, "etcdserver: too many learner members in cluster";
    cluster_id_mismatch, FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// The command would be longer than the request limit.
    request_too_large, InvalidArgument, "etcdserver: request is too large";
    root_user_missing, FailedPrecondition, "etcdserver: root user does not exist";
    root_role_missing, FailedPrecondition, "etcdserver: root user does not have root role";
    user_exists, FailedPrecondition, "etcdserver: user name already exists";
    /// Also: any request without identity while auth is on.
    user_empty, InvalidArgument, "etcdserver: user name is empty";
    user_not_found, FailedPrecondition, "etcdserver: user name not found";
    role_exists, FailedPrecondition, "etcdserver: role name already exists";
    role_not_found, FailedPrecondition, "etcdserver: role name not found";
    role_empty, InvalidArgument, "etcdserver: role name is empty";
    auth_failed, InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// A grant without the permission to grant.
    permission_not_given, InvalidArgument, "etcdserver: permission not given";
    permission_denied, PermissionDenied, "etcdserver: permission denied";
    role_not_granted, FailedPrecondition, "etcdserver: role is not granted to the user";
    permission_not_granted, FailedPrecondition, "etcdserver: permission is not granted to the role";
    auth_not_enabled, FailedPrecondition, "etcdserver: authentication is not enabled";
    invalid_auth_token, Unauthenticated, "etcdserver: invalid auth token";
    /// Would take the root user or role away while auth is on; or a bad permission interval.
    invalid_auth_management, InvalidArgument, "etcdserver: invalid auth management";
    /// The auth data changed since the token was checked.
    auth_old_revision, InvalidArgument, "etcdserver: revision of auth store is old";
    no_leader, Unavailable, "etcdserver: no leader";
    /// Only the leader can hand leadership over.
    not_leader, FailedPrecondition, "etcdserver: not leader";
    leader_changed, Unavailable, "etcdserver: leader changed";
    not_capable, FailedPrecondition, "etcdserver: not capable";
    server_stopped, Unavailable, "etcdserver: server stopped";
    timed_out, Unavailable, "etcdserver: request timed out";
    timed_out_leader_failure, Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    timed_out_connection_lost, Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    timed_out_waiting_for_apply, Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    unhealthy_cluster, Unavailable, "etcdserver: unhealthy cluster";
    /// A CORRUPT alarm is on.
    corrupt, DataLoss, "etcdserver: corrupt cluster";
    not_supported_for_learner, FailedPrecondition, "etcdserver: rpc not supported for learner";
    bad_leader_transferee, FailedPrecondition, "etcdserver: bad leader transferee";
    downgrade_version_format, InvalidArgument, "etcdserver: wrong downgrade target version format";
    downgrade_version_invalid, InvalidArgument, "etcdserver: invalid downgrade target version";
    cluster_version_unavailable, FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    downgrade_in_progress, FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    no_downgrade, FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// The client went away while its proposal was pending.
    request_canceled, Cancelled, "etcdserver: request canceled";
    /// The client went away elsewhere.
    context_canceled, Cancelled, "context canceled";
    deadline_exceeded, DeadlineExceeded, "context deadline exceeded";

    // Texts that other servers send as UNKNOWN; the first two with the code they were meant to have.
    not_enough_started_members, FailedPrecondition, "etcdserver: re-configuration failed due to not enough started members";
    too_many_requests, ResourceExhausted, "etcdserver: too many requests";
    /// As [`Status::request_canceled`], in the words of releases up to 3.6.
    request_cancelled, Unknown, "etcdserver: request cancelled";
    unknown_method, Unknown, "etcdserver: unknown method";
    timed_out_leader_transfer, Unknown, "etcdserver: request timed out, leader transfer took too long";
    no_password_user, Unknown, "auth: authentication failed, password was given for no password user";
    token_verify_only, Unknown, "auth: token signing attempted with verify-only key";
    password_too_long, Unknown, "bcrypt: password length exceeds 72 bytes";
    not_primary_lessor, Unknown, "not a primary lessor";
    proposal_dropped, Unknown, "raft proposal dropped";
    session_expired, Unknown, "mutex: session is expired";
    election_no_leader, Unknown, "election: no leader";
    election_not_leader, Unknown, "election: not leader";
    /// An Observe stream could not go on.
    election_observe_closed, Unknown, "election: observe closed early";
    /// The quotes are the protocol's.
    leader_key_missing, Unknown, "\"leader\" field must be provided";

    // Transport level.
    /// RangeStream with an order it cannot page in.
    range_stream_sort, Unimplemented, "RangeStream does not support custom sort orders";
    range_stream_filters, Unimplemented, "RangeStream does not support revision filters";
    /// Health check of a service that is not there.
    health_unknown_service, NotFound, "unknown service";
    /// The compressed flag is set although no compression was agreed on.
    compressed_without_encoding, Internal, "grpc: compressed flag set with identity or empty encoding";
    /// The client ended the request in the middle of a message.
    truncated_message, Internal, "unexpected EOF";
    /// The client ended the request without a message.
    missing_message, Internal, "EOF";
}

/// Reasons a watch is refused for, as `cancel_reason` texts without a code.
pub mod cancel_reason {
    /// Negative start revision.
    pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
    /// `range_end` is not above `key`.
    pub const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
    /// The id is in use on the stream.
    pub const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn texts_and_codes_are_the_protocols() {
        // A sample of each code, written out a second time on purpose.
        for (status, code, text) in [
            (
                Status::key_not_provided(),
                3,
                "etcdserver: key is not provided",
            ),
            (
                Status::compacted(),
                11,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (
                Status::future_revision(),
                11,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            (
                Status::no_space(),
                8,
                "etcdserver: mvcc: database space exceeded",
            ),
            (
                Status::lease_not_found(),
                5,
                "etcdserver: requested lease not found",
            ),
            (
                Status::lease_exists(),
                9,
                "etcdserver: lease already exists",
            ),
            (Status::watch_canceled(), 1, "etcdserver: watch canceled"),
            (
                Status::peer_urls_exist(),
                9,
                "etcdserver: Peer URLs already exists",
            ),
            (
                Status::permission_denied(),
                7,
                "etcdserver: permission denied",
            ),
            (
                Status::invalid_auth_token(),
                16,
                "etcdserver: invalid auth token",
            ),
            (Status::no_leader(), 14, "etcdserver: no leader"),
            (Status::corrupt(), 15, "etcdserver: corrupt cluster"),
            (Status::deadline_exceeded(), 4, "context deadline exceeded"),
            (
                Status::range_stream_sort(),
                12,
                "RangeStream does not support custom sort orders",
            ),
            (Status::proposal_dropped(), 2, "raft proposal dropped"),
            (
                Status::leader_key_missing(),
                2,
                "\"leader\" field must be provided",
            ),
        ] {
            assert_eq!((status.code as u8, status.message.as_ref()), (code, text));
        }
    }

    #[test]
    fn no_text_stands_in_the_table_twice() {
        let texts: HashSet<_> = Status::ALL
            .iter()
            .map(|(_, status)| &status.message)
            .collect();
        assert_eq!(texts.len(), Status::ALL.len());
    }

    #[test]
    fn codes_survive_the_way_through_their_number() {
        for number in 0..=16u8 {
            let code = Code::from_u8(number);
            assert_eq!(code as u8, number);
            assert_eq!(code.as_str(), number.to_string());
        }
        assert_eq!(Code::from_u8(17), Code::Unknown);
    }

    #[test]
    fn cancel_reasons_carry_the_whole_go_error() {
        for (status, text) in [
            (
                Status::user_empty(),
                "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
            ),
            (
                Status::invalid_auth_token(),
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
            ),
            (
                Status::auth_old_revision(),
                "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
            ),
            (
                Status::permission_denied(),
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            ),
        ] {
            assert_eq!(status.to_cancel_reason(), text);
        }
        assert_eq!(cancel_reason::COMPACTED, Status::compacted().message);
    }

    #[test]
    fn lock_and_election_errors_keep_the_text_only() {
        let status = Status::lease_not_found().into_unknown();
        assert_eq!(status.code, Code::Unknown);
        assert_eq!(status.message, Status::lease_not_found().message);
    }
}
