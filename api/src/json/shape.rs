//! What fields each message has: the one table behind both directions.
//!
//! Numbers and names are the protocol's. A row reads: number, name, how many (`one`, `many`, or
//! `member` of the message's one-of), kind.

/// A message's fields, by ascending number.
#[derive(Debug)]
pub struct Shape {
    /// As in the protocol, without its package.
    pub name: &'static str,
    pub fields: &'static [Field],
}

#[derive(Debug)]
pub struct Field {
    pub number: u32,
    /// As in the protocol.
    pub name: &'static str,
    pub kind: Kind,
    /// Repeated.
    pub many: bool,
    /// Of the message's one-of; no message here has two.
    pub member: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Int64,
    Uint64,
    Uint32,
    Bool,
    Bytes,
    String,
    /// Names of the numbers from 0 on.
    Enum(&'static [&'static str]),
    Message(&'static Shape),
}

impl Kind {
    /// Whether its values carry their length on the wire.
    pub fn is_delimited(self) -> bool {
        matches!(self, Kind::Bytes | Kind::String | Kind::Message(_))
    }

    /// What the numbers take.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Kind::Int64 => "a whole number of 64 bits",
            Kind::Uint64 => "a whole number of 64 bits, not negative",
            _ => "a whole number of 32 bits, not negative",
        }
    }
}

impl Field {
    /// Whether this is the field's name, or its lowerCamelCase: `prev_kv` or `prevKv`.
    pub fn is_named(&self, name: &str) -> bool {
        if name == self.name {
            return true;
        }
        let mut given = name.bytes();
        let mut own = self.name.bytes();
        while let Some(byte) = own.next() {
            let expected = match byte {
                b'_' => own.next().map(|next| next.to_ascii_uppercase()),
                other => Some(other),
            };
            if given.next() != expected {
                return false;
            }
        }
        given.next().is_none()
    }
}

macro_rules! kind {
    (int64) => {
        Kind::Int64
    };
    (uint64) => {
        Kind::Uint64
    };
    (uint32) => {
        Kind::Uint32
    };
    (bool) => {
        Kind::Bool
    };
    (bytes) => {
        Kind::Bytes
    };
    (string) => {
        Kind::String
    };
    (enum $of:ident) => {
        Kind::Enum($of)
    };
    (message $of:ident) => {
        Kind::Message(&$of)
    };
}

