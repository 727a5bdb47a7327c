//! Who asks: from a token or a certificate to a user name. What that user may do is the store's business.
//!
//! * `tokens.rs`, `jwt.rs`: the two kinds of token;
//! * `passwords.rs`, `attempts.rs`: logging in;
//! * here: what one client core holds of it, and how a call becomes an [`Asker`].

pub mod attempts;
pub mod jwt;
pub mod passwords;
pub mod tokens;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvnode_api::Status;
use kvnode_store::auth::{CLUSTER_ITSELF, Identity};

use crate::config::{AuthToken, Config};
use attempts::Attempts;
use jwt::{Jwt, JwtError};
use tokens::{Change, Found, Tokens};

/// Who asks, to travel with the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// Empty: nobody said.
    pub user: Bytes,
    /// The auth revision at which the user was found out.
    pub revision: u64,
}

impl Asker {
    /// What the member does by itself.
    pub fn cluster_itself() -> Self {
        Asker {
            user: Bytes::new(),
            revision: CLUSTER_ITSELF,
        }
    }

    pub fn identity(&self) -> Identity<'_> {
        Identity {
            user: &self.user,
            revision: self.revision,
        }
    }
}

/// How tokens are made and checked; one per process, from the configuration.
#[derive(Clone)]
pub enum Provider {
    Simple { ttl: Duration },
    Jwt(Arc<Jwt>),
}

impl Provider {
    /// As configured.
    ///
    /// # Errors
    /// Keys that cannot be read or used.
    pub fn open(config: &Config) -> Result<Self, JwtError> {
        Ok(match &config.auth_token {
            AuthToken::Simple => Provider::Simple {
                ttl: config.auth_token_ttl,
            },
            AuthToken::Jwt(options) => Provider::Jwt(Arc::new(Jwt::open(options)?)),
        })
    }
}

/// One client core's part of it.
pub struct Authority {
    provider: Provider,
    tokens: RefCell<Tokens>,
    attempts: RefCell<Attempts>,
}

/// What a token came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Asker(Asker),
    /// It may have been issued at this log index, which has to be applied first.
    NotBefore(u64),
}

impl Authority {
    pub fn new(provider: Provider) -> Self {
        let ttl = match &provider {
            Provider::Simple { ttl } => *ttl,
            Provider::Jwt(_) => Duration::ZERO,
        };
        Authority {
            tokens: RefCell::new(Tokens::new(
                u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            )),
            attempts: RefCell::default(),
            provider,
        }
    }

    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    pub fn attempts(&self) -> &RefCell<Attempts> {
        &self.attempts
    }

    /// Follows what was applied.
    pub fn applied(&self, changes: &[Change], now_ms: u64) {
        if !changes.is_empty() {
            let mut tokens = self.tokens.borrow_mut();
            for change in changes {
                tokens.apply(change, now_ms);
            }
        }
    }

    pub fn sweep(&self, now_ms: u64) {
        self.tokens.borrow_mut().sweep(now_ms);
    }

    /// Whom a token stands for. `auth_revision` is the present one: a simple token is as good as the newest state, a signed
    /// one speaks for the revision it was made at.
    ///
    /// # Errors
    /// It stands for nobody.
    pub fn tell(
        &self,
        token: &str,
        auth_revision: u64,
        now_ms: u64,
        unix_s: u64,
    ) -> Result<Told, Status> {
        match &self.provider {
            Provider::Simple { .. } => match self.tokens.borrow().find(token, now_ms) {
                Found::User(user) => Ok(Told::Asker(Asker {
                    user: Bytes::copy_from_slice(user.as_bytes()),
                    revision: auth_revision,
                })),
                Found::NotBefore(index) => Ok(Told::NotBefore(index)),
                Found::Unknown => Err(Status::invalid_auth_token()),
            },
            Provider::Jwt(jwt) => {
                let (user, revision) = jwt
                    .verify(token, unix_s)
                    .ok_or_else(Status::invalid_auth_token)?;
                // A token cannot come from the future, nor from the cluster itself.
                if revision > auth_revision {
                    return Err(Status::invalid_auth_token());
                }
                Ok(Told::Asker(Asker {
                    user: Bytes::from(user),
                    revision,
                }))
            }
        }
    }
}

/// The token among a call's metadata: `token`, else `authorization` with or without `Bearer`. `Some("")` is a token too, a
/// bad one.
pub fn token_of<'a>(get: impl Fn(&str) -> Option<&'a [u8]>) -> Option<&'a [u8]> {
    get("token").or_else(|| {
        get("authorization").map(|value| value.strip_prefix(b"Bearer ").unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvnode_store::auth::TokenChange;

    fn token_from(given: &[(&'static str, &'static str)]) -> Option<String> {
        let get = |name: &str| {
            let found = given.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.as_bytes())
        };
        token_of(get).map(|token| String::from_utf8(token.to_vec()).unwrap())
    }

    #[test]
    fn the_token_is_found_where_clients_put_it() {
        assert_eq!(token_from(&[]), None);
        assert_eq!(
            token_from(&[("token", "a"), ("authorization", "b")]).unwrap(),
            "a"
        );
        assert_eq!(token_from(&[("authorization", "b")]).unwrap(), "b");
        assert_eq!(token_from(&[("authorization", "Bearer b")]).unwrap(), "b");
        assert_eq!(
            token_from(&[("token", ""), ("authorization", "b")]).unwrap(),
            ""
        );
    }

    #[test]
    fn a_simple_token_speaks_for_the_present_revision() {
        let ttl = Duration::from_secs(1);
        let authority = Authority::new(Provider::Simple { ttl });
        let token = format!("{}.9", "x".repeat(tokens::LETTERS));
        let bad = authority.tell("nonsense", 5, 0, 0);
        assert_eq!(bad, Err(Status::invalid_auth_token()));
        assert_eq!(authority.tell(&token, 5, 0, 0), Ok(Told::NotBefore(9)));
        let issued = TokenChange::Issued {
            user: "alice".into(),
            token: token.clone(),
        };
        authority.applied(&[Change::new(issued, 0)], 0);
        let alice = Asker {
            user: "alice".into(),
            revision: 5,
        };
        assert_eq!(authority.tell(&token, 5, 10, 0), Ok(Told::Asker(alice)));
        let late = authority.tell(&token, 5, 5000, 0);
        assert_eq!(late, Err(Status::invalid_auth_token()));
    }

    #[test]
    fn a_signed_token_speaks_for_its_own_revision_and_never_for_a_later_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "some secret").unwrap();
        let text = format!("sign-method=HS256,priv-key={}", path.display());
        let options = jwt::Options::parse(&text, |_| None).unwrap();
        let jwt = Arc::new(Jwt::open(&options).unwrap());
        let authority = Authority::new(Provider::Jwt(Arc::clone(&jwt)));
        let token = |revision| jwt.issue("alice", revision, 0).unwrap();
        let Ok(Told::Asker(asker)) = authority.tell(&token(4), 5, 0, 1) else {
            panic!("a good token was refused");
        };
        assert_eq!((asker.user.as_ref(), asker.revision), (&b"alice"[..], 4));
        for revision in [6, CLUSTER_ITSELF] {
            let told = authority.tell(&token(revision), 5, 0, 1);
            assert_eq!(told, Err(Status::invalid_auth_token()));
        }
    }
}
