//! Who is welcome: the library verifies the chain; here stand the rules beside it, the same for those who call and
//! for those who are called.
//!
//! - A serial that a revocation list names is refused, wherever in the chain it stands.
//! - Where common names or host names are listed, the certificate must have one of them.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::files::Revoked;
use super::names::Names;

/// Which holders of valid certificates are welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    Anybody,
    CommonNames(Vec<String>),
    HostNames(Vec<String>),
}

/// Why the holder of a valid certificate is not welcome.
#[derive(Debug, thiserror::Error)]
enum Unwelcome {
    #[error("its common name {found:?} is not among the allowed ones ({})", allowed.join(", "))]
    CommonName { found: String, allowed: Vec<String> },
    #[error("it is valid for none of the allowed host names ({})", allowed.join(", "))]
    HostName { allowed: Vec<String> },
    #[error("it cannot be understood: {0}")]
    Unreadable(String),
}

impl From<Unwelcome> for Error {
    fn from(why: Unwelcome) -> Error {
        CertificateError::Other(OtherError(Arc::new(why))).into()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub allowed: Allowed,
    pub revoked: Revoked,
}

impl Rules {
    fn check(
        &self,
        holder: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let read = |der: &CertificateDer<'_>| Names::read(der).map_err(Unwelcome::Unreadable);
        let names = read(holder)?;
        if self.revoked.contains(&names.serial) {
            return Err(CertificateError::Revoked.into());
        }
        for der in above {
            if self.revoked.contains(&read(der)?.serial) {
                return Err(CertificateError::Revoked.into());
            }
        }
        match &self.allowed {
            Allowed::Anybody => Ok(()),
            Allowed::CommonNames(allowed) if allowed.contains(&names.common_name) => Ok(()),
            Allowed::CommonNames(allowed) => Err(Unwelcome::CommonName {
                found: names.common_name,
                allowed: allowed.clone(),
            }
            .into()),
            Allowed::HostNames(allowed) => {
                let parsed = ParsedCertificate::try_from(holder)?;
                let valid_for = |host: &String| {
                    ServerName::try_from(host.as_str())
                        .is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
                };
                if allowed.iter().any(valid_for) {
                    return Ok(());
                }
                let allowed = allowed.clone();
                Err(Unwelcome::HostName { allowed }.into())
            }
        }
    }
}

/// Judges those who connect here.
#[derive(Debug)]
pub(super) struct Callers {
    chain: Arc<dyn ClientCertVerifier>,
    rules: Rules,
}

impl Callers {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        rules: Rules,
    ) -> Result<Arc<Callers>, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(Callers { chain, rules }))
    }
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        self.rules.check(end_entity, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Judges those who are called from here.
#[derive(Debug)]
pub(super) enum Called {
    /// By authority and name.
    Known {
        chain: Arc<WebPkiServerVerifier>,
        rules: Rules,
    },
    /// Self-signed on all sides: encrypted, but to whom is not known.
    Anybody(Arc<CryptoProvider>),
}

impl Called {
    pub(super) fn known(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        rules: Rules,
    ) -> Result<Arc<Called>, String> {
        let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(Called::Known { chain, rules }))
    }
}

impl ServerCertVerifier for Called {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self {
            Called::Known { chain, rules } => {
                let verified = chain.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                )?;
                rules.check(end_entity, intermediates)?;
                Ok(verified)
            }
            Called::Anybody(_) => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self {
            Called::Known { chain, .. } => chain.verify_tls12_signature(message, cert, dss),
            Called::Anybody(provider) => verify_tls12_signature(
                message,
                cert,
                dss,
                &provider.signature_verification_algorithms,
            ),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self {
            Called::Known { chain, .. } => chain.verify_tls13_signature(message, cert, dss),
            Called::Anybody(provider) => verify_tls13_signature(
                message,
                cert,
                dss,
                &provider.signature_verification_algorithms,
            ),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self {
            Called::Known { chain, .. } => chain.supported_verify_schemes(),
            Called::Anybody(provider) => provider
                .signature_verification_algorithms
                .supported_schemes(),
        }
    }
}
