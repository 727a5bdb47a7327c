//! What a certificate says about its holder.

use std::net::IpAddr;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Names and times of one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The subject's common name; empty if it has none.
    pub common_name: String,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// As on the wire: big endian, a zero in front if the first bit is set.
    pub serial: Vec<u8>,
    /// Seconds since the epoch.
    pub not_before: i64,
    pub not_after: i64,
    pub not_after_text: String,
}

impl Names {
    /// # Errors
    /// It is no certificate, with what the parser made of it.
    pub fn read(der: &[u8]) -> Result<Names, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let common_name = certificate.subject().iter_common_name().next();
        let common_name = common_name.and_then(|name| name.as_str().ok());
        let mut names = Names {
            common_name: common_name.unwrap_or_default().to_owned(),
            serial: certificate.raw_serial().to_vec(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            not_after_text: certificate.validity().not_after.to_string(),
            ..Names::default()
        };
        let alternatives = certificate.subject_alternative_name();
        let alternatives = alternatives.map_err(|error| error.to_string())?;
        for name in alternatives.iter().flat_map(|one| &one.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(names)
    }

    /// The serial in hex without zeros in front, as `openssl x509 -serial` shows it (but in small letters).
    pub fn serial_text(&self) -> String {
        let text: String = self
            .serial
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let bare = text.trim_start_matches('0');
        if bare.is_empty() { "0" } else { bare }.to_owned()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
