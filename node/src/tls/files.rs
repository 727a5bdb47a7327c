//! Reading certificates, keys, authorities and revocation lists from files: PEM, as every tool writes it.
//!
//! Whatever is wrong with a file is said in one line that names it, what was expected and what was found, with the
//! command that shows or mends it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{Error as PemError, SectionKind, SliceIter};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::names::Names;

/// Larger files are taken for something else; a bundle of every public authority has 250 KiB, a revocation list of a
/// hundred thousand certificates 4 MiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What is wrong with a file, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct FileError {
    /// One line: the flag, the file, what was expected, what was found.
    pub what: String,
    /// One line: the next command.
    pub hint: String,
}

impl FileError {
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> FileError {
        FileError {
            what: what.into(),
            hint: hint.into(),
        }
    }
}

/// A file and the flag that named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub flag: &'static str,
    pub path: PathBuf,
}

impl Named {
    fn text(&self) -> String {
        format!("--{} {}", self.flag, self.path.display())
    }

    fn wrong(&self, why: &str, hint: impl Into<String>) -> FileError {
        FileError::new(format!("{} {why}", self.text()), hint)
    }

    fn read(&self) -> Result<Vec<u8>, FileError> {
        let told = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => format!(
                    "the server's user must be able to read it: `ls -l {}`",
                    self.path.display()
                ),
                _ => format!("check the path: `ls -l {}`", self.path.display()),
            };
            self.wrong(&format!("cannot be read: {error}"), hint)
        };
        let length = fs::metadata(&self.path).map_err(told)?.len();
        if length > FILE_BYTES_MAX {
            let why = format!("has {length} bytes; at most {FILE_BYTES_MAX} are read");
            return Err(self.wrong(&why, "is it the right file?"));
        }
        fs::read(&self.path).map_err(told)
    }

    /// The sections of these kinds; others are skipped.
    fn sections(
        &self,
        bytes: &[u8],
        wanted: &[SectionKind],
    ) -> Result<Vec<(SectionKind, Vec<u8>)>, FileError> {
        let mut found = Vec::new();
        for section in SliceIter::<(SectionKind, Vec<u8>)>::new(bytes) {
            let (kind, der) = section.map_err(|error: PemError| {
                let hint = format!(
                    "look at it with `openssl storeutl -noout -text {}`",
                    self.path.display()
                );
                self.wrong(&format!("is damaged PEM: {error:?}"), hint)
            })?;
            if wanted.contains(&kind) {
                found.push((kind, der));
            }
        }
        Ok(found)
    }

    /// All certificates of the file, in order; at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let bytes = self.read()?;
        let found: Vec<_> = self
            .sections(&bytes, &[SectionKind::Certificate])?
            .into_iter()
            .map(|(_, der)| CertificateDer::from(der))
            .collect();
        if found.is_empty() {
            let why = format!(
                "has no certificate: expected PEM with BEGIN CERTIFICATE, found {}",
                sort_of(&bytes)
            );
            return Err(self.wrong(&why, self.conversion(&bytes, "x509")));
        }
        Ok(found)
    }

    /// The private key of the file.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, FileError> {
        const KEYS: &[SectionKind] = &[
            SectionKind::PrivateKey,
            SectionKind::RsaPrivateKey,
            SectionKind::EcPrivateKey,
        ];
        let bytes = self.read()?;
        if is_encrypted(&bytes) {
            let path = self.path.display();
            return Err(self.wrong(
                "is encrypted with a passphrase, which nobody could type at start",
                format!("decrypt it once: `openssl pkey -in {path} -out {path}.plain && chmod 600 {path}.plain`"),
            ));
        }
        let key = self.sections(&bytes, KEYS)?.into_iter().next();
        match key {
            Some((SectionKind::PrivateKey, der)) => Ok(PrivateKeyDer::Pkcs8(der.into())),
            Some((SectionKind::RsaPrivateKey, der)) => Ok(PrivateKeyDer::Pkcs1(der.into())),
            Some((_, der)) => Ok(PrivateKeyDer::Sec1(der.into())),
            None => {
                let why = format!(
                    "has no private key: expected PEM with BEGIN PRIVATE KEY, found {}",
                    sort_of(&bytes)
                );
                Err(self.wrong(&why, self.conversion(&bytes, "pkey")))
            }
        }
    }

    /// The serial numbers a revocation list names; several lists may stand in one file, and one may be bare DER. Each has to
    /// be signed by one of `authorities`, which stand in the file of the flag `ca`.
    pub(super) fn revoked(
        &self,
        ca: &str,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Revoked, FileError> {
        let bytes = self.read()?;
        let mut lists: Vec<Vec<u8>> = self
            .sections(&bytes, &[SectionKind::Crl])?
            .into_iter()
            .map(|(_, der)| der)
            .collect();
        if lists.is_empty() && !bytes.starts_with(b"-----") && !bytes.is_empty() {
            lists.push(bytes.clone());
        }
        if lists.is_empty() {
            let why = format!(
                "has no revocation list: expected PEM with BEGIN X509 CRL, found {}",
                sort_of(&bytes)
            );
            let hint =
                "make one with `openssl ca -gencrl -out crl.pem`, empty if nothing is revoked";
            return Err(self.wrong(&why, hint));
        }
        let mut revoked = Revoked::default();
        for der in lists {
            let list = CertificateRevocationList::from_der(&der);
            let (_, list) = list.map_err(|error| {
                let path = self.path.display();
                let hint = format!("look at it with `openssl crl -in {path} -noout -text`");
                self.wrong(&format!("is no revocation list: {error}"), hint)
            })?;
            self.check_issuer(&list, ca, authorities)?;
            let serials = list.iter_revoked_certificates();
            revoked
                .serials
                .extend(serials.map(|one| bare(one.raw_serial())));
            let next = list.next_update().map(|time| time.timestamp());
            revoked.next_update = match (revoked.next_update, next) {
                (Some(known), Some(next)) => Some(known.min(next)),
                (known, next) => known.or(next),
            };
        }
        Ok(revoked)
    }

    /// Refuses a list that no authority vouches for: whoever can only exchange the file must not make a revoked certificate
    /// good again.
    fn check_issuer(
        &self,
        list: &CertificateRevocationList,
        ca: &str,
        authorities: &[CertificateDer<'static>],
    ) -> Result<(), FileError> {
        let (issuer, path) = (list.issuer(), self.path.display());
        let parsed = authorities
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok());
        let named: Vec<_> = parsed
            .map(|(_, authority)| authority)
            .filter(|authority| authority.subject().as_raw() == issuer.as_raw())
            .collect();
        if named.is_empty() {
            let why = format!("was issued by {issuer}, expected one of --{ca}");
            let hint = format!(
                "add that authority's certificate to the file of --{ca}; `openssl crl -in {path} -noout -issuer` shows whose it must be"
            );
            return Err(self.wrong(&why, hint));
        }
        let signed = |authority: &X509Certificate<'_>| {
            let signature = list.verify_signature(authority.public_key());
            signature.is_ok()
        };
        if named.iter().any(signed) {
            return Ok(());
        }
        let why = format!(
            "is not signed by {issuer} of --{ca}: it was changed, or another of that name made it"
        );
        let hint = format!("fetch it anew; `openssl crl -in {path} -noout -CAfile FILE` checks it");
        Err(self.wrong(&why, hint))
    }

    /// What this side is: its names and times.
    pub(super) fn leaf(&self, chain: &[CertificateDer<'static>]) -> Result<Names, FileError> {
        let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
        Names::read(first).map_err(|error| {
            let path = self.path.display();
            let hint = format!("look at it with `openssl x509 -in {path} -noout -text`");
            self.wrong(&format!("cannot be understood: {error}"), hint)
        })
    }

    /// Refuses a certificate whose time is over.
    pub(super) fn check_time(&self, names: &Names, now: i64) -> Result<(), FileError> {
        let path = self.path.display();
        if names.not_after < now {
            let days = (now - names.not_after) / 86_400;
            let why = format!("has expired {days} days ago ({})", names.not_after_text);
            let hint =
                format!("have it renewed; `openssl x509 -in {path} -noout -dates` shows its times");
            return Err(self.wrong(&why, hint));
        }
        Ok(())
    }

    pub(super) fn key_mismatch(&self, key: &Named) -> FileError {
        let (cert, path) = (self.path.display(), key.path.display());
        FileError::new(
            format!(
                "{} does not belong to the certificate in {}: their public keys differ",
                key.text(),
                self.text()
            ),
            format!(
                "these two must print the same: `openssl x509 -in {cert} -noout -pubkey` and `openssl pkey -in {path} -pubout`; the server's own certificate must come first in {cert}"
            ),
        )
    }

    pub(super) fn unusable(&self, why: impl std::fmt::Display) -> FileError {
        let path = self.path.display();
        self.wrong(
            &format!("cannot be used: {why}"),
            format!("look at it with `openssl storeutl -noout -text {path}`"),
        )
    }

    fn conversion(&self, bytes: &[u8], command: &str) -> String {
        let path = self.path.display();
        if bytes.first() == Some(&0x30) {
            format!("convert it: `openssl {command} -inform DER -in {path} -out {path}.pem`")
        } else {
            format!("look at it with `head -3 {path}`; is it the right file?")
        }
    }
}

