//! The payload of a log entry: a small header of ours, then the client's own message bytes.
//!
//! Version 1, all integers big endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | kind, see [`Kind`] |
//! | 2 | 8 | request: member that proposed it |
//! | 10 | 8 | request: incarnation of that member |
//! | 18 | 8 | request: sequence within the incarnation |
//! | 26 | 8 | leader's clock when it proposed, unix milliseconds |
//! | 34 | 8 | auth revision the user was checked at |
//! | 42 | 2 | length of the user name |
//! | 44 | n | user name, UTF-8; empty: anonymous |
//! | 44 + n | rest | the message, protobuf, as the client sent it |
//!
//! Everything a member needs to come to the same result is in here or in the replicated state; so
//! no member looks at its own clock or identity while it applies. The log checksums these bytes;
//! what does not decode was proposed by a newer release or a bug, and is answered with an error.

use bytes::Bytes;

/// The version this release writes.
pub const VERSION: u8 = 1;

/// Bytes in front of user name and message.
pub const HEADER_BYTES: usize = 44;

const _: () = assert!(HEADER_BYTES == 1 + 1 + 3 * 8 + 8 + 8 + 2);

/// Names a proposal for ever, so that a repeated one can be told from a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// Member that proposed it.
    pub member: u64,
    /// Which start of that member; larger after each start.
    pub incarnation: u64,
    /// Counts within an incarnation.
    pub sequence: u64,
}

/// What the message is, and so which part of the store it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// `PutRequest`
    Put = 1,
    /// `DeleteRangeRequest`
    DeleteRange = 2,
    /// `TxnRequest`
    Txn = 3,
    /// `CompactionRequest`
    Compaction = 4,
    /// `LeaseGrantRequest`, its id filled in
    LeaseGrant = 5,
    /// `LeaseRevokeRequest`
    LeaseRevoke = 6,
    /// `LeaseCheckpointRequest`
    LeaseCheckpoint = 7,
    /// `AlarmRequest`
    Alarm = 8,
    /// `Member`: how the member describes itself
    MemberAttributes = 9,
    /// `MemberRemoveRequest`: takes the member from the table for good
    MemberRemove = 10,
    /// `Member`: a new one. This one and the next two ride on changes of the membership, as their
    /// context; so does the one above
    MemberAdd = 11,
    /// `MemberPromoteRequest`
    MemberPromote = 12,
    /// `MemberUpdateRequest`: other peer URLs
    MemberUpdate = 13,
    /// `MemberListResponse`: the founders, each with id and sorted peer URLs; the first entry of the log
    MembersFound = 14,
    /// `AuthEnableRequest`
    AuthEnable = 32,
    /// `AuthDisableRequest`
    AuthDisable = 33,
    /// `AuthUserAddRequest`, its password hashed
    AuthUserAdd = 34,
    /// `AuthUserDeleteRequest`
    AuthUserDelete = 35,
    /// `AuthUserChangePasswordRequest`, its password hashed
    AuthUserChangePassword = 36,
    /// `AuthUserGrantRoleRequest`
    AuthUserGrantRole = 37,
    /// `AuthUserRevokeRoleRequest`
    AuthUserRevokeRole = 38,
    /// `AuthRoleAddRequest`
    AuthRoleAdd = 39,
    /// `AuthRoleDeleteRequest`
    AuthRoleDelete = 40,
    /// `AuthRoleGrantPermissionRequest`
    AuthRoleGrantPermission = 41,
    /// `AuthRoleRevokePermissionRequest`
    AuthRoleRevokePermission = 42,
    /// `AuthenticateRequest` whose password field holds the letters of a new token: all members are to know it
    Authenticate = 43,
}

