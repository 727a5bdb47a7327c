//! From JSON text to a message's bytes, guided by the message's [`Shape`].

use prost::encoding::encode_varint;

use super::lexer::{Lexer, Token, number_len};
use super::shape::{Field, Kind, Shape};
use super::{DEPTH_MAX, Error, base64};

/// Protobuf's wire types, as far as the API has them.
const VARINT: u64 = 0;
const DELIMITED: u64 = 2;

/// The bytes of the message that `text` describes: one object and blanks around it, or blanks
/// alone, which count as `{}`.
///
/// # Errors
/// [`Error`], with the place in the text.
pub fn read(shape: &'static Shape, text: &[u8]) -> Result<Vec<u8>, Error> {
    let mut lexer = Lexer::new(text);
    let mut message = Vec::with_capacity(text.len() / 4 * 3);
    match lexer.next()? {
        Token::ObjectBegin => {}
        Token::End => return Ok(message),
        _ => return Err(lexer.error("an object")),
    }
    object(&mut lexer, shape, &mut message, 1)?;
    match lexer.next()? {
        Token::End => Ok(message),
        _ => Err(lexer.error("nothing behind the object")),
    }
}

/// Reads the rest of an object into `out`.
fn object(
    lexer: &mut Lexer<'_>,
    shape: &'static Shape,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::TooDeep { at: lexer.begin() });
    }
    // One bit per field of the table.
    let mut given = 0u64;
    let mut member_given = false;
    lexer.object(|lexer, name| {
        let at = lexer.begin();
        let found = shape.fields.iter().position(|field| field.is_named(name));
        let value = lexer.next()?;
        let Some(place) = found else {
            return lexer.skip(value, depth);
        };
        let field = &shape.fields[place];
        if value == Token::Null {
            return Ok(());
        }
        let bit = 1 << place;
        if given & bit != 0 || (field.member && member_given) {
            let field = field.name;
            return Err(Error::Twice { at, field });
        }
        given |= bit;
        member_given |= field.member;
        if field.many {
            list(lexer, field, value, out, depth)
        } else {
            single(lexer, field, value, out, depth)
        }
    })
}

/// A field with one value. Zero is left out, as every encoder does; a member of a one-of is not.
fn single(
    lexer: &mut Lexer<'_>,
    field: &'static Field,
    value: Token<'_>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Error> {
    match field.kind {
        Kind::Bytes | Kind::String | Kind::Message(_) => {
            delimited(lexer, field, value, out, depth, !field.member)
        }
        _ => {
            let number = varint(lexer, field, value)?;
            if number != 0 || field.member {
                tag(field, VARINT, out);
                encode_varint(number, out);
            }
            Ok(())
        }
    }
}

/// A field with any number of values.
fn list(
    lexer: &mut Lexer<'_>,
    field: &'static Field,
    value: Token<'_>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Error> {
    if value != Token::ArrayBegin {
        return Err(wrong(lexer, field, "an array"));
    }
    if let Kind::Bytes | Kind::String | Kind::Message(_) = field.kind {
        return lexer.array(|lexer, value| delimited(lexer, field, value, out, depth + 1, false));
    }
    let mut packed = Vec::new();
    lexer.array(|lexer, value| {
        encode_varint(varint(lexer, field, value)?, &mut packed);
        Ok(())
    })?;
    if !packed.is_empty() {
        tag(field, DELIMITED, out);
        append(&packed, out);
    }
    Ok(())
}

/// A value that carries its length.
fn delimited(
    lexer: &mut Lexer<'_>,
    field: &'static Field,
    value: Token<'_>,
    out: &mut Vec<u8>,
    depth: usize,
    omit_empty: bool,
) -> Result<(), Error> {
    let inner = match (field.kind, value) {
        (Kind::Message(shape), Token::ObjectBegin) => {
            let mut inner = Vec::new();
            object(lexer, shape, &mut inner, depth + 1)?;
            tag(field, DELIMITED, out);
            append(&inner, out);
            return Ok(());
        }
        (Kind::Message(_), _) => return Err(wrong(lexer, field, "an object")),
        (Kind::String, Token::String(text)) => text.into_owned().into_bytes(),
        (Kind::String, _) => return Err(wrong(lexer, field, "a string")),
        (_, Token::String(text)) => {
            base64::decode(&text).ok_or_else(|| wrong(lexer, field, "base64 text"))?
        }
        _ => return Err(wrong(lexer, field, "base64 text")),
    };
    if !(inner.is_empty() && omit_empty) {
        tag(field, DELIMITED, out);
        append(&inner, out);
    }
    Ok(())
}

