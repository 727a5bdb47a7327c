//! Self-signed certificates, for encryption without a say about who is who.
//!
//! As in etcd they lie in `fixtures/client` and `fixtures/peer` of the data directory, `cert.pem` and `key.pem`. One
//! that is there is used again, until a month before its end: then, at a start or while running, a new one is made.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::names::Names;

const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";

/// So long before its end a certificate is replaced, in seconds.
const RENEW_BEFORE: i64 = 30 * 86_400;

const YEAR: u64 = 365 * 86_400;

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Names and addresses the listeners are reached under.
    pub hosts: Vec<String>,
    /// At least 1.
    pub years: u32,
}

/// Certificate and key of a directory.
pub(super) fn paths(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join(CERT), directory.join(KEY))
}

/// The pair in `directory`, made or made anew if need be; whether it was made now. `now` in seconds since the epoch.
pub(super) fn ensure(
    directory: &Path,
    wish: &Wish,
    now: i64,
) -> io::Result<((PathBuf, PathBuf), bool)> {
    let (cert, key) = paths(directory);
    let good = read(&cert).is_some_and(|names| names.not_after - now > RENEW_BEFORE);
    if good && key.exists() {
        return Ok(((cert, key), false));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let (cert_pem, key_pem) = make(wish, now).map_err(io::Error::other)?;
    // A crash between the two leaves a key without its certificate: then both are made anew.
    let _ = fs::remove_file(&cert);
    replace(directory, &key, &key_pem)?;
    replace(directory, &cert, &cert_pem)?;
    Ok(((cert, key), true))
}

fn read(cert: &Path) -> Option<Names> {
    let der = CertificateDer::from_pem_file(cert).ok()?;
    Names::read(&der).ok()
}

fn make(wish: &Wish, now: i64) -> Result<(String, String), String> {
    let told = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate().map_err(told)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "kvnode");
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.unsigned_abs());
    params.not_before = now;
    params.not_after = now + Duration::from_secs(YEAR * u64::from(wish.years.max(1)));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| error.to_string())?;
    // A serial is a positive number.
    serial[0] = serial[0] & 0x7f | 1;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    for host in &wish.hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.as_str().try_into().map_err(told)?),
        });
    }
    let certificate = params.self_signed(&key).map_err(told)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Whole or not at all, readable by the server's user only.
fn replace(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn a_pair_is_used_again_until_a_month_before_its_end() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("fixtures/client");
        let wish = Wish {
            hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            years: 1,
        };
        let begin = 1_800_000_000;
        let serial = |now: i64| {
            let ((cert, _), made) = ensure(&directory, &wish, now).unwrap();
            let names = read(&cert).unwrap();
            assert_eq!(names.dns, ["localhost"]);
            assert_eq!(names.addresses.len(), 1);
            (names.serial, made)
        };
        let (first, made) = serial(begin);
        assert!(made);
        assert_eq!(serial(begin + 300 * DAY), (first.clone(), false));
        let (second, made) = serial(begin + 340 * DAY);
        assert!(made && second != first);
        fs::remove_file(directory.join(KEY)).unwrap();
        assert!(
            serial(begin + 341 * DAY).1,
            "a certificate without its key is of no use"
        );
    }
}
