//! Compare-and-swap transactions.

use kvnode_api::service::Method;

use super::puts::put;
use crate::data::{Chance, KEY_PREFIX, Values};
use crate::proto::{bytes, bytes_in, message, number, number_in};
use crate::work::{Work, message_of};

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
        let answer = message_of(body);
        if number_in(answer, 2) != 1 {
            return Err("a compare-and-swap nobody else could disturb has failed".to_owned());
        }
        self.left_at[slot] = number_in(bytes_in(answer, 1), 3);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::tests::next;
    use kvnode_api::compare::TargetUnion;
    use kvnode_api::{ResponseHeader, TxnRequest, TxnResponse, frame};

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