impl Kind {
    /// Whether it is the member table's to execute.
    pub(crate) fn changes_members(self) -> bool {
        matches!(
            self,
            Kind::MemberAttributes
                | Kind::MemberRemove
                | Kind::MemberAdd
                | Kind::MemberPromote
                | Kind::MemberUpdate
                | Kind::MembersFound
        )
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Kind::Put,
            2 => Kind::DeleteRange,
            3 => Kind::Txn,
            4 => Kind::Compaction,
            5 => Kind::LeaseGrant,
            6 => Kind::LeaseRevoke,
            7 => Kind::LeaseCheckpoint,
            8 => Kind::Alarm,
            9 => Kind::MemberAttributes,
            10 => Kind::MemberRemove,
            11 => Kind::MemberAdd,
            12 => Kind::MemberPromote,
            13 => Kind::MemberUpdate,
            14 => Kind::MembersFound,
            32 => Kind::AuthEnable,
            33 => Kind::AuthDisable,
            34 => Kind::AuthUserAdd,
            35 => Kind::AuthUserDelete,
            36 => Kind::AuthUserChangePassword,
            37 => Kind::AuthUserGrantRole,
            38 => Kind::AuthUserRevokeRole,
            39 => Kind::AuthRoleAdd,
            40 => Kind::AuthRoleDelete,
            41 => Kind::AuthRoleGrantPermission,
            42 => Kind::AuthRoleRevokePermission,
            43 => Kind::Authenticate,
            _ => return None,
        })
    }
}

/// What travels with a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub request: RequestId,
    /// The proposer's clock, unix milliseconds; the only time the store knows.
    pub time_ms: u64,
    /// Who asked; empty for nobody in particular. At most 65 535 bytes.
    pub user: Bytes,
    /// Auth revision at which the user was checked; `auth::CLUSTER_ITSELF` for what no client asked.
    pub auth_revision: u64,
}

/// A decoded payload. `message` and `header.user` share the entry's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub kind: Kind,
    pub header: Header,
    pub message: Bytes,
}

impl Command {
    /// The payload for `message`. A user name over 65 535 bytes does not fit and is cut; the shell
    /// refuses such names long before.
    pub fn encode(kind: Kind, header: &Header, message: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(HEADER_BYTES + header.user.len() + message.len());
        Self::encode_header(&mut out, kind, header);
        out.extend_from_slice(message);
        out.into()
    }

    /// Appends all of the payload but the message, for callers that encode the message in place.
    pub fn encode_header(out: &mut Vec<u8>, kind: Kind, header: &Header) {
        let user_bytes = u16::try_from(header.user.len()).unwrap_or(u16::MAX);
        out.push(VERSION);
        out.push(kind as u8);
        out.extend_from_slice(&header.request.member.to_be_bytes());
        out.extend_from_slice(&header.request.incarnation.to_be_bytes());
        out.extend_from_slice(&header.request.sequence.to_be_bytes());
        out.extend_from_slice(&header.time_ms.to_be_bytes());
        out.extend_from_slice(&header.auth_revision.to_be_bytes());
        out.extend_from_slice(&user_bytes.to_be_bytes());
        out.extend_from_slice(&header.user[..usize::from(user_bytes)]);
    }

    /// The key of a put, if it is one and its key comes first, as all known encoders write it: good for a guess only.
    pub(crate) fn put_key(payload: &[u8]) -> Option<&[u8]> {
        let fixed = payload.first_chunk::<HEADER_BYTES>()?;
        if (fixed[0], fixed[1]) != (VERSION, Kind::Put as u8) {
            return None;
        }
        let user_bytes = usize::from(u16::from_be_bytes([fixed[42], fixed[43]]));
        // Field 1, bytes; lengths below 128 are one byte, those below 16 384 two.
        match payload.get(HEADER_BYTES + user_bytes..)? {
            [0x0a, length @ ..0x80, rest @ ..] => rest.get(..usize::from(*length)),
            [0x0a, low, high @ ..0x80, rest @ ..] => {
                rest.get(..usize::from(*high) << 7 | usize::from(low & 0x7f))
            }
            _ => None,
        }
    }

    /// Errors: [`CommandError`]; never panics, whatever the bytes.
    pub fn decode(payload: Bytes) -> Result<Self, CommandError> {
        let version = *payload.first().ok_or(CommandError::Short { found: 0 })?;
        if version != VERSION {
            return Err(CommandError::Version { found: version });
        }
        let Some(fixed) = payload.first_chunk::<HEADER_BYTES>() else {
            return Err(CommandError::Short {
                found: payload.len(),
            });
        };
        let word = |at: usize| {
            let bytes = fixed[at..at + 8]
                .try_into()
                .expect("eight bytes of a longer array");
            u64::from_be_bytes(bytes)
        };
        let request = RequestId {
            member: word(2),
            incarnation: word(10),
            sequence: word(18),
        };
        let user_end = HEADER_BYTES + usize::from(u16::from_be_bytes([fixed[42], fixed[43]]));
        if payload.len() < user_end {
            return Err(CommandError::User {
                request,
                found: payload.len(),
                expected: user_end,
            });
        }
        let kind = Kind::from_byte(fixed[1]).ok_or(CommandError::Kind {
            request,
            found: fixed[1],
        })?;
        let (time_ms, auth_revision) = (word(26), word(34));
        let user = payload.slice(HEADER_BYTES..user_end);
        let message = payload.slice(user_end..);
        Ok(Self {
            kind,
            header: Header {
                request,
                time_ms,
                user,
                auth_revision,
            },
            message,
        })
    }
}

