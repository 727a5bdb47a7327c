//! Reads of one key, of neighbouring keys, of keys alone, of their number; now or as of a revision.

use kvnode_api::service::Method;

use crate::data::{KEY_BYTES, key};
use crate::proto::{Fields, Value, bytes, bytes_in, number, number_in};
use crate::work::{Picker, Work, at_least, message_of};

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

/// Reads `width` neighbouring keys per call, all of which must exist. If `WHOLE`, every answer is read in
/// full, else only its length is judged.
pub struct Range<const WHOLE: bool> {
    pub picker: Picker,
    pub width: u64,
    pub serializable: bool,
    pub wants: Wants,
    /// The revision to read at; 0 is the newest.
    pub revision: u64,
    pub value_bytes: usize,
    /// Calls to make; `None` goes on for ever.
    pub calls: Option<u64>,
}

impl<const WHOLE: bool> Range<WHOLE> {
    /// What must be right in the whole answer.
    fn check(&self, answer: &[u8]) -> Result<(), String> {
        let count = number_in(answer, 4);
        if count != self.width {
            return Err(format!("a count of {count} where {} are due", self.width));
        }
        let (key_bytes, value_bytes) = match self.wants {
            Wants::Pairs => (KEY_BYTES, self.value_bytes),
            Wants::Keys => (KEY_BYTES, 0),
            Wants::Count => (0, 0),
        };
        let mut found = 0;
        for (tag, value) in Fields(answer) {
            let (2, Value::Bytes(pair)) = (tag, value) else {
                continue;
            };
            found += 1;
            let lengths = (bytes_in(pair, 1).len(), bytes_in(pair, 5).len());
            let longer = self.wants == Wants::Pairs && lengths.1 > value_bytes;
            if lengths.0 != key_bytes || (lengths.1 != value_bytes && !longer) {
                return Err(format!("key and value of {lengths:?} bytes"));
            }
            let changed = number_in(pair, 3);
            if self.revision > 0 && changed > self.revision {
                return Err(format!(
                    "a change of revision {changed} in an answer as of {}",
                    self.revision
                ));
            }
        }
        let due = if self.wants == Wants::Count {
            0
        } else {
            self.width
        };
        if found != due {
            return Err(format!("{found} keys where {due} are due"));
        }
        Ok(())
    }
}

impl<const WHOLE: bool> Work for Range<WHOLE> {
    const WANTS_BODY: bool = WHOLE;

    fn method(&self, _slot: usize) -> Method {
        Method::Range
    }

    fn next(&mut self, _slot: usize, out: &mut Vec<u8>) -> bool {
        match &mut self.calls {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        let first = self.picker.pick();
        bytes(1, &key(first), out);
        if self.width > 1 {
            bytes(2, &key(first + self.width), out);
        }
        if self.revision > 0 {
            number(4, self.revision, out);
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

    fn answered(&mut self, _slot: usize, bytes: usize, body: &[u8]) -> Result<(), String> {
        if WHOLE {
            return self.check(message_of(body));
        }
        let each = match self.wants {
            Wants::Pairs => KEY_BYTES + self.value_bytes,
            Wants::Keys => KEY_BYTES,
            Wants::Count => 0,
        };
        at_least(bytes, self.width as usize * each)
    }
}

/// Asks for a key once and keeps the revision of the answer.
#[derive(Default)]
pub struct Now {
    asked: bool,
    pub revision: u64,
}

impl Work for Now {
    const WANTS_BODY: bool = true;

    fn method(&self, _slot: usize) -> Method {
        Method::Range
    }

    fn next(&mut self, _slot: usize, out: &mut Vec<u8>) -> bool {
        bytes(1, &key(0), out);
        !std::mem::replace(&mut self.asked, true)
    }

    fn answered(&mut self, _slot: usize, _bytes: usize, body: &[u8]) -> Result<(), String> {
        self.revision = number_in(bytes_in(message_of(body), 1), 3);
        match self.revision {
            0 => Err("an answer without a revision".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Order;
    use crate::work::tests::next;
    use kvnode_api::{KeyValue, RangeRequest, RangeResponse, ResponseHeader, frame};

    fn range(wants: Wants) -> Range<true> {
        Range {
            picker: Picker::new(Order::Random, 1, 1),
            width: 100,
            serializable: true,
            wants,
            revision: 9,
            value_bytes: 2,
            calls: Some(1),
        }
    }

    #[test]
    fn ranges_are_what_the_api_reads() {
        let mut work = range(Wants::Count);
        let request: RangeRequest = next(&mut work);
        assert_eq!(
            (&request.key[..], &request.range_end[..]),
            (&key(0)[..], &key(100)[..])
        );
        assert!(request.serializable && request.count_only && !request.keys_only);
        assert_eq!(request.revision, 9);
        assert!(!work.next(0, &mut Vec::new()), "one call was wanted");
        let request: RangeRequest = next(&mut range(Wants::Keys));
        assert!(request.keys_only && !request.count_only);
    }

    #[test]
    fn a_whole_answer_is_judged_by_its_pairs_lengths_count_and_revisions() {
        let pair = |number, value: &[u8], mod_revision| KeyValue {
            key: key(number).to_vec().into(),
            value: value.to_vec().into(),
            mod_revision,
            ..Default::default()
        };
        let judge = |wants, kvs: Vec<KeyValue>, count| {
            let answer = RangeResponse {
                kvs,
                count,
                ..Default::default()
            };
            let body = frame::encode(&answer).unwrap();
            range(wants).answered(0, body.len(), &body)
        };
        let all = |value: &[u8], changed| (0..100).map(|at| pair(at, value, changed)).collect();
        assert_eq!(judge(Wants::Pairs, all(b"vv", 9), 100), Ok(()));
        assert_eq!(judge(Wants::Keys, all(b"", 9), 100), Ok(()));
        assert_eq!(judge(Wants::Count, vec![], 100), Ok(()));
        let fewer = (0..99).map(|at| pair(at, b"vv", 9)).collect();
        for (wants, kvs, count) in [
            (Wants::Pairs, all(b"vv", 10), 100),
            (Wants::Pairs, all(b"v", 9), 100),
            (Wants::Pairs, all(b"vv", 9), 99),
            (Wants::Pairs, fewer, 100),
            (Wants::Keys, all(b"vv", 9), 100),
            (Wants::Count, vec![], 0),
        ] {
            assert!(judge(wants, kvs, count).is_err());
        }
    }

    #[test]
    fn the_revision_is_the_headers() {
        let mut now = Now::default();
        let request: RangeRequest = next(&mut now);
        assert_eq!(&request.key[..], key(0));
        let mut answer = RangeResponse {
            header: Some(ResponseHeader {
                revision: 77,
                ..Default::default()
            }),
            ..Default::default()
        };
        let body = frame::encode(&answer).unwrap();
        now.answered(0, body.len(), &body).unwrap();
        assert_eq!(now.revision, 77);
        answer.header = None;
        let body = frame::encode(&answer).unwrap();
        assert!(now.answered(0, body.len(), &body).is_err());
    }
}
