//! What the registry of `--discovery-token`, in another cluster, is called with. Read once, at the start.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};

use super::Calling;
use super::context::{authorities, certified};
use super::files::{FileError, Named, system_bundle};
use super::rules::{Allowed, Called, Rules};
use crate::config::DiscoveryTls;
use crate::tls::suites::Offer;

/// Of `settings`; protocol versions and suites are those of the node's other connections.
///
/// # Errors
/// What is wrong with a file, or that there is nobody to trust.
pub(crate) fn registry(offer: &Offer, settings: &DiscoveryTls) -> Result<Calling, FileError> {
    let provider = Arc::new(offer.provider());
    let odd = |error: &dyn std::fmt::Display| {
        let what = format!("TLS of discovery cannot be set up: {error}");
        FileError::new(what, "check the TLS flags")
    };
    let called = if settings.verify {
        let roots = match &settings.ca {
            Some(path) => {
                let file = Named {
                    flag: "discovery-cacert",
                    path: path.clone(),
                };
                authorities(&file, file.certificates()?)?
            }
            None => public()?,
        };
        let rules = Rules {
            allowed: Allowed::Anybody,
            revoked: Default::default(),
        };
        let known = Called::known(Arc::new(roots), &provider, rules);
        known.map_err(|error| odd(&error))?
    } else {
        Arc::new(Called::Anybody(Arc::clone(&provider)))
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&offer.versions())
        .map_err(|error| odd(&error))?
        .dangerous()
        .with_custom_certificate_verifier(called);
    let mut config = match &settings.pair {
        Some((cert, key)) => {
            let cert = Named {
                flag: "discovery-cert",
                path: cert.clone(),
            };
            let key = Named {
                flag: "discovery-key",
                path: key.clone(),
            };
            let (pair, _) = certified(&cert, &key, &provider, None)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn public() -> Result<RootCertStore, FileError> {
    let bundle: Option<(_, Vec<CertificateDer<'static>>)> = system_bundle();
    let (_, bundle) = bundle.ok_or_else(|| {
        FileError::new(
            "a registry over TLS needs --discovery-cacert: this system has no authorities of its own",
            "name the file of the registry's authority with --discovery-cacert",
        )
    })?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle);
    Ok(roots)
}
