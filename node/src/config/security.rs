//! TLS settings of the two kinds of listeners, and the rules between them, their flags and their urls.
//!
//! What an operator asked for is never weakened in silence: a setting that would be without effect is refused, or told
//! where etcd's own unit files have it so. No file is opened here.

use std::path::PathBuf;

use super::check::Read;
use super::merge::{Notice, named};
use super::{ConfigError, Scheme, Url, values};
use crate::tls::suites::{self, Offer, Suite, Version};

/// Whose listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Peer,
}

/// The flags of a side, without dashes.
#[derive(Debug)]
pub struct Flags {
    pub cert: &'static str,
    pub key: &'static str,
    pub dial_cert: &'static str,
    pub dial_key: &'static str,
    pub cert_auth: &'static str,
    pub ca: &'static str,
    pub crl: &'static str,
    pub allowed_cn: &'static str,
    pub allowed_hostname: &'static str,
    pub auto: &'static str,
    pub skip_san: &'static str,
}

const CLIENT: Flags = Flags {
    cert: "cert-file",
    key: "key-file",
    dial_cert: "client-cert-file",
    dial_key: "client-key-file",
    cert_auth: "client-cert-auth",
    ca: "trusted-ca-file",
    crl: "client-crl-file",
    allowed_cn: "client-cert-allowed-cn",
    allowed_hostname: "client-cert-allowed-hostname",
    auto: "auto-tls",
    skip_san: "client-skip-client-san-verification",
};

const PEER: Flags = Flags {
    cert: "peer-cert-file",
    key: "peer-key-file",
    dial_cert: "peer-client-cert-file",
    dial_key: "peer-client-key-file",
    cert_auth: "peer-client-cert-auth",
    ca: "peer-trusted-ca-file",
    crl: "peer-crl-file",
    allowed_cn: "peer-cert-allowed-cn",
    allowed_hostname: "peer-cert-allowed-hostname",
    auto: "peer-auto-tls",
    skip_san: "peer-skip-client-san-verification",
};

impl Side {
    pub fn flags(self) -> &'static Flags {
        match self {
            Side::Client => &CLIENT,
            Side::Peer => &PEER,
        }
    }
}

/// All TLS settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    pub client: TlsSide,
    pub peer: TlsSide,
    pub offer: Offer,
    /// How long a self-signed certificate lasts; at least 1.
    pub self_signed_years: u32,
}

/// One side's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSide {
    /// Certificate and key of the listeners, if given.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// Certificate and key to connect with, where they differ from the listeners'.
    pub dial_pair: Option<(PathBuf, PathBuf)>,
    pub trusted_ca: Option<PathBuf>,
    pub crl: Option<PathBuf>,
    /// Those who connect must show a certificate. (An authority alone asks for it as well: see
    /// [`TlsSide::verifies`].)
    pub cert_auth: bool,
    /// At most one of the two lists has entries.
    pub allowed_cn: Vec<String>,
    pub allowed_hostname: Vec<String>,
    /// The listeners' pair is of our own making. Never beside `pair`.
    pub auto: bool,
    /// Do not compare the address a member calls from with its certificate.
    pub skip_san: bool,
}

impl TlsSide {
    /// Whether those who connect must show a certificate that an authority vouches for.
    pub fn verifies(&self) -> bool {
        self.cert_auth || self.trusted_ca.is_some()
    }
}

impl Security {
    pub fn side(&self, side: Side) -> &TlsSide {
        match side {
            Side::Client => &self.client,
            Side::Peer => &self.peer,
        }
    }
}

/// A flag with its urls, and whether clear text beside certificates is worth a word.
type Listeners<'a> = (&'static str, &'a [Url], bool);

