//! The little language of `txn` and `watch -i`: words with quotes, and compares.

use bytes::Bytes;
use kvnode_api as api;
use kvnode_api::compare::{CompareResult, CompareTarget, TargetUnion};

use crate::golang;

/// Cuts a line into words. `"..."` may hold Go's escapes, `'...'` is taken as it stands; a quote that is
/// never closed is skipped, as etcdctl's pattern does.
///
/// # Errors
/// A double-quoted word with a bad escape.
pub fn split(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => closing(rest, '"', true),
            '\'' => closing(rest, '\'', false),
            c if c.is_whitespace() => None,
            _ => Some(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        let Some(length) = length else {
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let (word, behind) = rest.split_at(length);
        words.push(match first {
            '"' => golang::unquote(word).ok_or_else(|| format!("bad quoted word {word}"))?,
            '\'' => word.as_bytes()[1..length - 1].to_vec(),
            _ => word.as_bytes().to_vec(),
        });
        rest = behind;
    }
    Ok(words)
}

/// Length of the quoted word at the beginning of `text`.
fn closing(text: &str, quote: char, escapes: bool) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if escapes => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// `target("key") op "value"`.
///
/// # Errors
/// What of it cannot be read.
pub fn compare(line: &str) -> Result<api::Compare, String> {
    let malformed = || format!("malformed comparison: {line}");
    let (target, rest) = line.split_once('(').ok_or_else(malformed)?;
    let (key, rest) = quoted(rest.trim_start_matches([' ', '\t'])).ok_or_else(malformed)?;
    let rest = rest.strip_prefix(')').ok_or_else(malformed)?;
    let rest = blanks(rest).ok_or_else(malformed)?;
    let end = rest.find(char::is_whitespace).ok_or_else(malformed)?;
    let (operator, rest) = rest.split_at(end);
    let rest = blanks(rest).ok_or_else(malformed)?;
    let (value, _) = quoted(rest).ok_or_else(malformed)?;
    let result = match operator {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => {
            return Err(format!(
                "{} (unknown operator {operator}; known are = != < >)",
                malformed()
            ));
        }
    };
    let number = |base| {
        let text = std::str::from_utf8(&value).ok();
        text.and_then(|text| i64::from_str_radix(text, base).ok())
            .ok_or_else(|| format!("invalid txn compare request: {line}"))
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (
            CompareTarget::Create,
            TargetUnion::CreateRevision(number(10)?),
        ),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return Err(format!("{} (unknown target {target})", malformed())),
    };
    Ok(api::Compare {
        result: result as i32,
        target: target as i32,
        key: key.into(),
        target_union: Some(union),
        range_end: Bytes::new(),
    })
}

/// A word in double quotes (with escapes) or back quotes, and what follows it.
fn quoted(text: &str) -> Option<(Vec<u8>, &str)> {
    let first = text.chars().next()?;
    let length = closing(text, first, first == '"')?;
    let (word, rest) = text.split_at(length);
    match first {
        '"' => Some((golang::unquote(word)?, rest)),
        '`' => Some((word.as_bytes()[1..length - 1].to_vec(), rest)),
        _ => None,
    }
}

/// What follows one or more blanks.
fn blanks(text: &str) -> Option<&str> {
    let trimmed = text.trim_start_matches([' ', '\t']);
    (trimmed.len() < text.len()).then_some(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_blanks_outside_quotes() {
        for (line, words) in [
            ("put k v", &["put", "k", "v"][..]),
            (r#"  put "a b"   'c "d' "#, &["put", "a b", "c \"d"]),
            (r#"put "x\n\"y" z"#, &["put", "x\n\"y", "z"]),
            (
                "put k --lease=1f --prev-kv",
                &["put", "k", "--lease=1f", "--prev-kv"],
            ),
            ("a\"b c", &["a\"b", "c"]),
            ("\"open", &["open"]),
            ("", &[]),
        ] {
            let found = split(line).expect(line);
            assert_eq!(
                found,
                words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>(),
                "{line}"
            );
        }
        assert!(split(r#"put "\q""#).is_err());
    }

    #[test]
    fn compares_are_read() {
        let c = compare(r#"mod("k 1") > "0""#).expect("good");
        assert_eq!((c.target, c.result, &c.key[..]), (2, 1, &b"k 1"[..]));
        assert_eq!(c.target_union, Some(TargetUnion::ModRevision(0)));
        let c = compare(r#"val("k") != "a\tb" junk"#).expect("good");
        assert_eq!(c.target_union, Some(TargetUnion::Value("a\tb".into())));
        let c = compare(r#"lease("k") = "1f""#).expect("good");
        assert_eq!(c.target_union, Some(TargetUnion::Lease(0x1f)));
        for bad in [
            "mod",
            r#"mod(k) > "0""#,
            r#"mod("k")> "0""#,
            r#"mod("k") >"0""#,
            r#"mod("k") ~ "0""#,
            r#"mod("k") > "x""#,
            r#"size("k") > "1""#,
            r#"mod("k") >"#,
        ] {
            assert!(compare(bad).is_err(), "{bad}");
        }
    }
}
