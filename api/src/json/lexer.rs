//! JSON's words (RFC 8259), one after another, from text that is all there.

use std::borrow::Cow;

use super::{DEPTH_MAX, Error};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    Colon,
    Comma,
    /// Escapes undone.
    String(Cow<'a, str>),
    /// As written.
    Number(&'a str),
    True,
    False,
    Null,
    End,
}

#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the last token began.
    begin: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Lexer<'a> {
        Lexer {
            text,
            at: 0,
            begin: 0,
        }
    }

    /// Where the last token began.
    pub(super) fn begin(&self) -> usize {
        self.begin
    }

    pub(super) fn error(&self, expected: &'static str) -> Error {
        let at = self.begin;
        Error::Syntax { at, expected }
    }

    pub(super) fn next(&mut self) -> Result<Token<'a>, Error> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.begin = self.at;
        let Some(first) = self.peek() else {
            return Ok(Token::End);
        };
        let single = match first {
            b'{' => Token::ObjectBegin,
            b'}' => Token::ObjectEnd,
            b'[' => Token::ArrayBegin,
            b']' => Token::ArrayEnd,
            b':' => Token::Colon,
            b',' => Token::Comma,
            b'"' => return self.string().map(Token::String),
            b'-' | b'0'..=b'9' => return self.number().map(Token::Number),
            b't' => return self.word("true", Token::True),
            b'f' => return self.word("false", Token::False),
            b'n' => return self.word("null", Token::Null),
            _ => return Err(self.error("a value")),
        };
        self.at += 1;
        Ok(single)
    }

    /// Passes over the value that `first` begins.
    pub(super) fn skip(&mut self, first: Token<'a>, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::TooDeep { at: self.begin });
        }
        match first {
            Token::ObjectBegin => self.object(|lexer, _| {
                let value = lexer.next()?;
                lexer.skip(value, depth + 1)
            }),
            Token::ArrayBegin => self.array(|lexer, value| lexer.skip(value, depth + 1)),
            Token::String(_) | Token::Number(_) | Token::True | Token::False | Token::Null => {
                Ok(())
            }
            _ => Err(self.error("a value")),
        }
    }

    /// Reads the rest of an object; `member` gets each name and reads its value.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut token = self.next()?;
        if token == Token::ObjectEnd {
            return Ok(());
        }
        loop {
            let Token::String(name) = token else {
                return Err(self.cut_off_or("a name in quotes", &token));
            };
            let colon = self.next()?;
            if colon != Token::Colon {
                return Err(self.cut_off_or("a colon", &colon));
            }
            member(self, &name)?;
            match self.next()? {
                Token::ObjectEnd => return Ok(()),
                Token::Comma => token = self.next()?,
                other => return Err(self.cut_off_or("a comma or the object's end", &other)),
            }
        }
    }

    /// Reads the rest of an array; `element` gets the first token of each.
    pub(super) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self, Token<'a>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut token = self.next()?;
        if token == Token::ArrayEnd {
            return Ok(());
        }
        loop {
            element(self, token)?;
            match self.next()? {
                Token::ArrayEnd => return Ok(()),
                Token::Comma => token = self.next()?,
                other => return Err(self.cut_off_or("a comma or the array's end", &other)),
            }
        }
    }

    fn cut_off_or(&self, expected: &'static str, got: &Token<'_>) -> Error {
        match got {
            Token::End => Error::CutOff,
            _ => self.error(expected),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn word(&mut self, word: &'static str, token: Token<'a>) -> Result<Token<'a>, Error> {
        if self.text[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(token)
        } else {
            Err(self.error("a value"))
        }
    }

    fn number(&mut self) -> Result<&'a str, Error> {
        let length = number_len(&self.text[self.at..]).ok_or_else(|| self.error("a number"))?;
        let number = &self.text[self.at..self.at + length];
        self.at += length;
        std::str::from_utf8(number).map_err(|_| self.error("a number"))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Error> {
        self.at += 1;
        let plain = self.plain()?;
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        let mut whole = plain.to_owned();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(whole));
                }
                Some(b'\\') => {
                    self.at += 1;
                    let character = self.escape()?;
                    whole.push(character);
                }
                _ => return Err(Error::CutOff),
            }
            whole.push_str(self.plain()?);
        }
    }

    /// Characters up to a quote, a backslash or the end.
    fn plain(&mut self) -> Result<&'a str, Error> {
        let rest = &self.text[self.at..];
        let stop = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
        let length = rest.iter().position(stop).unwrap_or(rest.len());
        let plain = std::str::from_utf8(&rest[..length]).map_err(|_| self.error("UTF-8"))?;
        self.at += length;
        match self.peek() {
            Some(0..=0x1f) => Err(self.error("an escape for a control character")),
            _ => Ok(plain),
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let kind = self.peek().ok_or(Error::CutOff)?;
        self.at += 1;
        Ok(match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.error("an escape that JSON has")),
        })
    }

    fn unicode(&mut self) -> Result<char, Error> {
        let first = self.four_hex()?;
        let code = match first {
            0xd800..=0xdbff => {
                if !self.text[self.at..].starts_with(b"\\u") {
                    return Err(self.error("the second half of a surrogate pair"));
                }
                self.at += 2;
                let second = self.four_hex()?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return Err(self.error("the second half of a surrogate pair"));
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            other => other,
        };
        char::from_u32(code).ok_or_else(|| self.error("a character"))
    }

    fn four_hex(&mut self) -> Result<u32, Error> {
        let digits = self.text.get(self.at..self.at + 4).ok_or(Error::CutOff)?;
        let mut code = 0;
        for digit in digits {
            let digit = char::from(*digit).to_digit(16);
            code = code << 4 | digit.ok_or_else(|| self.error("four hex digits"))?;
        }
        self.at += 4;
        Ok(code)
    }
}