impl Read<'_> {
    pub(super) fn security(
        &mut self,
        client: &[Listeners<'_>],
        peer: &[Listeners<'_>],
    ) -> Result<Security, ConfigError> {
        Ok(Security {
            client: self.tls_side(Side::Client, client)?,
            peer: self.tls_side(Side::Peer, peer)?,
            offer: self.tls_offer()?,
            self_signed_years: self.whole_u32("self-signed-cert-validity")?,
        })
    }

    fn tls_side(
        &mut self,
        side: Side,
        listeners: &[Listeners<'_>],
    ) -> Result<TlsSide, ConfigError> {
        let flags = side.flags();
        let list = |name| {
            values::split_list(self.text(name))
                .map(str::to_owned)
                .collect()
        };
        let mut tls = TlsSide {
            pair: self.pair(flags.cert, flags.key)?,
            // Nothing here calls client urls.
            dial_pair: match side {
                Side::Client => None,
                Side::Peer => self.pair(flags.dial_cert, flags.dial_key)?,
            },
            trusted_ca: self.path(flags.ca),
            crl: self.path(flags.crl),
            cert_auth: self.bool(flags.cert_auth)?,
            allowed_cn: list(flags.allowed_cn),
            allowed_hostname: list(flags.allowed_hostname),
            auto: self.bool(flags.auto)?,
            skip_san: self.bool(flags.skip_san)?,
        };
        if tls.auto && tls.pair.is_some() {
            let text = format!("{} is ignored: --{} is set", flags.auto, flags.cert);
            self.notices.push(Notice::warn(text));
            tls.auto = false;
        }
        self.check_verification(flags, side, &tls)?;
        self.check_urls(flags, &tls, listeners)?;
        Ok(tls)
    }

    fn pair(
        &self,
        cert: &'static str,
        key: &'static str,
    ) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
        let lacks = |has: &str, lacks: &str| {
            let has = named(has, self.source(has));
            ConfigError::usage(format!("{has} is set without --{lacks}")).hint(format!(
                "a certificate and its key go together: set --{lacks} as well"
            ))
        };
        match (self.path(cert), self.path(key)) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (Some(_), None) => Err(lacks(cert, key)),
            (None, Some(_)) => Err(lacks(key, cert)),
            (None, None) => Ok(None),
        }
    }

    /// What is asked of those who connect.
    fn check_verification(
        &self,
        flags: &Flags,
        side: Side,
        tls: &TlsSide,
    ) -> Result<(), ConfigError> {
        if !tls.allowed_cn.is_empty() && !tls.allowed_hostname.is_empty() {
            return Err(ConfigError::usage(format!(
                "--{} and --{} are mutually exclusive",
                flags.allowed_cn, flags.allowed_hostname
            ))
            .hint("keep one of the two"));
        }
        if side == Side::Peer && tls.auto && tls.verifies() {
            let which = if tls.cert_auth {
                flags.cert_auth
            } else {
                flags.ca
            };
            return Err(ConfigError::usage(format!(
                "--{} makes self-signed certificates, which {} would refuse",
                flags.auto,
                named(which, self.source(which))
            ))
            .hint(format!(
                "use certificates of one authority (--{}, --{}), or drop --{which}",
                flags.cert, flags.key
            )));
        }
        if tls.cert_auth && tls.trusted_ca.is_none() {
            return Err(ConfigError::usage(format!(
                "{} is set without --{}",
                named(flags.cert_auth, self.source(flags.cert_auth)),
                flags.ca
            ))
            .hint(format!(
                "set --{} to the authority that signs the certificates of those who connect",
                flags.ca
            )));
        }
        for (name, given) in [
            (flags.allowed_cn, !tls.allowed_cn.is_empty()),
            (flags.allowed_hostname, !tls.allowed_hostname.is_empty()),
            (flags.crl, tls.crl.is_some()),
        ] {
            if given && !tls.verifies() {
                return Err(ConfigError::usage(format!(
                    "{} has no effect: nobody is asked for a certificate",
                    named(name, self.source(name))
                ))
                .hint(format!("set --{} and --{}", flags.cert_auth, flags.ca)));
            }
        }
        Ok(())
    }

    /// What each url asks for.
    fn check_urls(
        &mut self,
        flags: &Flags,
        tls: &TlsSide,
        listeners: &[Listeners<'_>],
    ) -> Result<(), ConfigError> {
        let has_certificate = tls.pair.is_some() || tls.auto;
        let mixed = self.bool("allow-mixed-security")?;
        let mut encrypted = false;
        for (flag, urls, telling) in listeners {
            for url in *urls {
                if url.scheme.is_tls() {
                    encrypted = true;
                    if !has_certificate {
                        return Err(ConfigError::usage(format!(
                            "{} has {url}, but there is no certificate to serve it with",
                            named(flag, self.source(flag))
                        ))
                        .hint(format!(
                            "set --{} and --{}, or --{} for a self-signed certificate, or use http://",
                            flags.cert, flags.key, flags.auto
                        )));
                    }
                } else if *telling && tls.cert_auth && url.scheme == Scheme::Http && !mixed {
                    return Err(ConfigError::usage(format!(
                        "{} has {url}, where --{} has no effect: anybody could connect without a certificate",
                        named(flag, self.source(flag)),
                        flags.cert_auth
                    ))
                    .hint("use https:// for it; or, if clear text beside TLS is meant, --allow-mixed-security"));
                } else if *telling && has_certificate && url.scheme == Scheme::Http {
                    let text = format!(
                        "--{flag} has {url}: what goes through it is not encrypted, although there is a certificate (--{})",
                        if tls.auto { flags.auto } else { flags.cert }
                    );
                    self.notices.push(Notice::warn(text));
                }
            }
        }
        if !encrypted && tls.trusted_ca.is_some() && !has_certificate && flags.ca == CLIENT.ca {
            let text = format!("{} has no effect: no url is https://", flags.ca);
            self.notices.push(Notice::warn(text));
        }
        Ok(())
    }

    fn tls_offer(&mut self) -> Result<Offer, ConfigError> {
        let version = |text: &str| match text {
            "TLS1.2" => Some(Version::Tls12),
            "TLS1.3" => Some(Version::Tls13),
            _ => None,
        };
        let min = version(self.text("tls-min-version")).unwrap_or(Version::Tls12);
        let max = version(self.text("tls-max-version")).unwrap_or(Version::Tls13);
        if min > max {
            return Err(ConfigError::usage(format!(
                "--tls-min-version ({}) is above --tls-max-version ({})",
                self.text("tls-min-version"),
                self.text("tls-max-version")
            ))
            .hint("set both to the same, or leave --tls-max-version out"));
        }
        let name = "cipher-suites";
        let mut wanted = Vec::new();
        let mut any = false;
        for item in values::split_list(self.text(name)) {
            any = true;
            match suites::check(item) {
                Suite::Chosen(suite) => wanted.push(suite.to_owned()),
                Suite::Always => {
                    let text = format!("{name}: {item} is always on where TLS 1.3 is");
                    self.notices.push(Notice::info(text));
                }
                Suite::Unknown => {
                    let why = format!("{item:?} is none of the suites this server has");
                    let known: Vec<&str> = suites::known().collect();
                    let hint = format!("known are {}", known.join(", "));
                    return Err(self.invalid(name, &why).hint(hint));
                }
            }
        }
        if any && min == Version::Tls13 {
            return Err(ConfigError::usage(
                "--cipher-suites cannot be configured when only TLS1.3 is enabled",
            )
            .hint("drop it: the suites of TLS 1.3 are fixed"));
        }
        if any && wanted.is_empty() && max == Version::Tls12 {
            let why = "no suite of TLS 1.2 is named, and --tls-max-version allows no other";
            return Err(self.invalid(name, why));
        }
        Ok(Offer {
            min: if any && wanted.is_empty() {
                Version::Tls13
            } else {
                min
            },
            max,
            suites: wanted,
        })
    }
}