/// A value that is a number on the wire.
fn varint(lexer: &Lexer<'_>, field: &'static Field, value: Token<'_>) -> Result<u64, Error> {
    match (field.kind, &value) {
        (Kind::Bool, Token::True) => Ok(1),
        (Kind::Bool, Token::False) => Ok(0),
        (Kind::Bool, _) => Err(wrong(lexer, field, "true or false")),
        (Kind::Enum(names), Token::String(name)) => {
            let number = names.iter().position(|known| known == name);
            let number = number.ok_or_else(|| wrong(lexer, field, "a name of the enum"))?;
            Ok(number as u64)
        }
        (Kind::Enum(_), Token::Number(text)) => {
            let number = whole(text).and_then(|number| i32::try_from(number).ok());
            // A negative one takes ten bytes, as protobuf has it.
            number
                .map(|number| i64::from(number) as u64)
                .ok_or_else(|| wrong(lexer, field, "a name or number of the enum"))
        }
        (Kind::Enum(_), _) => Err(wrong(lexer, field, "a name or number of the enum")),
        (kind, Token::Number(text)) => {
            in_range(kind, text).ok_or_else(|| wrong(lexer, field, kind.expected()))
        }
        (kind, Token::String(text)) if number_len(text.as_bytes()) == Some(text.len()) => {
            in_range(kind, text).ok_or_else(|| wrong(lexer, field, kind.expected()))
        }
        (kind, _) => Err(wrong(lexer, field, kind.expected())),
    }
}

fn in_range(kind: Kind, text: &str) -> Option<u64> {
    let number = whole(text)?;
    match kind {
        Kind::Int64 => i64::try_from(number).ok().map(|number| number as u64),
        Kind::Uint32 => u32::try_from(number).ok().map(u64::from),
        _ => u64::try_from(number).ok(),
    }
}

/// The value of a number that JSON's grammar admits, if it is whole: `1.50e1` is 15.
fn whole(text: &str) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, mantissa),
    };
    let (before, after) = digits.split_once('.').unwrap_or((digits, ""));
    let after = after.trim_end_matches('0');
    let shift = exponent.checked_sub(i32::try_from(after.len()).ok()?)?;
    let digits = format!("{before}{after}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // Zeros at the end make up for a negative shift.
    let significant = digits.trim_end_matches('0');
    let zeros = i32::try_from(digits.len() - significant.len()).ok()?;
    let shift = shift.checked_add(zeros)?;
    if shift < 0 || significant.len() > 20 || shift > 20 {
        return None;
    }
    let power = 10i128.pow(shift.unsigned_abs());
    Some(sign * significant.parse::<i128>().ok()?.checked_mul(power)?)
}

fn wrong(lexer: &Lexer<'_>, field: &'static Field, expected: &'static str) -> Error {
    Error::Value {
        at: lexer.begin(),
        field: field.name,
        expected,
    }
}

fn tag(field: &Field, wire_type: u64, out: &mut Vec<u8>) {
    encode_varint(u64::from(field.number) << 3 | wire_type, out);
}

fn append(bytes: &[u8], out: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_in_every_writing() {
        for (text, number) in [
            ("0", 0),
            ("-0", 0),
            ("12", 12),
            ("-7", -7),
            ("1e3", 1000),
            ("1.50e1", 15),
            ("1500e-2", 15),
            ("0.00", 0),
            ("0e99999", 0),
            ("1000000e-6", 1),
            ("-9223372036854775808", i128::from(i64::MIN)),
            ("18446744073709551615", i128::from(u64::MAX)),
            ("184467440737095516150", i128::from(u64::MAX) * 10),
        ] {
            assert_eq!(whole(text), Some(number), "{text}");
        }
        for text in [
            "1.5",
            "1e-1",
            "15e-2",
            "1e21",
            "1e999999999",
            "1e99999999999",
        ] {
            assert_eq!(whole(text), None, "{text}");
        }
    }
}
