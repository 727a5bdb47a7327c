//! Base64 (RFC 4648): out with the standard alphabet and padding, in with either alphabet.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Not a digit of either alphabet.
const NONE: u8 = 0xff;

/// Value of each character; `-` and `_` count as `+` and `/`.
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut at = 0;
    while at < 64 {
        values[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    values[b'-' as usize] = 62;
    values[b'_' as usize] = 63;
    values
};

/// Appends the text of `bytes`.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    let digit = |bits: u32| ALPHABET[(bits & 63) as usize];
    let mut groups = bytes.chunks_exact(3);
    for group in &mut groups {
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        out.extend_from_slice(&[
            digit(bits >> 18),
            digit(bits >> 12),
            digit(bits >> 6),
            digit(bits),
        ]);
    }
    match *groups.remainder() {
        [a] => {
            let bits = u32::from(a) << 16;
            out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), b'=', b'=']);
        }
        [a, b] => {
            let bits = u32::from(a) << 16 | u32::from(b) << 8;
            let last = digit(bits >> 6);
            out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), last, b'=']);
        }
        _ => {}
    }
}

/// The bytes a text stands for: one alphabet only, padding whole or left out, line breaks ignored.
/// `None` if it is no such text.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let url = text.contains(['-', '_']);
    if url && text.contains(['+', '/']) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut digits, mut padding) = (0u32, 0u32, 0u32);
    for character in text.bytes() {
        match character {
            b'\r' | b'\n' => {}
            b'=' => padding += 1,
            _ => {
                let value = VALUES[usize::from(character)];
                if value == NONE || padding > 0 {
                    return None;
                }
                bits = bits << 6 | u32::from(value);
                digits += 1;
                if digits == 4 {
                    bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
                    (bits, digits) = (0, 0);
                }
            }
        }
    }
    match (digits, padding) {
        (0, 0) => {}
        (2, 0 | 2) => bytes.push((bits >> 4) as u8),
        (3, 0 | 1) => bytes.extend_from_slice(&((bits >> 2) as u16).to_be_bytes()),
        _ => return None,
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        encode(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_examples_of_the_standard() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(text(bytes.as_bytes()), expected);
            assert_eq!(decode(expected).unwrap(), bytes.as_bytes());
            let bare = expected.trim_end_matches('=');
            assert_eq!(decode(bare).unwrap(), bytes.as_bytes(), "without padding");
        }
    }

    #[test]
    fn both_alphabets_are_read_but_not_at_once() {
        assert_eq!(decode("+/+/").unwrap(), decode("-_-_").unwrap());
        assert_eq!(decode("+_+/"), None);
        assert_eq!(decode("Zm9v\r\nYmFy").unwrap(), b"foobar");
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for bad in [
            "Z",
            "Zg=",
            "Zg===",
            "Zm9v=",
            "Zm=9",
            "=",
            "Zm 9",
            "Zm9\u{e9}",
            "*",
        ] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let text = text(&bytes);
            prop_assert_eq!(decode(&text).unwrap(), bytes.clone());
            let url = text.replace('+', "-").replace('/', "_");
            prop_assert_eq!(decode(url.trim_end_matches('=')).unwrap(), bytes);
        }
    }
}
