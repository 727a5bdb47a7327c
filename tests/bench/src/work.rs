//! What a unary load is made of: what it asks next, and when an answer counts as right.

use kvnode_api::service::Method;

use crate::data::Chance;

/// Makes requests for slots: a slot is one place in the number of requests in flight, and has at
/// most one of them out.
pub trait Work {
    /// Whether [`Work::answered`] is given the answer itself, not only its length.
    const WANTS_BODY: bool = false;

    /// Of the slot's request that was written last.
    fn method(&self, slot: usize) -> Method;

    /// Writes the slot's next request; `false` if there is no more to ask.
    fn next(&mut self, slot: usize, out: &mut Vec<u8>) -> bool;

    /// Judges an answer with status 0; `bytes` includes the length prefix of five bytes.
    fn answered(&mut self, slot: usize, bytes: usize, body: &[u8]) -> Result<(), String>;
}

/// Which key comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Sequential,
    Random,
    /// At random out of [`HOT_KEYS`], which lie evenly in the key space
    Hot,
}

/// Keys that get all requests of [`Order::Hot`].
pub const HOT_KEYS: u64 = 100;

/// Picks numbers of keys.
pub struct Picker {
    order: Order,
    keys: u64,
    next: u64,
    pub chance: Chance,
}

impl Picker {
    /// Over `keys` keys, at least one.
    pub fn new(order: Order, keys: u64, seed: u64) -> Picker {
        Picker {
            order,
            keys: keys.max(1),
            next: 0,
            chance: Chance(seed),
        }
    }

    pub fn pick(&mut self) -> u64 {
        match self.order {
            Order::Random => self.chance.below(self.keys),
            Order::Sequential => {
                self.next = (self.next + 1) % self.keys;
                self.next
            }
            Order::Hot => {
                self.chance.below(HOT_KEYS.min(self.keys)) * (self.keys / HOT_KEYS).max(1)
            }
        }
    }
}

/// An answer cannot be right if it is shorter than what was asked for.
pub fn at_least(bytes: usize, wanted: usize) -> Result<(), String> {
    if bytes >= 5 + wanted {
        return Ok(());
    }
    Err(format!(
        "an answer of {bytes} bytes where at least {} are due",
        5 + wanted
    ))
}

/// The message of an answer's body, without the length prefix.
pub fn message_of(body: &[u8]) -> &[u8] {
    body.get(5..).unwrap_or(&[])
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use kvnode_api::Message;

    /// The next request of the first slot, as the api reads it.
    pub fn next<W: Work, M: Message + Default>(work: &mut W) -> M {
        let mut out = Vec::new();
        assert!(work.next(0, &mut out));
        M::decode(&out[..]).expect("a request decodes")
    }

    #[test]
    fn hot_keys_are_few_and_lie_in_the_key_space() {
        let picked = |keys| {
            let mut picker = Picker::new(Order::Hot, keys, 1);
            let numbers = (0..10_000).map(|_| picker.pick());
            numbers.collect::<std::collections::BTreeSet<u64>>()
        };
        let many = picked(100_000);
        assert_eq!((many.len(), many.last()), (100, Some(&99_000)));
        assert!(picked(7).into_iter().eq(0..7));
    }

    #[test]
    fn keys_in_order_go_round() {
        let mut picker = Picker::new(Order::Sequential, 3, 1);
        let picked: Vec<u64> = (0..4).map(|_| picker.pick()).collect();
        assert_eq!(picked, [1, 2, 0, 1]);
    }
}
