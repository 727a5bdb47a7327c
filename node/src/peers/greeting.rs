//! The first bytes of a connection: who calls whom, and why it may not.
//!
//! The caller sends a hello and nothing more until it has the reply. Both are 48 bytes, laid out
//! alike in every version; all integers are little-endian.
//!
//! ```text
//! hello                              reply
//! off size                           off size
//!   0    4  magic 93 6b 76 70          0    4  magic 93 6b 76 70
//!   4    1  oldest version spoken      4    1  oldest version spoken
//!   5    1  newest version spoken      5    1  newest version spoken
//!   6    1  purpose                    6    1  0 welcome, else why not
//!   7    1  zero                       7    1  version to speak, 0 if refused
//!   8    8  cluster                    8    8  cluster
//!  16    8  member that calls         16    8  member that answers
//!  24    8  member it wants           24    8  zero
//!  32    8  caller's incarnation      32    8  answerer's incarnation
//!  40    4  zero                      40    4  zero
//!  44    4  CRC-32 of bytes 0..44     44    4  CRC-32 of bytes 0..44
//! ```
//!
//! Bytes said to be zero are written so and not looked at: room for later versions.
//! The first byte of the magic begins neither a TLS record nor any text, so a stranger is known by
//! its first byte.

use super::Identity;
use super::frame::{le32, le64};

pub(super) const GREETING_BYTES: usize = 48;

pub(super) const MAGIC: [u8; 4] = [0x93, b'k', b'v', b'p'];

/// The versions of the frames this program speaks.
const OLDEST: u8 = 1;
const NEWEST: u8 = 1;

const CRC_AT: usize = GREETING_BYTES - 4;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Messages,
    Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub oldest: u8,
    pub newest: u8,
    /// As on the wire; what is not known cannot be refused before its sender is.
    pub purpose: u8,
    pub cluster: u64,
    pub from: u64,
    pub to: u64,
    pub incarnation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub oldest: u8,
    pub newest: u8,
    pub verdict: u8,
    pub version: u8,
    pub cluster: u64,
    pub member: u64,
    pub incarnation: u64,
}

/// Why a connection may not be. Said by the one who was called; both sides log it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the caller is of cluster {caller:x}, the called member of cluster {called:x}")]
    WrongCluster { caller: u64, called: u64 },
    #[error("member {wanted:x} was wanted, but member {called:x} answers there")]
    WrongMember { wanted: u64, called: u64 },
    #[error("member {caller:x} was removed from the cluster, says member {called:x}")]
    Removed { caller: u64, called: u64 },
    #[error(
        "the caller speaks versions {}-{}, the called member versions {}-{}",
        caller.0, caller.1, called.0, called.1
    )]
    Version { caller: (u8, u8), called: (u8, u8) },
    #[error("the caller says it is member {member:x}, which is the called member itself")]
    Itself { member: u64 },
    #[error("member {called:x} takes no further connection of this kind now")]
    Busy { called: u64 },
    #[error("the called member does not know connections for purpose {purpose}")]
    Purpose { purpose: u8 },
    #[error("refused for reason {code}, which this version does not know")]
    Unknown { code: u8 },
}

impl Refusal {
    fn code(&self) -> u8 {
        match self {
            Refusal::WrongCluster { .. } => 1,
            Refusal::WrongMember { .. } => 2,
            Refusal::Removed { .. } => 3,
            Refusal::Version { .. } => 4,
            Refusal::Itself { .. } => 5,
            Refusal::Busy { .. } => 6,
            Refusal::Purpose { .. } => 7,
            Refusal::Unknown { code } => *code,
        }
    }

    /// What the operator can do about it.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Refusal::WrongCluster { .. } => {
                "--initial-cluster and --initial-cluster-token must be the same on all founding \
                 members, and a data directory must not come from another cluster"
            }
            Refusal::WrongMember { .. } => {
                "the url leads to another member: compare `etcdctl member list` with the \
                 addresses, and correct it with `etcdctl member update`"
            }
            Refusal::Removed { .. } => {
                "to bring the machine back, add it with `etcdctl member add` and start it with an \
                 empty data directory"
            }
            Refusal::Version { .. } => {
                "upgrade the older of the two; one minor version after the other"
            }
            Refusal::Itself { .. } => {
                "a member's peer url leads to itself, or two machines run under one member id: \
                 check --initial-advertise-peer-urls, and that no data directory was copied"
            }
            Refusal::Busy { .. } => "it is tried again by itself",
            Refusal::Purpose { .. } | Refusal::Unknown { .. } => {
                "upgrade the older of the two members"
            }
        }
    }
}

/// Why bytes are not a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GreetingError {
    #[error("{0}")]
    Stranger(Stranger),
    #[error("greeting has CRC {found:08x}, its bytes give {computed:08x}")]
    Crc { found: u32, computed: u32 },
}

/// What something that does not speak our protocol looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    #[error("it speaks TLS")]
    Tls,
    #[error("it speaks HTTP")]
    Http,
    #[error("it speaks another protocol, beginning with byte {0:#04x}")]
    Other(u8),
}

