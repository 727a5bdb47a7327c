//! Simple tokens: random words that stand for a user, known to every member because they are issued through the log, and
//! kept in memory only. A token is `LETTERS.INDEX`, where INDEX is the log index it was issued at: a member that is behind
//! knows that it has to wait before it may call a token unknown.
//!
//! A token dies `ttl` after its last use, with the process, and when its user's password changes or the user goes.
//! Each client core has its own table over shared entries, so no look-up takes a lock and a use on one core counts on all.
//!
//! Bound: `TOKENS_MAX`. A full table first drops what is dead, then what was unused longest: its owner logs in again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvnode_store::auth::TokenChange;

/// Letters in front of the dot.
pub const LETTERS: usize = 16;
/// Tokens kept per process.
pub const TOKENS_MAX: usize = 100_000;

/// What a live token stands for.
#[derive(Debug)]
pub struct Entry {
    token: String,
    user: Arc<str>,
    used_ms: AtomicU64,
}

/// A change of the table, the same for every core: made once by whoever applies, handed to all.
#[derive(Debug, Clone)]
pub enum Change {
    Issued(Arc<Entry>),
    Dropped(String),
    AllDropped,
}

impl Change {
    /// What the store noted, ready for the tables.
    pub fn new(noted: TokenChange, now_ms: u64) -> Self {
        match noted {
            TokenChange::Issued { user, token } => Change::Issued(Arc::new(Entry {
                token,
                user: user.into(),
                used_ms: AtomicU64::new(now_ms),
            })),
            TokenChange::Dropped { user } => Change::Dropped(user),
            TokenChange::AllDropped => Change::AllDropped,
        }
    }
}

/// One core's table.
#[derive(Debug)]
pub struct Tokens {
    ttl_ms: u64,
    tokens_max: usize,
    entries: HashMap<String, Arc<Entry>>,
}

/// What a look-up came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    User(Arc<str>),
    /// Unknown yet: it was issued at this log index, which may still be on its way.
    NotBefore(u64),
    Unknown,
}

impl Tokens {
    pub fn new(ttl_ms: u64) -> Self {
        Tokens {
            ttl_ms,
            tokens_max: TOKENS_MAX,
            entries: HashMap::new(),
        }
    }

    pub fn apply(&mut self, change: &Change, now_ms: u64) {
        match change {
            Change::Issued(entry) => {
                if self.entries.len() >= self.tokens_max {
                    self.make_room(now_ms);
                }
                self.entries.insert(entry.token.clone(), Arc::clone(entry));
            }
            Change::Dropped(user) => self.entries.retain(|_, entry| *entry.user != **user),
            Change::AllDropped => self.entries.clear(),
        }
    }

    /// Looks a token up and counts that as a use.
    pub fn find(&self, token: &str, now_ms: u64) -> Found {
        if let Some(entry) = self.entries.get(token) {
            let used_ms = entry.used_ms.load(Ordering::Relaxed);
            if now_ms.saturating_sub(used_ms) > self.ttl_ms {
                return Found::Unknown;
            }
            entry.used_ms.fetch_max(now_ms, Ordering::Relaxed);
            return Found::User(Arc::clone(&entry.user));
        }
        issued_at(token).map_or(Found::Unknown, Found::NotBefore)
    }

    /// Forgets what has died. To be called now and then.
    pub fn sweep(&mut self, now_ms: u64) {
        let ttl_ms = self.ttl_ms;
        self.entries.retain(|_, entry| {
            now_ms.saturating_sub(entry.used_ms.load(Ordering::Relaxed)) <= ttl_ms
        });
    }

    /// Drops the dead, and if that is not enough the tenth that was unused longest.
    fn make_room(&mut self, now_ms: u64) {
        self.sweep(now_ms);
        if self.entries.len() < self.tokens_max {
            return;
        }
        let used = |entry: &Arc<Entry>| entry.used_ms.load(Ordering::Relaxed);
        let mut uses: Vec<u64> = self.entries.values().map(used).collect();
        let at = uses.len() / 10;
        let (_, oldest_kept, _) = uses.select_nth_unstable(at);
        let oldest_kept = *oldest_kept;
        let mut surplus = self.entries.len() - self.tokens_max + 1 + at;
        self.entries.retain(|_, entry| {
            let goes = surplus > 0 && used(entry) <= oldest_kept;
            surplus -= usize::from(goes);
            !goes
        });
    }
}