/// Serial numbers that are no longer welcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Revoked {
    serials: HashSet<Vec<u8>>,
    /// Seconds since the epoch: when the first of the lists should have been replaced.
    pub next_update: Option<i64>,
}

impl Revoked {
    /// As in etcd the serial decides, whoever has issued the list.
    pub(super) fn contains(&self, raw_serial: &[u8]) -> bool {
        !self.serials.is_empty() && self.serials.contains(&bare(raw_serial))
    }

    pub(super) fn count(&self) -> usize {
        self.serials.len()
    }
}

/// A serial without the zeros in front that DER may add.
fn bare(serial: &[u8]) -> Vec<u8> {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial[zeros..].to_vec()
}

fn is_encrypted(bytes: &[u8]) -> bool {
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// What a file seems to be instead.
fn sort_of(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "an empty file".to_owned();
    }
    let text = String::from_utf8_lossy(bytes);
    let begins = text
        .lines()
        .filter_map(|line| line.strip_prefix("-----BEGIN "));
    let kinds: Vec<&str> = begins.map(|rest| rest.trim_end_matches('-')).collect();
    match kinds.first() {
        Some(kind) => format!("{} sections, the first {kind}", kinds.len()),
        None if bytes[0] == 0x30 => "bytes that look like DER".to_owned(),
        None => format!("{} bytes that are no PEM", bytes.len()),
    }
}

/// Where distributions keep the authorities of the public; used to call members when no file of ours is given.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// The system's authorities, or none.
pub(super) fn system_bundle() -> Option<(PathBuf, Vec<CertificateDer<'static>>)> {
    let path = SYSTEM_BUNDLES.iter().map(Path::new).find(|p| p.exists())?;
    let named = Named {
        flag: "peer-trusted-ca-file",
        path: path.to_owned(),
    };
    Some((path.to_owned(), named.certificates().ok()?))
}
