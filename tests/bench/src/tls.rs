//! TLS on the connections of a whole run (`--tls`), or on none. The servers' certificates are of their own making and are not
//! verified: what is measured is the cost of encryption, not whom one talks to.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use crate::net::Failure;

/// How all connections are encrypted; empty: not at all.
static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();

/// From now on every connection speaks TLS.
///
/// # Errors
/// The library refuses its own settings.
pub fn switch_on() -> Result<(), Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failure)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A second call changes nothing.
    let _ = CONFIG.set(Arc::new(config));
    Ok(())
}

/// Whether servers have to be started with TLS.
pub fn is_on() -> bool {
    CONFIG.get().is_some()
}

fn failure(error: Error) -> Failure {
    Failure(format!("TLS: {error}"))
}

/// The encryption of one connection.
pub struct Session(ClientConnection);

/// For a new connection; None without TLS.
///
/// # Errors
/// The library's.
pub fn session(server: SocketAddr) -> Result<Option<Session>, Failure> {
    let session = |config| ClientConnection::new(config, ServerName::from(server.ip()));
    let made = CONFIG.get().cloned().map(session).transpose();
    Ok(made.map_err(failure)?.map(Session))
}

impl Session {
    /// Reads once from the socket.
    ///
    /// # Errors
    /// The connection is over, or what came cannot be decrypted.
    pub fn receive(&mut self, socket: &mut TcpStream) -> Result<(), Failure> {
        match self.0.read_tls(socket) {
            Ok(0) => return Err(Failure("the server closed a connection".to_owned())),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        self.0.process_new_packets().map(drop).map_err(failure)
    }

    /// Takes what has been decrypted; None if there is no more for now.
    ///
    /// # Errors
    /// The server has ended the connection.
    pub fn take(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Failure> {
        match self.0.reader().read(buffer) {
            Ok(0) => Err(Failure("the server closed a connection".to_owned())),
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Encrypts and writes as much as the socket takes; how many of the bytes are on their way.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&mut self, bytes: &[u8], socket: &mut TcpStream) -> Result<usize, Failure> {
        let mut taken = 0;
        loop {
            // Takes nothing when its own buffer is full.
            let count = self.0.writer().write(&bytes[taken..])?;
            taken += count;
            while self.0.wants_write() {
                match self.0.write_tls(socket) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(taken),
                    Err(error) => return Err(error.into()),
                }
            }
            if count == 0 || taken == bytes.len() {
                return Ok(taken);
            }
        }
    }

    /// Whether encrypted bytes wait for the socket.
    pub fn waits(&self) -> bool {
        self.0.wants_write()
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