/// The letters of a new token, from random bytes.
pub fn letters(random: &[u8; LETTERS]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyzABCDEFGHIJKL";
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(byte & 63)]);
    random.iter().map(letter).collect()
}

/// The log index in a token, if it has the form of one.
fn issued_at(token: &str) -> Option<u64> {
    let (letters, index) = token.split_once('.')?;
    let plain = letters.len() == LETTERS && letters.bytes().all(|byte| byte.is_ascii_alphabetic());
    plain.then(|| index.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: u64 = 1000;

    fn token(number: u64) -> String {
        format!("{}.{number}", "x".repeat(LETTERS))
    }

    fn issued(user: &str, number: u64, now_ms: u64) -> Change {
        let noted = TokenChange::Issued {
            user: user.into(),
            token: token(number),
        };
        Change::new(noted, now_ms)
    }

    fn is(user: &str) -> Found {
        Found::User(user.into())
    }

    #[test]
    fn a_token_lives_from_use_to_use_and_on_every_core_alike() {
        let (mut here, mut there) = (Tokens::new(TTL), Tokens::new(TTL));
        let change = issued("alice", 7, 0);
        here.apply(&change, 0);
        there.apply(&change, 0);
        assert_eq!(here.find(&token(7), 900), is("alice"));
        // Used there 900 ms ago at most: alive here too.
        assert_eq!(there.find(&token(7), 1800), is("alice"));
        assert_eq!(here.find(&token(7), 2800), is("alice"));
        assert_eq!(here.find(&token(7), 3801), Found::Unknown);
        here.sweep(3801);
        assert!(here.entries.is_empty());
    }

    #[test]
    fn a_token_from_an_index_still_to_come_is_to_be_waited_for() {
        let tokens = Tokens::new(TTL);
        assert_eq!(tokens.find(&token(99), 0), Found::NotBefore(99));
        for bad in [
            "",
            "x",
            "short.1",
            "xxxxxxxxxxxxxxxx",
            "xxxxxxxxxxxxxxxx.",
            "xxxxxxxxxxxxxxx1.5",
        ] {
            assert_eq!(tokens.find(bad, 0), Found::Unknown, "{bad:?}");
        }
        assert_eq!(
            tokens.find(&format!("{}.-1", "x".repeat(LETTERS)), 0),
            Found::Unknown
        );
    }

    #[test]
    fn tokens_go_with_their_user_or_all_at_once() {
        let mut tokens = Tokens::new(TTL);
        for (user, number) in [("a", 1), ("a", 2), ("b", 3)] {
            tokens.apply(&issued(user, number, 0), 0);
        }
        let dropped = TokenChange::Dropped { user: "a".into() };
        tokens.apply(&Change::new(dropped, 0), 0);
        assert_eq!(tokens.find(&token(1), 0), Found::NotBefore(1));
        assert_eq!(tokens.find(&token(3), 0), is("b"));
        tokens.apply(&Change::AllDropped, 0);
        assert_eq!(tokens.find(&token(3), 0), Found::NotBefore(3));
    }

    #[test]
    fn a_full_table_drops_the_longest_unused() {
        let mut tokens = Tokens::new(u64::MAX);
        tokens.tokens_max = 20;
        for number in 0..20 {
            tokens.apply(&issued("u", number, number), 20);
        }
        tokens.find(&token(0), 50);
        tokens.apply(&issued("u", 100, 60), 60);
        assert!(tokens.entries.len() <= 20);
        assert_eq!(tokens.find(&token(100), 60), is("u"));
        assert_eq!(tokens.find(&token(0), 60), is("u"), "used since");
        assert_eq!(tokens.find(&token(1), 60), Found::NotBefore(1));
        // Equal ages do not empty the table.
        let mut same = Tokens::new(u64::MAX);
        same.tokens_max = 20;
        for number in 0..30 {
            same.apply(&issued("u", number, 5), 5);
            assert!(same.entries.len() <= 20);
        }
        assert!(same.entries.len() >= 15);
    }

    #[test]
    fn letters_are_letters_whatever_the_bytes() {
        let word = letters(&[
            0, 1, 25, 26, 51, 52, 63, 64, 127, 128, 200, 250, 251, 253, 254, 255,
        ]);
        assert_eq!(word.len(), LETTERS);
        assert_eq!(issued_at(&format!("{word}.12")), Some(12));
    }
}
