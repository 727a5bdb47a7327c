//! The file that says whose directory this is.
//!
//! `IDENTITY` is written once. It is 8192 bytes: two copies of the same text, each padded with line
//! feeds to 4096, so that a lost sector or page takes only one of them:
//!
//! ```text
//! kvnode data directory            or, in the copy beside a log elsewhere: kvnode log directory
//! format 1
//! cluster 2c6a1f0000000001         cluster id, 16 hex digits
//! member 00000000000000aa          member id, 16 hex digits
//! instance <32 hex digits>         drawn anew for every directory ever made
//! wal inside                       or: wal /absolute/path of the wal-dir
//! check <16 hex digits>            xxh3-64 of all the lines above, line feeds included
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::{Error, FORMAT, Note};

const COPY_BYTES: usize = 4096;

/// Who a data directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    /// Random, drawn once per directory.
    pub instance_id: [u8; 16],
}

/// Which directory an identity lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Data,
    /// Beside a log that is not inside the data directory.
    Log,
}

impl Role {
    fn title(self) -> &'static str {
        match self {
            Role::Data => "kvnode data directory",
            Role::Log => "kvnode log directory",
        }
    }
}

pub(super) fn encode(
    role: Role,
    identity: &Identity,
    wal_dir: Option<&Path>,
) -> Result<Vec<u8>, Error> {
    let wal = match wal_dir {
        None => "inside",
        Some(path) => path
            .to_str()
            .filter(|path| !path.contains('\n') && path.len() < COPY_BYTES / 2)
            .ok_or_else(|| Error::Path {
                path: path.to_owned(),
            })?,
    };
    let Identity {
        cluster_id,
        member_id,
        instance_id,
    } = identity;
    let instance = hex(instance_id);
    let mut text = format!(
        "{}\nformat {FORMAT}\ncluster {cluster_id:016x}\n\
         member {member_id:016x}\ninstance {instance}\nwal {wal}\n",
        role.title()
    );
    let check = xxh3_64(text.as_bytes());
    let _ = writeln!(text, "check {check:016x}");
    let mut copy = text.into_bytes();
    copy.resize(COPY_BYTES, b'\n');
    Ok([copy.as_slice(), &copy].concat())
}

/// The identity and where the log was put, `None` for inside.
pub(super) fn read(
    path: &Path,
    role: Role,
    notes: &mut Vec<Note>,
) -> Result<(Identity, Option<PathBuf>), Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(2 * COPY_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::io("read", path, e))?;
    let corrupt = |detail: String| Error::IdentityCorrupt {
        path: path.to_owned(),
        detail,
    };
    let (first, second) = bytes.split_at(bytes.len().min(COPY_BYTES));
    match (parse(role, first), parse(role, second)) {
        (Ok(first), Ok(second)) if first == second => Ok(first),
        (Ok(first), Ok(second)) => Err(corrupt(format!(
            "its two copies differ: {} and {}",
            describe(&first.0),
            describe(&second.0)
        ))),
        (Err(Unreadable::Version(found)), _) | (_, Err(Unreadable::Version(found))) => {
            Err(Error::Version {
                path: path.to_owned(),
                found,
            })
        }
        (Ok(good), Err(_)) => {
            notes.push(Note::IdentityCopyDamaged {
                path: path.to_owned(),
                copy: 2,
            });
            Ok(good)
        }
        (Err(_), Ok(good)) => {
            notes.push(Note::IdentityCopyDamaged {
                path: path.to_owned(),
                copy: 1,
            });
            Ok(good)
        }
        (Err(Unreadable::Damage(first)), Err(Unreadable::Damage(second))) => {
            Err(corrupt(format!("copy 1: {first}; copy 2: {second}")))
        }
    }
}

enum Unreadable {
    /// Intact, but of a format this program does not know.
    Version(u32),
    Damage(String),
}

fn parse(role: Role, copy: &[u8]) -> Result<(Identity, Option<PathBuf>), Unreadable> {
    let damage = |detail: &str| Unreadable::Damage(detail.to_owned());
    let text = std::str::from_utf8(copy).map_err(|_| damage("not text"))?;
    let text = text.trim_end_matches('\n');
    let (body, check) = text
        .rsplit_once("\ncheck ")
        .ok_or_else(|| damage("no checksum line"))?;
    let computed = format!("{:016x}", xxh3_64(format!("{body}\n").as_bytes()));
    if check != computed {
        return Err(Unreadable::Damage(format!(
            "checksum {check}, computed {computed}"
        )));
    }
    let mut lines = body.lines();
    match lines.next() {
        Some(title) if title == role.title() => {}
        Some(title) => return Err(Unreadable::Damage(format!("it is that of a {title:?}"))),
        None => return Err(damage("empty")),
    }
    let mut field = |name: &str| {
        let (key, value) = lines.next()?.split_once(' ')?;
        (key == name).then_some(value)
    };
    let malformed = || damage("a line is malformed");
    let version = field("format")
        .and_then(|v| v.parse().ok())
        .ok_or_else(malformed)?;
    if version != FORMAT {
        return Err(Unreadable::Version(version));
    }
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let identity = Identity {
        cluster_id: field("cluster").and_then(number).ok_or_else(malformed)?,
        member_id: field("member").and_then(number).ok_or_else(malformed)?,
        instance_id: field("instance")
            .filter(|text| text.len() == 32)
            .and_then(|text| u128::from_str_radix(text, 16).ok())
            .ok_or_else(malformed)?
            .to_be_bytes(),
    };
    let wal = field("wal").ok_or_else(malformed)?;
    Ok((identity, (wal != "inside").then(|| PathBuf::from(wal))))
}

pub(super) fn describe(identity: &Identity) -> String {
    format!(
        "cluster {:x} member {:x} instance {}",
        identity.cluster_id,
        identity.member_id,
        hex(&identity.instance_id)
    )
}

pub(super) fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}
