//! The unary loads: what each asks next and when an answer counts as right.

use kvnode_api::service::Method;

use crate::data::{Chance, KEY_BYTES, KEY_PREFIX, Values, key};
use crate::load::Load;
use crate::proto::{bytes, bytes_in, message, number, number_in};

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
}

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

    fn pick(&mut self) -> u64 {
        match self.order {
            Order::Random => self.chance.below(self.keys),
            Order::Sequential => {
                self.next = (self.next + 1) % self.keys;
                self.next
            }
        }
    }
}

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

/// What of its keys a range is to bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Wants {
    /// Keys and values
    Pairs,
    /// Keys alone
    Keys,
    /// Their number alone
    Count,
}

/// Reads `width` neighbouring keys per call, all of which must exist.
pub struct Range {
    pub picker: Picker,
    pub width: u64,
    pub serializable: bool,
    pub wants: Wants,
    pub value_bytes: usize,
}

impl Work for Range {
    fn method(&self, _slot: usize) -> Method {
        Method::Range
    }

    fn next(&mut self, _slot: usize, out: &mut Vec<u8>) -> bool {
        let first = self.picker.pick();
        bytes(1, &key(first), out);
        if self.width > 1 {
            bytes(2, &key(first + self.width), out);
        }
        if self.serializable {
            number(7, 1, out);
        }
        match self.wants {
            Wants::Pairs => {}
            Wants::Keys => number(8, 1, out),
            Wants::Count => number(9, 1, out),
        }
        true
    }

    fn answered(&mut self, _slot: usize, bytes: usize, _body: &[u8]) -> Result<(), String> {
        let each = match self.wants {
            Wants::Pairs => self.value_bytes,
            Wants::Keys => KEY_BYTES,
            Wants::Count => 0,
        };
        at_least(bytes, self.width as usize * each)
    }
}

/// Four gets to one put, at random, each of one key.
pub struct Mixed {
    gets: Range,
    puts: Put,
    chance: Chance,
    /// Whether the slot's last request was a put.
    is_put: Vec<bool>,
}

impl Mixed {
    /// As the load says, for so many slots; `seed` distinguishes runs.
    pub fn new(slots: usize, load: &Load, seed: u64) -> Mixed {
        let picker = |salt| Picker::new(load.order, load.keys, seed ^ salt);
        Mixed {
            gets: Range {
                picker: picker(1),
                width: 1,
                serializable: load.serializable,
                wants: Wants::Pairs,
                value_bytes: load.value_bytes,
            },
            puts: Put {
                picker: picker(2),
                values: Values::new(load.value_bytes),
            },
            chance: Chance(seed),
            is_put: vec![false; slots],
        }
    }
}

impl Work for Mixed {
    fn method(&self, slot: usize) -> Method {
        if self.is_put[slot] {
            Method::Put
        } else {
            Method::Range
        }
    }

    fn next(&mut self, slot: usize, out: &mut Vec<u8>) -> bool {
        self.is_put[slot] = self.chance.below(5) == 0;
        if self.is_put[slot] {
            self.puts.next(slot, out)
        } else {
            self.gets.next(slot, out)
        }
    }

    fn answered(&mut self, slot: usize, bytes: usize, body: &[u8]) -> Result<(), String> {
        if self.is_put[slot] {
            self.puts.answered(slot, bytes, body)
        } else {
            self.gets.answered(slot, bytes, body)
        }
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
        self.next = end;
        any
    }

    fn answered(&mut self, _slot: usize, bytes: usize, _body: &[u8]) -> Result<(), String> {
        at_least(bytes, 1)
    }
}

/// Compare-and-swap on a key of the slot's own: put if the key is as this slot left it, else read.
pub struct Swap {
    values: Values,
    chance: Chance,
    /// The revision at which each slot last put its key; 0 before.
    left_at: Vec<u64>,
    /// Distinguishes runs, whose keys must be new.
    run: u64,
}

impl Swap {
    pub fn new(slots: usize, value_bytes: usize, run: u64) -> Swap {
        Swap {
            values: Values::new(value_bytes),
            chance: Chance(run),
            left_at: vec![0; slots],
            run,
        }
    }
}

impl Work for Swap {
    const WANTS_BODY: bool = true;

    fn method(&self, _slot: usize) -> Method {
        Method::Txn
    }

