//! Authorities and certificates for tests, made when the test runs, and a TLS client as a stranger would have it.

use std::fmt::Write as _;
use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Longest wait for anything on a connection of these.
const PATIENCE: Duration = Duration::from_secs(20);

const DAY: i64 = 86_400;

/// An authority of a test's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    next_serial: AtomicU32,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    pub common_name: &'a str,
    /// Names and addresses.
    pub hosts: &'a [&'a str],
    /// From so many days from now, to so many; negative is the past.
    pub days: (i64, i64),
}

impl Wish<'_> {
    /// For the server on loopback.
    pub fn local(common_name: &str) -> Wish<'_> {
        Wish {
            common_name,
            hosts: &["127.0.0.1", "localhost"],
            days: (-1, 100),
        }
    }

    /// Without names or addresses.
    pub fn holder(common_name: &str) -> Wish<'_> {
        Wish {
            common_name,
            hosts: &[],
            days: (-1, 100),
        }
    }
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: String,
    pub key: String,
    pub serial: u32,
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !common_name.is_empty() {
        name.push(DnType::CommonName, common_name);
    }
    name
}

/// So many days from now, as seconds since the epoch.
fn in_days(days: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = i64::try_from(now.expect("after 1970").as_secs()).expect("small");
    Duration::from_secs(u64::try_from(now + days * DAY).expect("after 1970"))
}

impl Authority {
    pub fn new(common_name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(1970, 1, 1) + in_days(-10);
        params.not_after = date_time_ymd(1970, 1, 1) + in_days(1000);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
            next_serial: AtomicU32::new(0x1001),
        }
    }

    pub fn issue(&self, wish: &Wish<'_>) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.distinguished_name = name(wish.common_name);
        params.serial_number = Some(SerialNumber::from(u64::from(serial)));
        params.not_before = date_time_ymd(1970, 1, 1) + in_days(wish.days.0);
        params.not_after = date_time_ymd(1970, 1, 1) + in_days(wish.days.1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        for host in wish.hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*host).try_into().expect("a name")),
            });
        }
        let cert = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Pair {
            cert,
            key: key.serialize_pem(),
            serial,
        }
    }

    /// A list that revokes these.
    pub fn revoke(&self, serials: &[u32]) -> String {
        let revoked = |serial: &u32| RevokedCertParams {
            serial_number: SerialNumber::from(u64::from(*serial)),
            revocation_time: date_time_ymd(1970, 1, 1) + in_days(-1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(1970, 1, 1) + in_days(-1),
            next_update: date_time_ymd(1970, 1, 1) + in_days(30),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("signed");
        list.pem().expect("PEM")
    }
}

/// A directory with the files of one test.
pub struct Files(tempfile::TempDir);

impl Default for Files {
    fn default() -> Files {
        Files(tempfile::tempdir().expect("a temporary directory"))
    }
}

impl Files {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, whole at once: a server may be reading.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, &path).expect("renamed");
        path
    }

    /// Writes `name.pem` and `name.key`.
    pub fn pair(&self, name: &str, pair: &Pair) -> (PathBuf, PathBuf) {
        (
            self.write(&format!("{name}.pem"), &pair.cert),
            self.write(&format!("{name}.key"), &pair.key),
        )
    }
}

/// `--cert-file=... --key-file=...` with this prefix before either.
pub fn pair_flags(prefix: &str, (cert, key): &(PathBuf, PathBuf)) -> [String; 2] {
    [
        format!("--{prefix}cert-file={}", cert.display()),
        format!("--{prefix}key-file={}", key.display()),
    ]
}

/// `--flag=path`.
pub fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// A client that trusts `authority` and shows `pair`.
pub struct Caller {
    config: Arc<ClientConfig>,
}

impl Caller {
    pub fn new(authority: &str, pair: Option<&Pair>) -> Caller {
        Caller::with_versions(authority, pair, rustls::ALL_VERSIONS)
    }

    /// Speaks TLS 1.2 and no other.
    pub fn old(authority: &str) -> Caller {
        Caller::with_versions(authority, None, &[&rustls::version::TLS12])
    }

    fn with_versions(
        authority: &str,
        pair: Option<&Pair>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Caller {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("a root");
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_root_certificates(roots);
        let config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes());
                let chain = chain.map(|one| one.expect("PEM")).collect();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        Caller {
            config: Arc::new(config),
        }
    }

    fn connect(&self, address: SocketAddr) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::from(address.ip());
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(connection, socket))
    }

    /// The serial of the certificate the server shows, in hex.
    pub fn serial(&self, address: SocketAddr) -> Result<String> {
        let stream = self.connect(address)?;
        let shown = stream.conn.peer_certificates();
        let first = shown.and_then(|all| all.first()).expect("a certificate");
        Ok(serial_of(first))
    }

    /// `GET path` over HTTP/1.1; head and body as they came.
    pub fn get(&self, address: SocketAddr, path: &str) -> Result<String> {
        let mut stream = self.connect(address)?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        match read {
            // Some servers end without a goodbye; what came counts.
            Err(error) if answer.is_empty() => Err(error),
            _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
        }
    }
}

/// The serial of a certificate: the first integer in it after the version, in hex.
fn serial_of(der: &[u8]) -> String {
    // SEQUENCE { SEQUENCE { [0] version, INTEGER serial ...: every length before it is long or short.
    let skip = |at: usize| match der[at + 1] {
        short if short < 0x80 => at + 2,
        long => at + 2 + usize::from(long & 0x7f),
    };
    let mut at = skip(skip(0));
    if der[at] == 0xa0 {
        at += 2 + usize::from(der[at + 1]);
    }
    assert_eq!(der[at], 2, "an integer");
    let length = usize::from(der[at + 1]);
    let bytes = &der[at + 2..at + 2 + length];
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.trim_start_matches('0').to_owned()
}
