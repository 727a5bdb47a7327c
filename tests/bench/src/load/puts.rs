//! Puts: one per call of a key that comes again and again, of every key once, and of all keys many per transaction.

use kvnode_api::service::Method;

use crate::data::{Chance, Shuffle, Values, key};
use crate::proto::{bytes, message};
use crate::work::{Picker, Work, at_least};

/// Puts one value per call.
pub struct Put {
    pub picker: Picker,
    pub values: Values,
}

impl Work for Put {
    fn method(&self, _slot: usize) -> Method {
        Method::Put
    }

    fn next(&mut self, _slot: usize, out: &mut Vec<u8>) -> bool {
        let key = key(self.picker.pick());
        put(&key, self.values.pick(&mut self.picker.chance), out);
        true
    }

    fn answered(&mut self, _slot: usize, bytes: usize, _body: &[u8]) -> Result<(), String> {
        at_least(bytes, 1)
    }
}

/// Puts every key once, one per call, in an order without pattern.
pub struct PutAll {
    pub numbers: Shuffle,
    pub keys: u64,
    /// Put so far.
    pub done: u64,
    pub values: Values,
    pub chance: Chance,
}

impl Work for PutAll {
    fn method(&self, _slot: usize) -> Method {
        Method::Put
    }

    fn next(&mut self, _slot: usize, out: &mut Vec<u8>) -> bool {
        let Some(number) = self.numbers.next() else {
            return false;
        };
        tell(self.done, self.done + 1, self.keys);
        self.done += 1;
        put(&key(number), self.values.pick(&mut self.chance), out);
        true
    }

    fn answered(&mut self, _slot: usize, bytes: usize, _body: &[u8]) -> Result<(), String> {
        at_least(bytes, 1)
    }
}

/// Puts the keys from 0 on, each once, many per transaction.
pub struct Fill {
    pub next: u64,
    pub keys: u64,
    pub per_txn: u64,
    pub values: Values,
    pub chance: Chance,
}

/// Keys after which a long filling says how far it is.
const TOLD_EVERY: u64 = 1_000_000;

/// Says how far it is, if it is long and a million was passed.
fn tell(before: u64, after: u64, all: u64) {
    if all > TOLD_EVERY && before / TOLD_EVERY < after / TOLD_EVERY {
        eprintln!(
            "  {} of {} million keys",
            after / TOLD_EVERY,
            all / TOLD_EVERY
        );
    }
}

impl Work for Fill {
    fn method(&self, _slot: usize) -> Method {
        Method::Txn
    }

    fn next(&mut self, _slot: usize, out: &mut Vec<u8>) -> bool {
        let end = self.keys.min(self.next + self.per_txn);
        for at in self.next..end {
            message(2, out, |out| {
                let value = self.values.pick(&mut self.chance);
                message(2, out, |out| put(&key(at), value, out));
            });
        }
        let any = self.next < end;
        tell(self.next, end, self.keys);
        self.next = end;
        any
    }

    fn answered(&mut self, _slot: usize, bytes: usize, _body: &[u8]) -> Result<(), String> {
        at_least(bytes, 1)
    }
}

/// A `PutRequest`.
pub fn put(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    bytes(1, key, out);
    bytes(2, value, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Order;
    use crate::work::tests::next;
    use kvnode_api::{Message as _, PutRequest, TxnRequest, request_op};

    #[test]
    fn puts_are_what_the_api_reads() {
        let mut work = Put {
            picker: Picker::new(Order::Sequential, 3, 1),
            values: Values::new(256),
        };
        let put: PutRequest = next(&mut work);
        assert_eq!((&put.key[..], put.value.len()), (&key(1)[..], 256));
        let rest: Vec<_> = (0..3)
            .map(|_| next::<_, PutRequest>(&mut work).key)
            .collect();
        assert_eq!(rest, [&key(2)[..], &key(0), &key(1)]);
    }

    #[test]
    fn all_keys_are_put_once() {
        let mut work = PutAll {
            numbers: Shuffle::new(50),
            keys: 50,
            done: 0,
            values: Values::new(8),
            chance: Chance(1),
        };
        let mut found: Vec<_> = (0..50)
            .map(|_| next::<_, PutRequest>(&mut work).key)
            .collect();
        assert!(!work.next(0, &mut Vec::new()));
        found.sort();
        let due: Vec<_> = (0..50).map(|at| key(at).to_vec()).collect();
        assert_eq!(found, due);
    }

    #[test]
    fn filling_puts_every_key_once() {
        let mut work = Fill {
            next: 0,
            keys: 250,
            per_txn: 100,
            values: Values::new(8),
            chance: Chance(1),
        };
        let mut found = Vec::new();
        let mut out = Vec::new();
        while work.next(0, &mut out) {
            let txn = TxnRequest::decode(&out[..]).unwrap();
            kvnode_api::check::txn(&txn, 128).unwrap();
            for op in txn.success {
                let Some(request_op::Request::RequestPut(put)) = op.request else {
                    panic!("not a put");
                };
                found.push(put.key.to_vec());
            }
            out.clear();
        }
        assert_eq!(
            found,
            (0..250).map(|at| key(at).to_vec()).collect::<Vec<_>>()
        );
    }
}
