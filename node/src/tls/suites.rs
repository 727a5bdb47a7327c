//! Protocol versions and cipher suites, under the names other servers of this kind use.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, SupportedProtocolVersion, version};

/// What may be chosen for TLS 1.2.
const TLS12: &[(&str, CipherSuite)] = &[
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Names Go once used for two of them.
const OLD_NAMES: &[(&str, &str)] = &[
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
];

/// Always on where TLS 1.3 is; naming them changes nothing.
const TLS13: &[&str] = &[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// A TLS version this server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Tls12,
    Tls13,
}

/// Which versions and suites to offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub min: Version,
    pub max: Version,
    /// TLS 1.2 suites by name, each of [`known`]; empty means all.
    pub suites: Vec<String>,
}

/// Every name that [`check`] takes, those that decide something first.
pub fn known() -> impl Iterator<Item = &'static str> {
    TLS12
        .iter()
        .map(|(name, _)| *name)
        .chain(TLS13.iter().copied())
}

/// What a suite's name comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// To be offered in TLS 1.2, under this name.
    Chosen(&'static str),
    /// Of TLS 1.3, where all are always on.
    Always,
    /// Nobody here knows it.
    Unknown,
}

/// Looks a suite up by its IANA name, or by the one it had before.
pub fn check(name: &str) -> Suite {
    if TLS13.contains(&name) {
        return Suite::Always;
    }
    let old = OLD_NAMES.iter().find(|(old, _)| *old == name);
    let name = old.map_or(name, |(_, now)| now);
    let suite = TLS12.iter().find(|(known, _)| *known == name);
    suite.map_or(Suite::Unknown, |(known, _)| Suite::Chosen(known))
}

impl Offer {
    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        [
            (Version::Tls13, &version::TLS13),
            (Version::Tls12, &version::TLS12),
        ]
        .into_iter()
        .filter(|(version, _)| (self.min..=self.max).contains(version))
        .map(|(_, version)| version)
        .collect()
    }

    pub(super) fn provider(&self) -> CryptoProvider {
        let mut provider = aws_lc_rs::default_provider();
        if !self.suites.is_empty() {
            let named = |suite: CipherSuite| {
                let name = TLS12.iter().find(|(_, known)| *known == suite);
                name.is_none_or(|(name, _)| self.suites.iter().any(|wanted| wanted == name))
            };
            provider.cipher_suites.retain(|suite| named(suite.suite()));
        }
        provider
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_that_may_be_named_is_one_the_library_has() {
        let provider = aws_lc_rs::default_provider();
        for (name, suite) in TLS12 {
            let has = provider
                .cipher_suites
                .iter()
                .any(|one| one.suite() == *suite);
            assert!(has, "{name}");
            assert_eq!(check(name), Suite::Chosen(name));
        }
        for (old, now) in OLD_NAMES {
            assert_eq!(check(old), Suite::Chosen(now));
        }
        assert_eq!(check("TLS_AES_128_GCM_SHA256"), Suite::Always);
        assert_eq!(check("TLS_RSA_WITH_RC4_128_SHA"), Suite::Unknown);
    }

    #[test]
    fn only_the_suites_asked_for_remain_beside_those_of_tls_1_3() {
        let name = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";
        let offer = Offer {
            min: Version::Tls12,
            max: Version::Tls13,
            suites: vec![name.to_owned()],
        };
        let suites = offer.provider().cipher_suites;
        let tls12: Vec<CipherSuite> = suites
            .iter()
            .map(|one| one.suite())
            .filter(|suite| TLS12.iter().any(|(_, known)| known == suite))
            .collect();
        assert_eq!(tls12, [CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]);
        assert_eq!(suites.len(), 1 + TLS13.len());
        assert_eq!(offer.versions().len(), 2);
    }
}