/// Length of the number that `text` begins with.
pub(super) fn number_len(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let mut at = usize::from(text.first() == Some(&b'-'));
    let whole = digits(at);
    // No leading zeros.
    if whole == 0 || (whole > 1 && text[at] == b'0') {
        return None;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        if exponent == 0 {
            return None;
        }
        at += 1 + sign + exponent;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Vec<Token<'_>>, Error> {
        let mut lexer = Lexer::new(text.as_bytes());
        let mut tokens = Vec::new();
        loop {
            match lexer.next()? {
                Token::End => return Ok(tokens),
                token => tokens.push(token),
            }
        }
    }

    #[test]
    fn words_numbers_and_strings() {
        assert_eq!(
            tokens(" {\"a\" :[-1.5e+3,true,false,null]}\n").unwrap(),
            [
                Token::ObjectBegin,
                Token::String("a".into()),
                Token::Colon,
                Token::ArrayBegin,
                Token::Number("-1.5e+3"),
                Token::Comma,
                Token::True,
                Token::Comma,
                Token::False,
                Token::Comma,
                Token::Null,
                Token::ArrayEnd,
                Token::ObjectEnd
            ]
        );
    }

    #[test]
    fn escapes_are_undone() {
        let escaped = r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00x""#;
        assert_eq!(
            tokens(escaped).unwrap(),
            [Token::String(
                "\"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1f600}x".into()
            )]
        );
    }

    #[test]
    fn what_json_does_not_have_is_refused() {
        for bad in [
            "01",
            "-",
            "1.",
            "1e",
            ".5",
            "+1",
            "tru",
            "nul",
            "'a'",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\n\"",
            "\"abc",
            "\"\\",
            "\"\\u12",
            "#",
        ] {
            assert!(tokens(bad).is_err(), "{bad:?}");
        }
        assert!(Lexer::new(b"\"\xff\"").next().is_err(), "not UTF-8");
    }

    #[test]
    fn skipping_checks_what_it_passes_over() {
        let skip = |text: &str| -> Result<bool, Error> {
            let mut lexer = Lexer::new(text.as_bytes());
            let first = lexer.next()?;
            lexer.skip(first, 0)?;
            Ok(lexer.next()? == Token::End)
        };
        assert_eq!(skip(r#"{"a":[{},[1,"x"],null],"b":{"c":2}}"#), Ok(true));
        for bad in [
            "[1 2]",
            "[1,]",
            "{\"a\" 1}",
            "{a:1}",
            "{\"a\":1,}",
            "[}",
            "{]",
            "]",
        ] {
            assert!(skip(bad).is_err(), "{bad}");
        }
        for cut in ["[", "[1", "{", "{\"a\"", "{\"a\":1"] {
            assert!(
                matches!(skip(cut), Err(Error::CutOff | Error::Syntax { .. })),
                "{cut}"
            );
        }
        let deep = "[".repeat(100_000);
        assert_eq!(skip(&deep), Err(Error::TooDeep { at: DEPTH_MAX + 1 }));
    }
}