/// Why a payload is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("command of {found} bytes, the header alone has {HEADER_BYTES}")]
    Short { found: usize },
    #[error("command version {found}, this release knows {VERSION}")]
    Version { found: u8 },
    #[error("command kind {found} is unknown")]
    Kind { request: RequestId, found: u8 },
    #[error("command of {found} bytes ends inside the user name, which ends at {expected}")]
    User {
        request: RequestId,
        found: usize,
        expected: usize,
    },
}

impl CommandError {
    /// Whose request it was, as far as the bytes told.
    pub fn request(&self) -> RequestId {
        match self {
            CommandError::Short { .. } | CommandError::Version { .. } => RequestId::default(),
            CommandError::Kind { request, .. } | CommandError::User { request, .. } => *request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            request: RequestId {
                member: u64::MAX,
                incarnation: 7,
                sequence: 1,
            },
            time_ms: 1_700_000_000_123,
            user: Bytes::from_static(b"alice"),
            auth_revision: 12,
        }
    }

    #[test]
    fn a_command_comes_back_and_shares_the_payload() {
        let payload = Command::encode(Kind::Txn, &header(), b"message");
        assert_eq!(payload.len(), HEADER_BYTES + 5 + 7);
        let command = Command::decode(payload.clone()).unwrap();
        assert_eq!(command.kind, Kind::Txn);
        assert_eq!(command.header, header());
        assert_eq!(command.message, &b"message"[..]);
        assert!(payload.as_ptr_range().contains(&command.message.as_ptr()));
    }

    #[test]
    fn every_cut_of_a_command_is_an_error_or_a_shorter_message() {
        let payload = Command::encode(Kind::Put, &header(), b"message");
        for length in 0..payload.len() {
            match Command::decode(payload.slice(..length)) {
                Ok(command) => assert!(command.message.len() < 7),
                Err(_) => assert!(length < HEADER_BYTES + 5),
            }
        }
    }

    #[test]
    fn unknown_versions_and_kinds_name_what_they_found() {
        let mut bytes = Command::encode(Kind::Put, &header(), b"").to_vec();
        bytes[1] = 200;
        let error = Command::decode(bytes.clone().into()).unwrap_err();
        assert_eq!(
            error,
            CommandError::Kind {
                request: header().request,
                found: 200
            }
        );
        assert_eq!(error.request(), header().request);
        bytes[0] = 9;
        assert_eq!(
            Command::decode(bytes.into()),
            Err(CommandError::Version { found: 9 })
        );
    }

    #[test]
    fn every_kind_has_its_own_byte() {
        let kinds: Vec<Kind> = (0..=u8::MAX).filter_map(Kind::from_byte).collect();
        assert_eq!(kinds.len(), 26);
        for kind in kinds {
            assert_eq!(Kind::from_byte(kind as u8), Some(kind));
        }
    }

    #[test]
    fn the_key_of_a_put_is_found_without_decoding_it() {
        use kvnode_api::Message as _;
        let header = Header {
            user: Bytes::from_static(b"me"),
            ..Header::default()
        };
        for key_bytes in [0, 1, 127, 128, 300, 16_383] {
            let put = kvnode_api::PutRequest {
                key: vec![7; key_bytes].into(),
                value: Bytes::from_static(b"v"),
                ..Default::default()
            };
            let payload = Command::encode(Kind::Put, &header, &put.encode_to_vec());
            let expected = (key_bytes > 0).then_some(&put.key[..]);
            assert_eq!(Command::put_key(&payload), expected);
            let other = Command::encode(Kind::Txn, &header, &put.encode_to_vec());
            assert_eq!(Command::put_key(&other), None);
            for cut in 0..payload.len().min(400) {
                let found = Command::put_key(&payload[..cut]);
                assert!(found.is_none() || found == expected);
            }
        }
    }
}