macro_rules! shapes {
    ($($constant:ident $name:ident {
        $($number:literal $field:tt $count:ident $kind:tt $($of:ident)?;)*
    })*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`")]
            pub static $constant: Shape = Shape {
                name: stringify!($name),
                fields: &[$(Field {
                    number: $number,
                    name: stringify!($field),
                    kind: kind!($kind $($of)?),
                    many: matches!(Count::$count, Count::many),
                    member: matches!(Count::$count, Count::member),
                },)*],
            };
        )*

        /// Every shape.
        pub static ALL: &[&Shape] = &[$(&$constant,)*];
    };
}

/// How many values a field has, in the table's words.
#[allow(non_camel_case_types, reason = "words of the table")]
enum Count {
    one,
    many,
    member,
}

const EVENT_TYPE: &[&str] = &["PUT", "DELETE"];
const PERMISSION_TYPE: &[&str] = &["READ", "WRITE", "READWRITE"];
const ALARM_TYPE: &[&str] = &["NONE", "NOSPACE", "CORRUPT"];
const SORT_ORDER: &[&str] = &["NONE", "ASCEND", "DESCEND"];
const SORT_TARGET: &[&str] = &["KEY", "VERSION", "CREATE", "MOD", "VALUE"];
const COMPARE_RESULT: &[&str] = &["EQUAL", "GREATER", "LESS", "NOT_EQUAL"];
const COMPARE_TARGET: &[&str] = &["VERSION", "CREATE", "MOD", "VALUE", "LEASE"];
const FILTER_TYPE: &[&str] = &["NOPUT", "NODELETE"];
const ALARM_ACTION: &[&str] = &["GET", "ACTIVATE", "DEACTIVATE"];
const DOWNGRADE_ACTION: &[&str] = &["VALIDATE", "ENABLE", "CANCEL"];

shapes! {
    RESPONSE_HEADER ResponseHeader {
        1 cluster_id one uint64;
        2 member_id one uint64;
        3 revision one int64;
        4 raft_term one uint64;
    }
    /* mvccpb */
    KEY_VALUE KeyValue {
        1 key one bytes;
        2 create_revision one int64;
        3 mod_revision one int64;
        4 version one int64;
        5 value one bytes;
        6 lease one int64;
    }
    EVENT Event {
        1 type one enum EVENT_TYPE;
        2 kv one message KEY_VALUE;
        3 prev_kv one message KEY_VALUE;
    }
    /* authpb */
    USER_ADD_OPTIONS UserAddOptions {
        1 no_password one bool;
    }
    PERMISSION Permission {
        1 permType one enum PERMISSION_TYPE;
        2 key one bytes;
        3 range_end one bytes;
    }
    /* KV */
    RANGE_REQUEST RangeRequest {
        1 key one bytes;
        2 range_end one bytes;
        3 limit one int64;
        4 revision one int64;
        5 sort_order one enum SORT_ORDER;
        6 sort_target one enum SORT_TARGET;
        7 serializable one bool;
        8 keys_only one bool;
        9 count_only one bool;
        10 min_mod_revision one int64;
        11 max_mod_revision one int64;
        12 min_create_revision one int64;
        13 max_create_revision one int64;
    }
    RANGE_RESPONSE RangeResponse {
        1 header one message RESPONSE_HEADER;
        2 kvs many message KEY_VALUE;
        3 more one bool;
        4 count one int64;
    }
    PUT_REQUEST PutRequest {
        1 key one bytes;
        2 value one bytes;
        3 lease one int64;
        4 prev_kv one bool;
        5 ignore_value one bool;
        6 ignore_lease one bool;
    }
    PUT_RESPONSE PutResponse {
        1 header one message RESPONSE_HEADER;
        2 prev_kv one message KEY_VALUE;
    }
    DELETE_RANGE_REQUEST DeleteRangeRequest {
        1 key one bytes;
        2 range_end one bytes;
        3 prev_kv one bool;
    }
    DELETE_RANGE_RESPONSE DeleteRangeResponse {
        1 header one message RESPONSE_HEADER;
        2 deleted one int64;
        3 prev_kvs many message KEY_VALUE;
    }
    REQUEST_OP RequestOp {
        1 request_range member message RANGE_REQUEST;
        2 request_put member message PUT_REQUEST;
        3 request_delete_range member message DELETE_RANGE_REQUEST;
        4 request_txn member message TXN_REQUEST;
    }
    RESPONSE_OP ResponseOp {
        1 response_range member message RANGE_RESPONSE;
        2 response_put member message PUT_RESPONSE;
        3 response_delete_range member message DELETE_RANGE_RESPONSE;
        4 response_txn member message TXN_RESPONSE;
    }
    COMPARE Compare {
        1 result one enum COMPARE_RESULT;
        2 target one enum COMPARE_TARGET;
        3 key one bytes;
        4 version member int64;
        5 create_revision member int64;
        6 mod_revision member int64;
        7 value member bytes;
        8 lease member int64;
        64 range_end one bytes;
    }
    TXN_REQUEST TxnRequest {
        1 compare many message COMPARE;
        2 success many message REQUEST_OP;
        3 failure many message REQUEST_OP;
    }
    TXN_RESPONSE TxnResponse {
        1 header one message RESPONSE_HEADER;
        2 succeeded one bool;
        3 responses many message RESPONSE_OP;
    }
    COMPACTION_REQUEST CompactionRequest {
        1 revision one int64;
        2 physical one bool;
    }
    COMPACTION_RESPONSE CompactionResponse {
        1 header one message RESPONSE_HEADER;
    }
    /* Watch */
    WATCH_REQUEST WatchRequest {
        1 create_request member message WATCH_CREATE_REQUEST;
        2 cancel_request member message WATCH_CANCEL_REQUEST;
        3 progress_request member message WATCH_PROGRESS_REQUEST;
    }
    WATCH_CREATE_REQUEST WatchCreateRequest {
        1 key one bytes;
        2 range_end one bytes;
        3 start_revision one int64;
        4 progress_notify one bool;
        5 filters many enum FILTER_TYPE;
        6 prev_kv one bool;
        7 watch_id one int64;
        8 fragment one bool;
    }
    WATCH_CANCEL_REQUEST WatchCancelRequest {
        1 watch_id one int64;
    }
    WATCH_PROGRESS_REQUEST WatchProgressRequest {}
    WATCH_RESPONSE WatchResponse {
        1 header one message RESPONSE_HEADER;
        2 watch_id one int64;
        3 created one bool;
        4 canceled one bool;
        5 compact_revision one int64;
        6 cancel_reason one string;
        7 fragment one bool;
        11 events many message EVENT;
    }
    /* Lease */
    LEASE_GRANT_REQUEST LeaseGrantRequest {
        1 TTL one int64;
        2 ID one int64;
    }
    LEASE_GRANT_RESPONSE LeaseGrantResponse {
        1 header one message RESPONSE_HEADER;
        2 ID one int64;
        3 TTL one int64;
        4 error one string;
    }
    LEASE_REVOKE_REQUEST LeaseRevokeRequest {
        1 ID one int64;
    }
    LEASE_REVOKE_RESPONSE LeaseRevokeResponse {
        1 header one message RESPONSE_HEADER;
    }
    LEASE_KEEP_ALIVE_REQUEST LeaseKeepAliveRequest {
        1 ID one int64;
    }
    LEASE_KEEP_ALIVE_RESPONSE LeaseKeepAliveResponse {
        1 header one message RESPONSE_HEADER;
        2 ID one int64;
        3 TTL one int64;
    }
    LEASE_TIME_TO_LIVE_REQUEST LeaseTimeToLiveRequest {
        1 ID one int64;
        2 keys one bool;
    }
    LEASE_TIME_TO_LIVE_RESPONSE LeaseTimeToLiveResponse {
        1 header one message RESPONSE_HEADER;
        2 ID one int64;
        3 TTL one int64;
        4 grantedTTL one int64;
        5 keys many bytes;
    }
    LEASE_LEASES_REQUEST LeaseLeasesRequest {}
    LEASE_STATUS LeaseStatus {
        1 ID one int64;
    }
    LEASE_LEASES_RESPONSE LeaseLeasesResponse {
        1 header one message RESPONSE_HEADER;
        2 leases many message LEASE_STATUS;
    }
    /* Cluster */
    MEMBER Member {
        1 ID one uint64;
        2 name one string;
        3 peerURLs many string;
        4 clientURLs many string;
        5 isLearner one bool;
    }
    MEMBER_ADD_REQUEST MemberAddRequest {
        1 peerURLs many string;
        2 isLearner one bool;
    }
    MEMBER_ADD_RESPONSE MemberAddResponse {
        1 header one message RESPONSE_HEADER;
        2 member one message MEMBER;
        3 members many message MEMBER;
    }
    MEMBER_REMOVE_REQUEST MemberRemoveRequest {
        1 ID one uint64;
    }
    MEMBER_REMOVE_RESPONSE MemberRemoveResponse {
        1 header one message RESPONSE_HEADER;
        2 members many message MEMBER;
    }
    MEMBER_UPDATE_REQUEST MemberUpdateRequest {
        1 ID one uint64;
        2 peerURLs many string;
    }
    MEMBER_UPDATE_RESPONSE MemberUpdateResponse {
        1 header one message RESPONSE_HEADER;
        2 members many message MEMBER;
    }
    MEMBER_LIST_REQUEST MemberListRequest {
        1 linearizable one bool;
    }
    MEMBER_LIST_RESPONSE MemberListResponse {
        1 header one message RESPONSE_HEADER;
        2 members many message MEMBER;
    }
    MEMBER_PROMOTE_REQUEST MemberPromoteRequest {
        1 ID one uint64;
    }
    MEMBER_PROMOTE_RESPONSE MemberPromoteResponse {
        1 header one message RESPONSE_HEADER;
        2 members many message MEMBER;
    }
    /* Maintenance */
    ALARM_REQUEST AlarmRequest {
        1 action one enum ALARM_ACTION;
        2 memberID one uint64;
        3 alarm one enum ALARM_TYPE;
    }
    ALARM_MEMBER AlarmMember {
        1 memberID one uint64;
        2 alarm one enum ALARM_TYPE;
    }
    ALARM_RESPONSE AlarmResponse {
        1 header one message RESPONSE_HEADER;
        2 alarms many message ALARM_MEMBER;
    }
    STATUS_REQUEST StatusRequest {}
    STATUS_RESPONSE StatusResponse {
        1 header one message RESPONSE_HEADER;
        2 version one string;
        3 dbSize one int64;
        4 leader one uint64;
        5 raftIndex one uint64;
        6 raftTerm one uint64;
        7 raftAppliedIndex one uint64;
        8 errors many string;
        9 dbSizeInUse one int64;
        10 isLearner one bool;
        11 storageVersion one string;
        12 dbSizeQuota one int64;
        13 downgradeInfo one message DOWNGRADE_INFO;
    }
    DOWNGRADE_INFO DowngradeInfo {
        1 enabled one bool;
        2 targetVersion one string;
    }
    DEFRAGMENT_REQUEST DefragmentRequest {}
    DEFRAGMENT_RESPONSE DefragmentResponse {
        1 header one message RESPONSE_HEADER;
    }
    HASH_REQUEST HashRequest {}
    HASH_RESPONSE HashResponse {
        1 header one message RESPONSE_HEADER;
        2 hash one uint32;
    }
    HASH_KV_REQUEST HashKVRequest {
        1 revision one int64;
    }
    HASH_KV_RESPONSE HashKVResponse {
        1 header one message RESPONSE_HEADER;
        2 hash one uint32;
        3 compact_revision one int64;
        4 hash_revision one int64;
    }
    SNAPSHOT_REQUEST SnapshotRequest {}
    SNAPSHOT_RESPONSE SnapshotResponse {
        1 header one message RESPONSE_HEADER;
        2 remaining_bytes one uint64;
        3 blob one bytes;
        4 version one string;
    }
    MOVE_LEADER_REQUEST MoveLeaderRequest {
        1 targetID one uint64;
    }
    MOVE_LEADER_RESPONSE MoveLeaderResponse {
        1 header one message RESPONSE_HEADER;
    }
    DOWNGRADE_REQUEST DowngradeRequest {
        1 action one enum DOWNGRADE_ACTION;
        2 version one string;
    }
    DOWNGRADE_RESPONSE DowngradeResponse {
        1 header one message RESPONSE_HEADER;
        2 version one string;
    }
    /* Auth */
    AUTH_ENABLE_REQUEST AuthEnableRequest {}
    AUTH_ENABLE_RESPONSE AuthEnableResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_DISABLE_REQUEST AuthDisableRequest {}
    AUTH_DISABLE_RESPONSE AuthDisableResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_STATUS_REQUEST AuthStatusRequest {}
    AUTH_STATUS_RESPONSE AuthStatusResponse {
        1 header one message RESPONSE_HEADER;
        2 enabled one bool;
        3 authRevision one uint64;
    }
    AUTHENTICATE_REQUEST AuthenticateRequest {
        1 name one string;
        2 password one string;
    }
    AUTHENTICATE_RESPONSE AuthenticateResponse {
        1 header one message RESPONSE_HEADER;
        2 token one string;
    }
    AUTH_USER_ADD_REQUEST AuthUserAddRequest {
        1 name one string;
        2 password one string;
        3 options one message USER_ADD_OPTIONS;
        4 hashedPassword one string;
    }
    AUTH_USER_ADD_RESPONSE AuthUserAddResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_USER_GET_REQUEST AuthUserGetRequest {
        1 name one string;
    }
    AUTH_USER_GET_RESPONSE AuthUserGetResponse {
        1 header one message RESPONSE_HEADER;
        2 roles many string;
    }
    AUTH_USER_LIST_REQUEST AuthUserListRequest {}
    AUTH_USER_LIST_RESPONSE AuthUserListResponse {
        1 header one message RESPONSE_HEADER;
        2 users many string;
    }
    AUTH_USER_DELETE_REQUEST AuthUserDeleteRequest {
        1 name one string;
    }
    AUTH_USER_DELETE_RESPONSE AuthUserDeleteResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_USER_CHANGE_PASSWORD_REQUEST AuthUserChangePasswordRequest {
        1 name one string;
        2 password one string;
        3 hashedPassword one string;
    }
    AUTH_USER_CHANGE_PASSWORD_RESPONSE AuthUserChangePasswordResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_USER_GRANT_ROLE_REQUEST AuthUserGrantRoleRequest {
        1 user one string;
        2 role one string;
    }
    AUTH_USER_GRANT_ROLE_RESPONSE AuthUserGrantRoleResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_USER_REVOKE_ROLE_REQUEST AuthUserRevokeRoleRequest {
        1 name one string;
        2 role one string;
    }
    AUTH_USER_REVOKE_ROLE_RESPONSE AuthUserRevokeRoleResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_ROLE_ADD_REQUEST AuthRoleAddRequest {
        1 name one string;
    }
    AUTH_ROLE_ADD_RESPONSE AuthRoleAddResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_ROLE_GET_REQUEST AuthRoleGetRequest {
        1 role one string;
    }
    AUTH_ROLE_GET_RESPONSE AuthRoleGetResponse {
        1 header one message RESPONSE_HEADER;
        2 perm many message PERMISSION;
    }
    AUTH_ROLE_LIST_REQUEST AuthRoleListRequest {}
    AUTH_ROLE_LIST_RESPONSE AuthRoleListResponse {
        1 header one message RESPONSE_HEADER;
        2 roles many string;
    }
    AUTH_ROLE_DELETE_REQUEST AuthRoleDeleteRequest {
        1 role one string;
    }
    AUTH_ROLE_DELETE_RESPONSE AuthRoleDeleteResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_ROLE_GRANT_PERMISSION_REQUEST AuthRoleGrantPermissionRequest {
        1 name one string;
        2 perm one message PERMISSION;
    }
    AUTH_ROLE_GRANT_PERMISSION_RESPONSE AuthRoleGrantPermissionResponse {
        1 header one message RESPONSE_HEADER;
    }
    AUTH_ROLE_REVOKE_PERMISSION_REQUEST AuthRoleRevokePermissionRequest {
        1 role one string;
        2 key one bytes;
        3 range_end one bytes;
    }
    AUTH_ROLE_REVOKE_PERMISSION_RESPONSE AuthRoleRevokePermissionResponse {
        1 header one message RESPONSE_HEADER;
    }
    /* Lock */
    LOCK_REQUEST LockRequest {
        1 name one bytes;
        2 lease one int64;
    }
    LOCK_RESPONSE LockResponse {
        1 header one message RESPONSE_HEADER;
        2 key one bytes;
    }
    UNLOCK_REQUEST UnlockRequest {
        1 key one bytes;
    }
    UNLOCK_RESPONSE UnlockResponse {
        1 header one message RESPONSE_HEADER;
    }
    /* Election */
    CAMPAIGN_REQUEST CampaignRequest {
        1 name one bytes;
        2 lease one int64;
        3 value one bytes;
    }
    CAMPAIGN_RESPONSE CampaignResponse {
        1 header one message RESPONSE_HEADER;
        2 leader one message LEADER_KEY;
    }
    LEADER_KEY LeaderKey {
        1 name one bytes;
        2 key one bytes;
        3 rev one int64;
        4 lease one int64;
    }
    LEADER_REQUEST LeaderRequest {
        1 name one bytes;
    }
    LEADER_RESPONSE LeaderResponse {
        1 header one message RESPONSE_HEADER;
        2 kv one message KEY_VALUE;
    }
    RESIGN_REQUEST ResignRequest {
        1 leader one message LEADER_KEY;
    }
    RESIGN_RESPONSE ResignResponse {
        1 header one message RESPONSE_HEADER;
    }
    PROCLAIM_REQUEST ProclaimRequest {
        1 leader one message LEADER_KEY;
        2 value one bytes;
    }
    PROCLAIM_RESPONSE ProclaimResponse {
        1 header one message RESPONSE_HEADER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_a_field_find_it_and_others_do_not() {
        let field = |name: &'static str| Field {
            number: 1,
            name,
            kind: Kind::Bool,
            many: false,
            member: false,
        };
        for (own, other) in [
            ("prev_kv", "prevKv"),
            ("min_mod_revision", "minModRevision"),
            ("key", "key"),
            ("ID", "ID"),
            ("peerURLs", "peerURLs"),
            ("memberID", "memberID"),
        ] {
            assert!(
                field(own).is_named(own) && field(own).is_named(other),
                "{own}"
            );
        }
        for wrong in [
            "prevkv", "PrevKv", "prevKvs", "prev", "prevK", "prev_Kv", "",
        ] {
            assert!(!field("prev_kv").is_named(wrong), "{wrong}");
        }
    }

    #[test]
    fn rows_are_in_the_order_writing_relies_on() {
        for shape in ALL {
            assert!(shape.fields.len() <= 64, "one bit each while reading");
            let numbers: Vec<u32> = shape.fields.iter().map(|field| field.number).collect();
            assert!(
                numbers.windows(2).all(|pair| pair[0] < pair[1]),
                "{}",
                shape.name
            );
        }
    }
}
