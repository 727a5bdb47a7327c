//! Signed tokens: `--auth-token=jwt,sign-method=M,pub-key=FILE,priv-key=FILE,ttl=D`.
//!
//! The token says who and at which auth revision, so any member that has the public key can tell without asking; the price
//! is that it goes stale with any change of users or roles. A member with the public key alone checks tokens and issues
//! none. The signature method is the configured one, never what a token claims.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// How long a token lasts unless said otherwise.
const TTL_DEFAULT: Duration = Duration::from_secs(300);
/// Longer than any token we issue; more is refused before it is looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// The option as given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub method: Algorithm,
    pub public_key: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    pub ttl: Duration,
}

/// Why the option is none.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    #[error("{0:?} is not name=value; known names: sign-method, pub-key, priv-key, ttl")]
    NotAPair(String),
    #[error("{0:?} is not known; known: sign-method, pub-key, priv-key, ttl")]
    UnknownName(String),
    #[error(
        "sign-method {0:?} is not known; known: RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 HS256 HS384 HS512 EdDSA"
    )]
    UnknownMethod(String),
    #[error("sign-method is missing: add for example sign-method=RS256")]
    NoMethod,
    #[error("ttl {0:?} is not a positive time such as 5m")]
    Ttl(String),
    #[error("{method:?} needs priv-key=FILE with the secret")]
    NoSecret { method: Algorithm },
    #[error(
        "{method:?} needs pub-key=FILE; it can be made with `openssl pkey -pubout -in PRIVATE -out PUBLIC`"
    )]
    NoPublicKey { method: Algorithm },
    #[error("{path}: {error}", path = path.display())]
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(
        "{path}: no {what} in PEM (PKCS#8) that {method:?} can use: {error}; check it with `openssl pkey -in {path} -text -noout`",
        path = path.display()
    )]
    Key {
        path: PathBuf,
        what: &'static str,
        method: Algorithm,
        error: jsonwebtoken::errors::Error,
    },
}

impl Options {
    /// Parses what stands behind `jwt,`. `parse_time` reads a time such as `5m`.
    ///
    /// # Errors
    /// See [`JwtError`].
    pub fn parse(
        text: &str,
        parse_time: impl Fn(&str) -> Option<Duration>,
    ) -> Result<Self, JwtError> {
        let mut method = None;
        let mut options = Options {
            method: Algorithm::RS256,
            public_key: None,
            private_key: None,
            ttl: TTL_DEFAULT,
        };
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let (name, value) = item
                .split_once('=')
                .ok_or_else(|| JwtError::NotAPair(item.to_owned()))?;
            match name {
                "sign-method" => {
                    let known = value.parse::<Algorithm>();
                    method = Some(known.map_err(|_| JwtError::UnknownMethod(value.to_owned()))?);
                }
                "pub-key" => options.public_key = Some(value.into()),
                "priv-key" => options.private_key = Some(value.into()),
                "ttl" => {
                    options.ttl = parse_time(value)
                        .filter(|ttl| !ttl.is_zero())
                        .ok_or_else(|| JwtError::Ttl(value.to_owned()))?;
                }
                other => return Err(JwtError::UnknownName(other.to_owned())),
            }
        }
        options.method = method.ok_or(JwtError::NoMethod)?;
        Ok(options)
    }
}

/// Checks tokens, and issues them if it has the private key.
pub struct Jwt {
    header: Header,
    validation: Validation,
    verifying: DecodingKey,
    signing: Option<EncodingKey>,
    ttl: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    /// Seconds since the epoch.
    exp: u64,
}

impl Jwt {
    /// Reads the key files.
    ///
    /// # Errors
    /// See [`JwtError`].
    pub fn open(options: &Options) -> Result<Self, JwtError> {
        let method = options.method;
        let (verifying, signing) = if is_symmetric(method) {
            let path = options
                .private_key
                .as_ref()
                .ok_or(JwtError::NoSecret { method })?;
            let secret = read(path)?;
            (
                DecodingKey::from_secret(&secret),
                Some(EncodingKey::from_secret(&secret)),
            )
        } else {
            let path = options
                .public_key
                .as_ref()
                .ok_or(JwtError::NoPublicKey { method })?;
            let verifying = public_key(method, &read(path)?).map_err(|error| JwtError::Key {
                path: path.clone(),
                what: "public key",
                method,
                error,
            })?;
            let signing = options.private_key.as_ref().map(|path| {
                private_key(method, &read(path)?).map_err(|error| JwtError::Key {
                    path: path.clone(),
                    what: "private key",
                    method,
                    error,
                })
            });
            (verifying, signing.transpose()?)
        };
        let mut validation = Validation::new(method);
        // Time comes as an argument.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp"]);
        Ok(Jwt {
            header: Header::new(method),
            validation,
            verifying,
            signing,
            ttl: options.ttl,
        })
    }

