//! From a message's bytes to JSON text, guided by the message's [`Shape`].

use prost::bytes::Buf;
use prost::encoding::decode_varint;

use super::shape::{Field, Kind, Shape};
use super::{DEPTH_MAX, Malformed, base64};

/// Appends the JSON form of the message to `out`.
///
/// # Errors
/// [`Malformed`] unless the bytes are as an encoder gives them: fields by ascending number, one member of a one-of.
/// `out` then holds a part.
pub fn write(shape: &'static Shape, message: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.reserve(message.len() + message.len() / 2);
    object(shape, message, out, 0)
}

fn object(
    shape: &'static Shape,
    message: &[u8],
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Malformed> {
    let malformed = |rest: &[u8]| Malformed {
        message: shape.name,
        at: message.len() - rest.len(),
    };
    if depth > DEPTH_MAX {
        return Err(malformed(message));
    }
    out.push(b'{');
    let begin = out.len();
    let mut rest = message;
    // The field whose array is open, or that was written last.
    let mut last = 0;
    let mut array_open = false;
    let mut member_given = false;
    while !rest.is_empty() {
        let here = rest;
        let record = Record::take(&mut rest).ok_or_else(|| malformed(here))?;
        if record.number < last {
            return Err(malformed(here));
        }
        let Some(field) = shape.fields.iter().find(|f| f.number == record.number) else {
            continue;
        };
        let again = record.number == last;
        last = record.number;
        if (again && !field.many) || (field.member && member_given) {
            return Err(malformed(here));
        }
        member_given |= field.member;
        if array_open && !again {
            out.push(b']');
            array_open = false;
        }
        let packed = field.many && !field.kind.is_delimited();
        if !array_open {
            if record.is_left_out(field) {
                continue;
            }
            if out.len() > begin {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b"\":");
            if field.many {
                out.push(b'[');
                array_open = true;
            }
        } else {
            out.push(b',');
        }
        let written = match (record.value, packed) {
            (Wire::Delimited(mut numbers), true) => {
                let mut first = true;
                let mut result = Ok(());
                while !numbers.is_empty() && result.is_ok() {
                    if !std::mem::take(&mut first) {
                        out.push(b',');
                    }
                    result = match decode_varint(&mut numbers) {
                        Ok(number) => scalar(field, number, out),
                        Err(_) => Err(Wrong::Here),
                    };
                }
                result
            }
            (Wire::Delimited(bytes), false) => delimited(field, bytes, out, depth),
            (Wire::Varint(number), _) => scalar(field, number, out),
            (Wire::Other, _) => Err(Wrong::Here),
        };
        written.map_err(|wrong| match wrong {
            Wrong::Here => malformed(here),
            Wrong::Inside(inner) => inner,
        })?;
    }
    if array_open {
        out.push(b']');
    }
    out.push(b'}');
    Ok(())
}

enum Wrong {
    Here,
    Inside(Malformed),
}

/// A value that carries its length.
fn delimited(
    field: &'static Field,
    bytes: &[u8],
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Wrong> {
    match field.kind {
        Kind::Message(shape) => object(shape, bytes, out, depth + 1).map_err(Wrong::Inside),
        Kind::String => {
            quote(std::str::from_utf8(bytes).map_err(|_| Wrong::Here)?, out);
            Ok(())
        }
        Kind::Bytes => {
            out.push(b'"');
            base64::encode(bytes, out);
            out.push(b'"');
            Ok(())
        }
        _ => Err(Wrong::Here),
    }
}

/// A value that is a number on the wire.
fn scalar(field: &'static Field, number: u64, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let text = match field.kind {
        Kind::Int64 => format!("\"{}\"", number as i64),
        Kind::Uint64 => format!("\"{number}\""),
        Kind::Uint32 => (number as u32).to_string(),
        Kind::Bool => (number != 0).to_string(),
        Kind::Enum(names) => {
            let name = usize::try_from(number).ok().and_then(|at| names.get(at));
            match name {
                Some(name) => format!("\"{name}\""),
                None => (number as i32).to_string(),
            }
        }
        Kind::Bytes | Kind::String | Kind::Message(_) => return Err(Wrong::Here),
    };
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Appends a string in quotes.
pub(super) fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in text.bytes() {
        match character {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', character]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1f | 0x7f => out.extend_from_slice(format!("\\u{character:04x}").as_bytes()),
            _ => out.push(character),
        }
    }
    out.push(b'"');
}

/// One field as it stands on the wire.
struct Record<'a> {
    number: u32,
    value: Wire<'a>,
}

enum Wire<'a> {
    Varint(u64),
    Delimited(&'a [u8]),
    /// Passed over.
    Other,
}

impl<'a> Record<'a> {
    fn take(rest: &mut &'a [u8]) -> Option<Record<'a>> {
        let key = decode_varint(rest).ok()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
        let value = match key & 7 {
            0 => Wire::Varint(decode_varint(rest).ok()?),
            2 => {
                let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
                let bytes = rest.get(..length)?;
                rest.advance(length);
                Wire::Delimited(bytes)
            }
            1 if rest.len() >= 8 => {
                rest.advance(8);
                Wire::Other
            }
            5 if rest.len() >= 4 => {
                rest.advance(4);
                Wire::Other
            }
            _ => return None,
        };
        Some(Record { number, value })
    }

    /// Zero and empty are, unless their presence means something.
    fn is_left_out(&self, field: &Field) -> bool {
        if field.member || matches!(field.kind, Kind::Message(_)) {
            return false;
        }
        match self.value {
            Wire::Varint(number) => number == 0 && !field.many,
            Wire::Delimited(bytes) => {
                bytes.is_empty() && (!field.many || !field.kind.is_delimited())
            }
            Wire::Other => false,
        }
    }
}
