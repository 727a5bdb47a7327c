//! From settings to what one side serves and calls with; made anew whenever a file has changed.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig};

use super::files::{FileError, Named, Revoked, system_bundle};
use super::names::Names;
use super::rules::{Allowed, Called, Callers, Rules};
use crate::config::Security;
use crate::config::security::{Side, TlsSide};

/// One moment's files of one side.
#[derive(Debug)]
pub(crate) struct Moment {
    /// None while there is no certificate.
    pub server: Option<Arc<ServerConfig>>,
    /// To call members with; why not, if that cannot be. None: there is no setting for it, see [`calling_by_default`].
    pub client: Option<Result<Arc<ClientConfig>, String>>,
    /// The certificate served.
    pub served: Option<Served>,
    /// How many certificates are revoked, and when the list should have been replaced.
    pub revoked: Option<(usize, Option<i64>)>,
}

/// The certificate served.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub path: PathBuf,
    pub names: Names,
}

/// Where a side's pair is, if it was given or made.
pub(super) type Pair = Option<(PathBuf, PathBuf)>;

/// Reads all files of a side. `pair` is what it serves with. A certificate that has expired by `good_at` (seconds since the
/// epoch) is refused; without, it is taken: a server that has to start does better with an old one than not at all.
///
/// # Errors
/// The first thing that is wrong with them.
pub(super) fn read(
    security: &Security,
    side: Side,
    pair: &Pair,
    good_at: Option<i64>,
) -> Result<Moment, FileError> {
    let settings = security.side(side);
    let flags = side.flags();
    let provider = Arc::new(security.offer.provider());
    let versions = security.offer.versions();
    let named = |flag, path: &PathBuf| Named {
        flag,
        path: path.clone(),
    };

    let load = |cert: Named, key: Named| certified(&cert, &key, &provider, good_at);
    let served = match pair {
        Some((cert, key)) => {
            let (certified, names) = load(named(flags.cert, cert), named(flags.key, key))?;
            let path = cert.clone();
            Some((certified, Served { path, names }))
        }
        None => None,
    };
    let dialled = match &settings.dial_pair {
        Some((cert, key)) => {
            Some(load(named(flags.dial_cert, cert), named(flags.dial_key, key))?.0)
        }
        None => served.as_ref().map(|(certified, _)| Arc::clone(certified)),
    };
    let trusted = match &settings.trusted_ca {
        Some(path) => Some((path, named(flags.ca, path).certificates()?)),
        None => None,
    };
    let revoked = match &settings.crl {
        Some(path) => {
            let trusted = trusted.as_ref().map_or(&[][..], |(_, all)| all);
            Some(named(flags.crl, path).revoked(flags.ca, trusted)?)
        }
        None => None,
    };
    let roots = match trusted {
        Some((path, trusted)) => Some(Arc::new(authorities(&named(flags.ca, path), trusted)?)),
        None => None,
    };
    let rules = rules(settings, revoked.clone().unwrap_or_default());
    // What cannot be is a fault of ours, not of a file; but a start must be able to say so.
    let odd = |error: &dyn std::fmt::Display| {
        FileError::new(
            format!("TLS cannot be set up: {error}"),
            "check the TLS flags",
        )
    };

    let server = match &served {
        None => None,
        Some((certified, _)) => {
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&versions)
                .map_err(|error| odd(&error))?;
            let builder = match &roots {
                Some(roots) if settings.verifies() => {
                    let callers = Callers::new(Arc::clone(roots), &provider, rules.clone());
                    builder.with_client_cert_verifier(callers.map_err(|error| odd(&error))?)
                }
                _ => builder.with_no_client_auth(),
            };
            let resolver = SingleCertAndKey::from(Arc::clone(certified));
            let mut server = builder.with_cert_resolver(Arc::new(resolver));
            // A resumed session would skip the look at the revocation list.
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
            if side == Side::Client {
                server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            }
            Some(Arc::new(server))
        }
    };

    // Without any setting the authorities of the system would count; they are read when somebody is called.
    let has_settings = settings.auto || roots.is_some() || dialled.is_some();
    let client =
        (side == Side::Peer && has_settings).then(|| calling(security, dialled, roots, rules));
    Ok(Moment {
        server,
        client,
        served: served.map(|(_, served)| served),
        revoked: revoked.map(|revoked| (revoked.count(), revoked.next_update)),
    })
}

/// A pair as it is shown, and what its certificate says. One that has expired by `good_at` is refused.
pub(super) fn certified(
    cert: &Named,
    key: &Named,
    provider: &CryptoProvider,
    good_at: Option<i64>,
) -> Result<(Arc<CertifiedKey>, Names), FileError> {
    let chain = cert.certificates()?;
    let names = cert.leaf(&chain)?;
    if let Some(now) = good_at {
        cert.check_time(&names, now)?;
    }
    let certified = CertifiedKey::from_der(chain, key.key()?, provider);
    let certified = certified.map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => cert.key_mismatch(key),
        Error::InvalidCertificate(_) => cert.unusable(error),
        _ => key.unusable(error),
    })?;
    Ok((Arc::new(certified), names))
}

/// What members are called with, without any setting for it.
pub(super) fn calling_by_default(security: &Security) -> Result<Arc<ClientConfig>, String> {
    let rules = rules(&security.peer, Revoked::default());
    calling(security, None, None, rules)
}

fn calling(
    security: &Security,
    dialled: Option<Arc<CertifiedKey>>,
    roots: Option<Arc<RootCertStore>>,
    rules: Rules,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(security.offer.provider());
    let called = if security.peer.auto {
        Arc::new(Called::Anybody(Arc::clone(&provider)))
    } else {
        let roots = roots.map_or_else(public_authorities, Ok)?;
        Called::known(roots, &provider, rules)?
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&security.offer.versions())
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(called);
    let mut client = match dialled {
        Some(certified) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    client.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(client))
}

fn rules(settings: &TlsSide, revoked: Revoked) -> Rules {
    let allowed = if !settings.allowed_cn.is_empty() {
        Allowed::CommonNames(settings.allowed_cn.clone())
    } else if !settings.allowed_hostname.is_empty() {
        Allowed::HostNames(settings.allowed_hostname.clone())
    } else {
        Allowed::Anybody
    };
    Rules { allowed, revoked }
}

/// Every certificate of a bundle is an authority.
pub(super) fn authorities(
    file: &Named,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in certificates.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            file.unusable(format_args!("its certificate number {}: {error}", at + 1))
        })?;
    }
    Ok(roots)
}

fn public_authorities() -> Result<Arc<RootCertStore>, String> {
    let (_, bundle): (_, Vec<CertificateDer<'static>>) = system_bundle().ok_or_else(|| {
        "members with https:// urls need --peer-trusted-ca-file: this system has no authorities of its own"
            .to_owned()
    })?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle);
    Ok(Arc::new(roots))
}