    /// A token for the user, good from `now_s` (seconds since the epoch) on. `None`: this member has no private key.
    pub fn issue(&self, user: &str, auth_revision: u64, now_s: u64) -> Option<String> {
        let claims = Claims {
            username: user.to_owned(),
            revision: auth_revision,
            exp: now_s.saturating_add(self.ttl.as_secs().max(1)),
        };
        let signed = jsonwebtoken::encode(&self.header, &claims, self.signing.as_ref()?);
        signed
            .inspect_err(|error| log::error!("signing a token: {error}"))
            .ok()
    }

    /// User and auth revision of a token that is ours and has not run out at `now_s`.
    pub fn verify(&self, token: &str, now_s: u64) -> Option<(String, u64)> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.verifying, &self.validation);
        let claims = decoded.ok()?.claims;
        (now_s < claims.exp && !claims.username.is_empty())
            .then_some((claims.username, claims.revision))
    }
}

fn is_symmetric(method: Algorithm) -> bool {
    matches!(
        method,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512
    )
}

fn public_key(method: Algorithm, pem: &[u8]) -> jsonwebtoken::errors::Result<DecodingKey> {
    match method {
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(pem),
        _ => DecodingKey::from_rsa_pem(pem),
    }
}

fn private_key(method: Algorithm, pem: &[u8]) -> jsonwebtoken::errors::Result<EncodingKey> {
    match method {
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
        _ => EncodingKey::from_rsa_pem(pem),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, JwtError> {
    std::fs::read(path).map_err(|error| JwtError::Read {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret of some length, for tests only";

    fn seconds(text: &str) -> Option<Duration> {
        let seconds = text.strip_suffix('s')?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    fn hs(directory: &Path, method: &str, secret: &str) -> Jwt {
        let path = directory.join(format!("{method}-{}", secret.len()));
        std::fs::write(&path, secret).unwrap();
        let text = format!("sign-method={method},priv-key={},ttl=10s", path.display());
        Jwt::open(&Options::parse(&text, seconds).unwrap()).unwrap()
    }

    #[test]
    fn a_token_says_who_and_at_which_revision_until_it_runs_out() {
        let directory = tempfile::tempdir().unwrap();
        let jwt = hs(directory.path(), "HS256", SECRET);
        let token = jwt.issue("alice", 7, 1000).unwrap();
        assert_eq!(jwt.verify(&token, 1009), Some(("alice".into(), 7)));
        assert_eq!(jwt.verify(&token, 1010), None);
    }

    #[test]
    fn a_token_of_another_key_method_or_shape_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let jwt = hs(directory.path(), "HS256", SECRET);
        let other = hs(directory.path(), "HS256", "another secret");
        let stronger = hs(directory.path(), "HS512", SECRET);
        for token in [
            other.issue("alice", 7, 1000).unwrap(),
            stronger.issue("alice", 7, 1000).unwrap(),
            jwt.issue("", 7, 1000).unwrap(),
            String::new(),
            "a.b.c".into(),
            "x".repeat(TOKEN_BYTES_MAX + 1),
        ] {
            assert_eq!(jwt.verify(&token, 1001), None, "{token:.40}");
        }
        // No signature at all, whatever the header claims.
        let unsigned = "eyJhbGciOiJub25lIn0.eyJ1c2VybmFtZSI6InJvb3QiLCJyZXZpc2lvbiI6MSwiZXhwIjo5OTk5OTk5OTk5fQ.";
        assert_eq!(jwt.verify(unsigned, 1001), None);
        let mut damaged = jwt.issue("alice", 7, 1000).unwrap().into_bytes();
        for at in 0..damaged.len() {
            let kept = damaged[at];
            damaged[at] = if kept == b'A' { b'B' } else { b'A' };
            let text = String::from_utf8(damaged.clone()).unwrap();
            if let Some(found) = jwt.verify(&text, 1001) {
                // The last letter of a base64 text has bits that mean nothing.
                assert_eq!((at, found), (damaged.len() - 1, ("alice".into(), 7)));
            }
            damaged[at] = kept;
        }
    }

    #[test]
    fn options_that_cannot_work_say_what_is_missing() {
        let refused =
            |text: &str| match Options::parse(text, seconds).map(|options| Jwt::open(&options)) {
                Err(error) => error.to_string(),
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(_)) => panic!("{text} was taken"),
            };
        assert!(refused("").contains("sign-method=RS256"));
        assert!(refused("sign-method").contains("not name=value"));
        assert!(refused("sign-method=none").contains("known: RS256"));
        assert!(refused("sign-method=HS256").contains("priv-key=FILE"));
        assert!(refused("sign-method=RS256,priv-key=/x").contains("openssl pkey -pubout"));
        assert!(refused("sign-method=ES256,pub-key=/nonexistent").contains("/nonexistent"));
        assert!(refused("sign-method=HS256,ttl=0s").contains("ttl"));
        assert!(refused("sign-method=HS256,colour=red").contains("colour"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "no key").unwrap();
        let text = format!("sign-method=EdDSA,pub-key={}", path.display());
        assert!(refused(&text).contains("openssl pkey -in"));
    }
}
