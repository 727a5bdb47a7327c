//! Cuts a text that comes in pieces into its values, one object after another.

use bytes::{Buf, Bytes, BytesMut};

use super::{DEPTH_MAX, Error};

/// Finds where objects end; what is in them is for [`super::read`] to judge.
///
/// Bound: what one object's text may be long, and one piece. Blanks between objects cost nothing.
/// After an error there is no place to go on from: the same error comes again.
#[derive(Debug)]
pub struct Splitter {
    limit: usize,
    buffer: BytesMut,
    /// Bytes of the buffer that were looked at; they belong to the object that is open.
    seen: usize,
    /// Objects and arrays that are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Bytes handed out or dropped before the buffer.
    passed: usize,
    failed: Option<Error>,
}

impl Splitter {
    /// `limit` is the longest text of one object, in bytes.
    pub fn new(limit: usize) -> Splitter {
        Splitter {
            limit,
            buffer: BytesMut::new(),
            seen: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            passed: 0,
            failed: None,
        }
    }

    /// Takes the next piece. Call [`Splitter::next_value`] until it has no more before pushing
    /// again, or pieces gather.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole object, or `None` until more is pushed.
    ///
    /// # Errors
    /// Something other than an object, one too long or too deep.
    pub fn next_value(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let found = self.scan();
        if let Err(error) = &found {
            self.failed = Some(error.clone());
            self.buffer = BytesMut::new();
        }
        found
    }

    /// The text has ended.
    ///
    /// # Errors
    /// It ended inside an object.
    pub fn finish(&self) -> Result<(), Error> {
        match &self.failed {
            Some(failed) => Err(failed.clone()),
            None if self.depth > 0 => Err(Error::CutOff),
            None => Ok(()),
        }
    }

    fn scan(&mut self) -> Result<Option<Bytes>, Error> {
        if self.depth == 0 && !self.begin()? {
            return Ok(None);
        }
        while let Some(&byte) = self.buffer.get(self.seen) {
            self.seen += 1;
            if self.seen > self.limit {
                return Err(Error::TooLong { limit: self.limit });
            }
            if self.escaped {
                self.escaped = false;
                continue;
            }
            match byte {
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => {
                    self.depth += 1;
                    if self.depth > DEPTH_MAX {
                        let at = self.passed + self.seen - 1;
                        return Err(Error::TooDeep { at });
                    }
                }
                b'}' | b']' if !self.in_string => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let value = self.buffer.split_to(self.seen).freeze();
                        self.passed += std::mem::take(&mut self.seen);
                        return Ok(Some(value));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Drops blanks; whether an object begins behind them.
    fn begin(&mut self) -> Result<bool, Error> {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let blanks = self.buffer.iter().take_while(|byte| blank(byte)).count();
        self.buffer.advance(blanks);
        self.passed += blanks;
        match self.buffer.first() {
            None => Ok(false),
            Some(b'{') => Ok(true),
            Some(_) => Err(Error::Syntax {
                at: self.passed,
                expected: "an object",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(splitter: &mut Splitter) -> Vec<Bytes> {
        let mut values = Vec::new();
        while let Some(value) = splitter.next_value().unwrap() {
            values.push(value);
        }
        values
    }

    #[test]
    fn objects_come_out_whole_however_the_text_is_cut() {
        let objects = [r#"{}"#, r#"{"a":"}{\"\\"}"#, r#"{"b":[{"c":{}}]}"#];
        let text = format!(" {}\r\n\t{}{} ", objects[0], objects[1], objects[2]);
        for step in 1..=text.len() {
            let mut splitter = Splitter::new(20);
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(step) {
                splitter.push(piece);
                found.extend(values(&mut splitter));
            }
            assert_eq!(found, objects, "step {step}");
            assert_eq!(splitter.finish(), Ok(()));
        }
    }

    #[test]
    fn an_object_cut_off_is_an_error_and_blanks_are_not() {
        let mut splitter = Splitter::new(20);
        splitter.push(b" \n");
        assert_eq!(splitter.next_value(), Ok(None));
        assert_eq!((splitter.finish(), splitter.buffered()), (Ok(()), 0));
        splitter.push(b"{\"a\":");
        assert_eq!(splitter.next_value(), Ok(None));
        assert_eq!(splitter.finish(), Err(Error::CutOff));
    }

    #[test]
    fn length_and_depth_are_bounded_and_errors_stay() {
        let mut splitter = Splitter::new(10);
        splitter.push(b"{\"a\":\"");
        assert_eq!(splitter.next_value(), Ok(None));
        splitter.push(b"xxxxxxxxxx");
        let too_long = Err(Error::TooLong { limit: 10 });
        assert_eq!(splitter.next_value(), too_long);
        splitter.push(b"{}");
        assert_eq!(splitter.next_value(), too_long);

        let mut splitter = Splitter::new(1 << 20);
        splitter.push(b"{}{\"a\":");
        splitter.push(&b"[".repeat(1000));
        assert_eq!(splitter.next_value().unwrap().unwrap(), "{}");
        let at = 7 + DEPTH_MAX - 1;
        assert_eq!(splitter.next_value(), Err(Error::TooDeep { at }));

        let mut splitter = Splitter::new(10);
        splitter.push(b" [");
        let expected = "an object";
        assert_eq!(
            splitter.next_value(),
            Err(Error::Syntax { at: 1, expected })
        );
        assert!(splitter.finish().is_err());
    }

    proptest! {
        #[test]
        fn any_text_in_any_pieces_gives_the_same(
            text in "[{}\\[\\]\"\\\\a ]{0,40}",
            step in 1usize..5,
        ) {
            let all = |step: usize| {
                let mut splitter = Splitter::new(30);
                let mut found = Vec::new();
                for piece in text.as_bytes().chunks(step) {
                    splitter.push(piece);
                    loop {
                        match splitter.next_value() {
                            Ok(Some(value)) => found.push(Ok(value)),
                            Ok(None) => break,
                            Err(error) => {
                                found.push(Err(error));
                                return (found, splitter.finish());
                            }
                        }
                    }
                }
                (found, splitter.finish())
            };
            prop_assert_eq!(all(step), all(100));
        }
    }
}
