//! Gets and puts of the same keys at once.

use kvnode_api::service::Method;

use super::Load;
use super::puts::Put;
use super::ranges::{Range, Wants};
use crate::data::{Chance, Values};
use crate::work::{Picker, Work};

/// Four gets to one put, at random, each of one key.
pub struct Mixed {
    gets: Range<false>,
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
                revision: 0,
                calls: None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use kvnode_api::{Message as _, PutRequest, RangeRequest};

    #[test]
    fn one_in_five_is_a_put() {
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
    }
}