    fn next(&mut self, slot: usize, out: &mut Vec<u8>) -> bool {
        let key = format!("{}swap/{:x}/{slot:06}", KEY_PREFIX.escape_ascii(), self.run);
        let key = key.as_bytes();
        let value = self.values.pick(&mut self.chance);
        // Compare: result 0 is EQUAL, target 2 is MOD, both in front of key and revision.
        message(1, out, |out| {
            number(2, 2, out);
            bytes(3, key, out);
            number(6, self.left_at[slot], out);
        });
        message(2, out, |out| message(2, out, |out| put(key, value, out)));
        message(3, out, |out| message(1, out, |out| bytes(1, key, out)));
        true
    }

    fn answered(&mut self, slot: usize, _bytes: usize, body: &[u8]) -> Result<(), String> {
        let answer = body.get(5..).unwrap_or(&[]);
        if number_in(answer, 2) != 1 {
            return Err("a compare-and-swap nobody else could disturb has failed".to_owned());
        }
        self.left_at[slot] = number_in(bytes_in(answer, 1), 3);
        Ok(())
    }
}

/// Grants leases with ids from `first` on, which nobody else uses.
pub struct Grant {
    pub next: u64,
    pub ttl_seconds: u64,
    /// No more than this id.
    pub last: u64,
}

impl Work for Grant {
    fn method(&self, _slot: usize) -> Method {
        Method::LeaseGrant
    }

    fn next(&mut self, _slot: usize, out: &mut Vec<u8>) -> bool {
        if self.next > self.last {
            return false;
        }
        number(1, self.ttl_seconds, out);
        number(2, self.next, out);
        self.next += 1;
        true
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

/// An answer cannot be right if it is shorter than what was asked for.
fn at_least(bytes: usize, wanted: usize) -> Result<(), String> {
    if bytes >= 5 + wanted {
        return Ok(());
    }
    Err(format!(
        "an answer of {bytes} bytes where at least {} are due",
        5 + wanted
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvnode_api::compare::TargetUnion;
    use kvnode_api::{
        LeaseGrantRequest, Message, PutRequest, RangeRequest, ResponseHeader, TxnRequest,
        TxnResponse, frame, request_op,
    };

    fn next<W: Work, M: Message + Default>(work: &mut W) -> M {
        let mut out = Vec::new();
        assert!(work.next(0, &mut out));
        M::decode(&out[..]).expect("a request decodes")
    }

    #[test]
    fn requests_are_what_the_api_reads() {
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

        let mut work = Range {
            picker: Picker::new(Order::Random, 1, 1),
            width: 100,
            serializable: true,
            wants: Wants::Count,
            value_bytes: 256,
        };
        let range: RangeRequest = next(&mut work);
        assert_eq!(
            (&range.key[..], &range.range_end[..]),
            (&key(0)[..], &key(100)[..])
        );
        assert!(range.serializable && range.count_only && !range.keys_only);

        let load = Load {
            keys: 3,
            value_bytes: 7,
            ..Load::default()
        };
        let mut work = Mixed::new(1, &load, 1);
        let mut puts = 0;
        for _ in 0..1000 {
            let mut out = Vec::new();
            assert!(work.next(0, &mut out));
            if work.method(0) == Method::Put {
                puts += 1;
                assert_eq!(PutRequest::decode(&out[..]).unwrap().value.len(), 7);
            } else {
                let range = RangeRequest::decode(&out[..]).unwrap();
                assert!(!range.key.is_empty() && range.range_end.is_empty());
            }
        }
        assert!((120..280).contains(&puts), "{puts} puts of 1000");

        let mut work = Grant {
            next: 7,
            ttl_seconds: 60,
            last: 7,
        };
        let grant: LeaseGrantRequest = next(&mut work);
        assert_eq!((grant.id, grant.ttl), (7, 60));
        assert!(!work.next(0, &mut Vec::new()), "the ids are used up");
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

    #[test]
    fn a_swap_compares_with_the_revision_it_left() {
        let mut work = Swap::new(1, 8, 1);
        let txn: TxnRequest = next(&mut work);
        kvnode_api::check::txn(&txn, 128).unwrap();
        assert_eq!(
            txn.compare[0].target_union,
            Some(TargetUnion::ModRevision(0))
        );
        let mut answer = TxnResponse {
            header: Some(ResponseHeader {
                revision: 77,
                ..Default::default()
            }),
            succeeded: true,
            ..Default::default()
        };
        let body = frame::encode(&answer).unwrap();
        work.answered(0, body.len(), &body).unwrap();
        let txn: TxnRequest = next(&mut work);
        assert_eq!(
            txn.compare[0].target_union,
            Some(TargetUnion::ModRevision(77))
        );
        assert_eq!(txn.compare[0].target, kvnode_api::CompareTarget::Mod as i32);
        answer.succeeded = false;
        let body = frame::encode(&answer).unwrap();
        assert!(work.answered(0, body.len(), &body).is_err());
    }
}
