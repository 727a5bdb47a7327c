//! Scalars as operators write them: booleans, durations and byte sizes.
//!
//! Every function takes text from a command line, an environment or a file, and answers with a
//! sentence that completes "invalid value ...: ", never with a panic.

use std::time::Duration;

/// `1 t T true True TRUE` and `0 f F false False FALSE`, as Go's flag package takes them.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// A whole number within `min..=max`.
pub fn parse_whole(text: &str, min: u64, max: u64) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ if max == u64::MAX => Err(format!("expected a whole number, {min} or more")),
        _ => Err(format!("expected a whole number between {min} and {max}")),
    }
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
];

/// The longest duration Go can hold, and therefore the longest etcd takes: 2^63 - 1 ns, 292 years.
const NANOS_MAX: u128 = i64::MAX as u128;

/// A duration such as `100ms`, `1.5h` or `1h30m`. Bare `0` needs no unit; any other number does.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a duration such as 500ms, 10s, 5m or 1h30m, not {text:?}");
    if text.starts_with('-') {
        return Err("a duration cannot be negative".to_owned());
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(wrong());
        }
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if unit.is_empty() {
            return Err(format!(
                "missing unit in {text:?}: write {text}s, {text}ms or {text}m"
            ));
        }
        let Some(&(_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "unknown unit {unit:?} in {text:?}: use ns, us, ms, s, m or h"
            ));
        };
        let nanos = u128::from(nanos);
        let whole: u128 = match whole {
            "" => 0,
            digits => digits.parse().map_err(|_| wrong())?,
        };
        // 18 digits are finer than a nanosecond of any unit here.
        let fraction = &fraction[..fraction.len().min(18)];
        let part = match fraction {
            "" => 0,
            digits => {
                let scale = 10u128.pow(u32::try_from(digits.len()).map_err(|_| wrong())?);
                digits.parse::<u128>().map_err(|_| wrong())? * nanos / scale
            }
        };
        total = whole
            .checked_mul(nanos)
            .and_then(|sum| sum.checked_add(part))
            .and_then(|sum| sum.checked_add(total))
            .filter(|sum| *sum <= NANOS_MAX)
            .ok_or_else(|| format!("{text:?} is longer than 292 years"))?;
        rest = after;
    }
    Ok(Duration::from_nanos(
        u64::try_from(total).map_err(|_| wrong())?,
    ))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// Milliseconds as a bare number, or any duration that is a whole number of milliseconds.
pub fn parse_millis(text: &str) -> Result<Duration, String> {
    if let Ok(millis) = text.parse::<u64>() {
        return Ok(Duration::from_millis(millis));
    }
    let duration = parse_duration(text)?;
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err("expected whole milliseconds".to_owned());
    }
    Ok(duration)
}

/// The shortest text that `parse_duration` reads back to the same value.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (larger, size, unit) in [
        (1_000u128, 1, "ns"),
        (1_000_000, 1_000, "us"),
        (1_000_000_000, 1_000_000, "ms"),
    ] {
        if !nanos.is_multiple_of(larger) {
            return format!("{}{unit}", nanos / size);
        }
    }
    let seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, size) in [("h", 3600), ("m", 60), ("s", 1)] {
        let count = match unit {
            "h" => seconds / size,
            _ => seconds / size % 60,
        };
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}

/// Bytes: a whole number, with an optional unit (`KB` = 1000, `KiB` = 1024, up to `TB`/`TiB`).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || "expected bytes, such as 1048576, 512MiB or 2GiB".to_owned();
    let (digits, unit) = split_digits(text);
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000u64.pow(2),
        "gb" => 1000u64.pow(3),
        "tb" => 1000u64.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("{text:?} does not fit 64 bits"))
}

/// A quota: as `parse_bytes`; any negative whole number means "no quota" and answers `None`.
pub fn parse_quota(text: &str) -> Result<Option<u64>, String> {
    if text.starts_with('-') && text.parse::<i64>().is_ok() {
        return Ok(None);
    }
    parse_bytes(text).map(Some)
}

/// The items of a comma list, trimmed, empty ones dropped.
pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        let cases: [(&str, u64); 14] = [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("100ms", 100_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1h15m30.918273645s", 4_530_918_273_645),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("+7ns", 7),
            ("10us", 10_000),
            ("10\u{b5}s", 10_000),
            ("10\u{3bc}s", 10_000),
            ("0.000000000000000000000001h", 0),
        ];
        for (text, nanos) in cases {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bad_duration_is_an_error_and_never_a_panic() {
        for text in [
            "",
            "+",
            "-",
            ".",
            "s",
            "5",
            "5 s",
            "5x",
            "1h5",
            "-5s",
            "1.2.3s",
            "99999999999h",
            "340282366920938463463374607431768211456s",
            "9223372036854775808ns",
            "1\u{e9}",
        ] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        assert!(parse_duration("10").unwrap_err().contains("10s"));
    }

    #[test]
    fn a_formatted_duration_reads_back_to_the_same_value() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1500ns"),
            (15_000, "15us"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1500ms"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "1m30s"),
            (600_000_000_000, "10m"),
            (7_200_000_000_000, "2h"),
            (3_600_000_000_000 + 1_000_000_000, "1h1s"),
        ] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(format_duration(duration), text);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
    }

    #[test]
    fn milliseconds_may_be_bare_or_a_duration() {
        assert_eq!(parse_millis("100"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_millis("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_millis("1s"), Ok(Duration::from_secs(1)));
        assert!(parse_millis("1us").is_err());
        assert!(parse_millis("-1").is_err());
        assert!(parse_millis("fast").is_err());
    }

    #[test]
    fn sizes_take_decimal_and_binary_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1572864", 1_572_864),
            ("2GiB", 2 << 30),
            ("512 MiB", 512 << 20),
            ("1kb", 1000),
            ("16B", 16),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "-1",
            "GiB",
            "1.5GiB",
            "1XB",
            "20000000TiB",
            "99999999999999999999",
        ] {
            assert!(parse_bytes(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_quota("-1"), Ok(None));
        assert_eq!(parse_quota("8GiB"), Ok(Some(8 << 30)));
        assert!(parse_quota("-x").is_err());
    }

    #[test]
    fn booleans_are_those_of_go() {
        for (text, value) in [
            ("1", true),
            ("t", true),
            ("TRUE", true),
            ("0", false),
            ("F", false),
        ] {
            assert_eq!(parse_bool(text), Ok(value));
        }
        for text in ["", "yes", "on", "tRue", "2"] {
            assert!(parse_bool(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn whole_numbers_keep_their_bounds() {
        assert_eq!(parse_whole("4", 4, 31), Ok(4));
        assert!(
            parse_whole("32", 4, 31)
                .unwrap_err()
                .contains("between 4 and 31")
        );
        assert!(
            parse_whole("-1", 0, u64::MAX)
                .unwrap_err()
                .contains("0 or more")
        );
        assert!(parse_whole("18446744073709551616", 0, u64::MAX).is_err());
    }
}