/// Looks at the beginning of a greeting: enough bytes or not, it may not be one.
///
/// # Errors
/// What it looks like instead.
pub(super) fn check_magic(bytes: &[u8]) -> Result<(), Stranger> {
    let length = bytes.len().min(MAGIC.len());
    if bytes[..length] == MAGIC[..length] {
        return Ok(());
    }
    Err(match bytes[0] {
        // The record types of TLS, handshake and alert.
        0x15 | 0x16 => Stranger::Tls,
        // Methods, the HTTP/2 preface, and "HTTP/1.1 400" as an answer.
        byte if byte.is_ascii_uppercase() => Stranger::Http,
        // An HTTP/2 server begins with a settings frame.
        0 => Stranger::Http,
        byte => Stranger::Other(byte),
    })
}

fn seal(mut bytes: [u8; GREETING_BYTES]) -> [u8; GREETING_BYTES] {
    bytes[..4].copy_from_slice(&MAGIC);
    let crc = crc32fast::hash(&bytes[..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn unseal(bytes: &[u8; GREETING_BYTES]) -> Result<(), GreetingError> {
    check_magic(bytes).map_err(GreetingError::Stranger)?;
    let (found, computed) = (le32(bytes, CRC_AT), crc32fast::hash(&bytes[..CRC_AT]));
    if found != computed {
        return Err(GreetingError::Crc { found, computed });
    }
    Ok(())
}

impl Hello {
    pub(super) fn new(identity: &Identity, to: u64, purpose: Purpose) -> Hello {
        Hello {
            oldest: OLDEST,
            newest: NEWEST,
            purpose: match purpose {
                Purpose::Messages => 1,
                Purpose::Snapshot => 2,
            },
            cluster: identity.cluster,
            from: identity.member,
            to,
            incarnation: identity.incarnation,
        }
    }

    pub(super) fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[4] = self.oldest;
        bytes[5] = self.newest;
        bytes[6] = self.purpose;
        bytes[8..16].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.from.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.to.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.incarnation.to_le_bytes());
        seal(bytes)
    }

    pub(super) fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Hello, GreetingError> {
        unseal(bytes)?;
        Ok(Hello {
            oldest: bytes[4],
            newest: bytes[5],
            purpose: bytes[6],
            cluster: le64(bytes, 8),
            from: le64(bytes, 16),
            to: le64(bytes, 24),
            incarnation: le64(bytes, 32),
        })
    }

    /// What the called member says to this; `removed` are the members that were.
    ///
    /// # Errors
    /// The first reason not to take it.
    pub(super) fn judge(&self, us: &Identity, removed: &[u64]) -> Result<Purpose, Refusal> {
        if self.cluster != us.cluster {
            return Err(Refusal::WrongCluster {
                caller: self.cluster,
                called: us.cluster,
            });
        }
        if self.from == us.member {
            return Err(Refusal::Itself { member: us.member });
        }
        if self.to != us.member {
            return Err(Refusal::WrongMember {
                wanted: self.to,
                called: us.member,
            });
        }
        if removed.contains(&self.from) {
            return Err(Refusal::Removed {
                caller: self.from,
                called: us.member,
            });
        }
        if common_version((self.oldest, self.newest)).is_none() {
            return Err(Refusal::Version {
                caller: (self.oldest, self.newest),
                called: (OLDEST, NEWEST),
            });
        }
        match self.purpose {
            1 => Ok(Purpose::Messages),
            2 => Ok(Purpose::Snapshot),
            purpose => Err(Refusal::Purpose { purpose }),
        }
    }
}

/// The newest version both speak.
fn common_version((oldest, newest): (u8, u8)) -> Option<u8> {
    let version = newest.min(NEWEST);
    (version >= oldest.max(OLDEST)).then_some(version)
}

impl Reply {
    pub(super) fn new(us: &Identity, hello: &Hello, verdict: Result<(), Refusal>) -> Reply {
        let version = common_version((hello.oldest, hello.newest)).unwrap_or(0);
        Reply {
            oldest: OLDEST,
            newest: NEWEST,
            verdict: verdict.as_ref().map_or_else(Refusal::code, |()| 0),
            version: if verdict.is_ok() { version } else { 0 },
            cluster: us.cluster,
            member: us.member,
            incarnation: us.incarnation,
        }
    }

    pub(super) fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[4] = self.oldest;
        bytes[5] = self.newest;
        bytes[6] = self.verdict;
        bytes[7] = self.version;
        bytes[8..16].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.member.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.incarnation.to_le_bytes());
        seal(bytes)
    }

    pub(super) fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Reply, GreetingError> {
        unseal(bytes)?;
        Ok(Reply {
            oldest: bytes[4],
            newest: bytes[5],
            verdict: bytes[6],
            version: bytes[7],
            cluster: le64(bytes, 8),
            member: le64(bytes, 16),
            incarnation: le64(bytes, 32),
        })
    }

    /// What the caller makes of it: a welcome from the wrong one is none.
    ///
    /// # Errors
    /// Why there is no connection.
    pub(super) fn judge(&self, hello: &Hello) -> Result<(), Refusal> {
        let wrong_cluster = Refusal::WrongCluster {
            caller: hello.cluster,
            called: self.cluster,
        };
        let wrong_member = Refusal::WrongMember {
            wanted: hello.to,
            called: self.member,
        };
        let version = Refusal::Version {
            caller: (hello.oldest, hello.newest),
            called: (self.oldest, self.newest),
        };
        match self.verdict {
            0 if self.cluster != hello.cluster => Err(wrong_cluster),
            0 if self.member != hello.to => Err(wrong_member),
            0 if self.version < hello.oldest || self.version > hello.newest => Err(version),
            0 => Ok(()),
            1 => Err(wrong_cluster),
            2 => Err(wrong_member),
            3 => Err(Refusal::Removed {
                caller: hello.from,
                called: self.member,
            }),
            4 => Err(version),
            5 => Err(Refusal::Itself { member: hello.from }),
            6 => Err(Refusal::Busy {
                called: self.member,
            }),
            7 => Err(Refusal::Purpose {
                purpose: hello.purpose,
            }),
            code => Err(Refusal::Unknown { code }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Identity = Identity {
        cluster: 7,
        member: 1,
        incarnation: 11,
    };
    const THEM: Identity = Identity {
        cluster: 7,
        member: 2,
        incarnation: 22,
    };

    fn hello() -> Hello {
        Hello::new(&THEM, US.member, Purpose::Messages)
    }

    /// What both sides make of a hello; they must agree.
    fn verdict(hello: Hello, removed: &[u64]) -> Result<(), Refusal> {
        let hello = Hello::decode(&hello.encode()).unwrap();
        let called = hello.judge(&US, removed).map(drop);
        let reply = Reply::new(&US, &hello, called);
        let reply = Reply::decode(&reply.encode()).unwrap();
        let caller = reply.judge(&hello);
        assert_eq!(called, caller);
        caller
    }

    #[test]
    fn each_reason_to_refuse_is_told_exactly_to_the_caller() {
        assert_eq!(verdict(hello(), &[3]), Ok(()));
        let snapshot = Hello::new(&THEM, US.member, Purpose::Snapshot);
        assert_eq!(verdict(snapshot, &[]), Ok(()));
        let cases = [
            (
                Hello {
                    cluster: 8,
                    ..hello()
                },
                Refusal::WrongCluster {
                    caller: 8,
                    called: 7,
                },
            ),
            (
                Hello { to: 3, ..hello() },
                Refusal::WrongMember {
                    wanted: 3,
                    called: 1,
                },
            ),
            (
                Hello { from: 9, ..hello() },
                Refusal::Removed {
                    caller: 9,
                    called: 1,
                },
            ),
            (
                Hello {
                    oldest: 2,
                    newest: 5,
                    ..hello()
                },
                Refusal::Version {
                    caller: (2, 5),
                    called: (OLDEST, NEWEST),
                },
            ),
            (
                Hello {
                    from: 1,
                    to: 5,
                    ..hello()
                },
                Refusal::Itself { member: 1 },
            ),
            (
                Hello {
                    purpose: 9,
                    ..hello()
                },
                Refusal::Purpose { purpose: 9 },
            ),
        ];
        for (hello, refusal) in cases {
            assert_eq!(verdict(hello, &[9]), Err(refusal));
        }
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        let newer = Hello {
            newest: 200,
            ..hello()
        };
        assert_eq!(Reply::new(&US, &newer, Ok(())).version, NEWEST);
        assert_eq!(verdict(newer, &[]), Ok(()));
    }

    #[test]
    fn a_welcome_from_somebody_else_is_none() {
        let reply = Reply::new(&US, &hello(), Ok(()));
        let wanted = Hello { to: 5, ..hello() };
        assert!(matches!(
            reply.judge(&wanted),
            Err(Refusal::WrongMember { .. })
        ));
        let unknown = Reply {
            verdict: 77,
            ..reply
        };
        assert_eq!(unknown.judge(&hello()), Err(Refusal::Unknown { code: 77 }));
    }

    #[test]
    fn every_flipped_bit_of_a_greeting_is_noticed() {
        let mut bytes = hello().encode();
        for bit in 0..GREETING_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Hello::decode(&bytes).is_err(), "bit {bit}");
            assert!(Reply::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn strangers_are_known_by_their_first_byte() {
        assert_eq!(check_magic(b""), Ok(()));
        assert_eq!(check_magic(&MAGIC[..3]), Ok(()));
        assert_eq!(check_magic(&[0x93, b'k', b'x']), Err(Stranger::Other(0x93)));
        assert_eq!(check_magic(b"G"), Err(Stranger::Http));
        assert_eq!(check_magic(b"PRI * HTTP/2.0"), Err(Stranger::Http));
        assert_eq!(check_magic(&[0x16, 3, 1]), Err(Stranger::Tls));
        assert_eq!(check_magic(b"\x01\x02"), Err(Stranger::Other(1)));
    }
}
