//! Forms that come from Go's standard library and are part of etcdctl's output: quoted strings,
//! durations, sizes.

use std::time::Duration;

/// `strconv.Quote`: valid UTF-8 that can be printed stays, everything else is escaped.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(c, &mut out);
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

fn quote_char(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        c if is_printable(c) => out.push(c),
        c if (c as u32) < 0x80 => out.push_str(&format!("\\x{:02x}", c as u32)),
        c if (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", c as u32)),
        c => out.push_str(&format!("\\U{:08x}", c as u32)),
    }
}

/// Letters, marks, numbers, punctuation, symbols and the ASCII space.
fn is_printable(c: char) -> bool {
    // Behind another character, Rust's escaping lets exactly these through.
    let text: String = ['a', c].iter().collect();
    c == '\'' || text.escape_debug().eq(text.chars())
}

/// `strconv.Unquote` for a text in double quotes; `None` if it is none.
pub fn unquote(text: &str) -> Option<Vec<u8>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = Vec::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\n' => return None,
            '\\' => escape(&mut chars, &mut out)?,
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Some(out)
}

fn escape(chars: &mut std::str::Chars<'_>, out: &mut Vec<u8>) -> Option<()> {
    let kind = chars.next()?;
    let value = match kind {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        '"' => b'"',
        'x' => u8::try_from(number(chars, String::new(), 2, 16)?).ok()?,
        '0'..='7' => u8::try_from(number(chars, kind.to_string(), 3, 8)?).ok()?,
        'u' | 'U' => {
            let digits = if kind == 'u' { 4 } else { 8 };
            let c = char::from_u32(number(chars, String::new(), digits, 16)?)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(());
        }
        _ => return None,
    };
    out.push(value);
    Some(())
}

fn number(
    chars: &mut std::str::Chars<'_>,
    mut text: String,
    digits: usize,
    base: u32,
) -> Option<u32> {
    while text.len() < digits {
        text.push(chars.next()?);
    }
    u32::from_str_radix(&text, base).ok()
}

/// `time.Duration.String`: `1.5s`, `3.307615ms`, `1m0.5s`.
pub fn duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    let unit = |scale: u128, name: &str| {
        let fraction = format!("{:0width$}", nanos % scale, width = scale.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        match fraction {
            "" => format!("{}{name}", nanos / scale),
            _ => format!("{}.{fraction}{name}", nanos / scale),
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => unit(1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => unit(1_000_000, "ms"),
        _ => {
            let minutes = time.as_secs() / 60;
            let rest = time - Duration::from_secs(minutes * 60);
            let seconds = match rest.subsec_nanos() {
                0 => format!("{}s", rest.as_secs()),
                nanos => {
                    let fraction = format!("{nanos:09}");
                    format!("{}.{}s", rest.as_secs(), fraction.trim_end_matches('0'))
                }
            };
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// `time.ParseDuration` without signs.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad =
        || format!("time: invalid duration {text:?}, expected a form like 500ms, 5s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let value: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "\u{b5}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        seconds += value * scale;
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// Bytes in decimal units: `999 B`, `1.2 kB`, `20 kB`.
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    // A negative number is what Go makes of it: a huge one.
    let bytes = bytes.cast_unsigned();
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut scale = 1u64;
    while bytes / scale >= 1000 && unit + 1 < UNITS.len() {
        scale = scale.saturating_mul(1000);
        unit += 1;
    }
    let value = (bytes as f64 / scale as f64 * 10.0 + 0.5).floor() / 10.0;
    match value < 10.0 {
        true => format!("{value:.1} {}", UNITS[unit]),
        false => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            match digit <= group.len() {
                true => out.push(char::from(DIGITS[value as usize])),
                false => out.push('='),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_go_does() {
        for (bytes, quoted) in [
            (&b"plain 'x'"[..], r#""plain 'x'""#),
            (b"a\"\\\n\t\r\x07\x08\x0b\x0c", r#""a\"\\\n\t\r\a\b\v\f""#),
            (b"\x00\x1f\x7f", r#""\x00\x1f\x7f""#),
            (b"\xff\xfea", r#""\xff\xfea""#),
            (
                "\u{e4}\u{20ac}\u{a0}".as_bytes(),
                "\"\u{e4}\u{20ac}\\u00a0\"",
            ),
            ("\u{301}".as_bytes(), "\"\u{301}\""),
            ("\u{1f600}\u{e0001}".as_bytes(), "\"\u{1f600}\\U000e0001\""),
        ] {
            assert_eq!(quote(bytes), quoted);
            assert_eq!(unquote(&quote(bytes)).as_deref(), Some(bytes), "{quoted}");
        }
        assert_eq!(
            unquote(r#""\101\u00e4""#).as_deref(),
            Some("A\u{e4}".as_bytes())
        );
        for bad in [
            "",
            "\"",
            "a",
            r#""\q""#,
            r#""\x4""#,
            "\"a\"b\"",
            r#""\400""#,
        ] {
            assert_eq!(unquote(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_read_and_print_as_go_does() {
        let nanos = Duration::from_nanos;
        for (time, text) in [
            (nanos(0), "0s"),
            (nanos(999), "999ns"),
            (nanos(1_500), "1.5\u{b5}s"),
            (nanos(3_307_615), "3.307615ms"),
            (nanos(2_000_000), "2ms"),
            (nanos(1_050_000_000), "1.05s"),
            (Duration::from_secs(5), "5s"),
            (Duration::from_millis(90_500), "1m30.5s"),
            (Duration::from_secs(3600), "1h0m0s"),
        ] {
            assert_eq!(duration(time), text);
            assert_eq!(parse_duration(text), Ok(time), "{text}");
        }
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        for bad in ["", "5", "s", "5x", "-1s", "1..5s", "1e400s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_decimal_with_two_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_250, "1.3 kB"),
            (20_480, "20 kB"),
            (999_960, "1000 kB"),
            (2_147_483_648, "2.1 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xff\xef", "/+8="),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}
