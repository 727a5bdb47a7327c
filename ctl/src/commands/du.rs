//! `du`: keys and bytes by prefix, at one revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvnode_client::{api, prefix};

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::golang;
use crate::output::{Format, Object, say, say_line};

/// Keys read at a time.
const PAGE: i64 = 2000;

#[derive(Default)]
struct Sum {
    keys: u64,
    bytes: u64,
    versions: u64,
}

impl Sum {
    fn add(&mut self, kv: &api::KeyValue) {
        self.keys += 1;
        self.bytes += (kv.key.len() + kv.value.len()) as u64;
        self.versions += kv.version.unsigned_abs();
    }
}

pub async fn run(context: &Context<'_>) -> Result<()> {
    let words = context.words();
    if words.len() > 1 {
        return Err(Failure::usage("du command accepts one prefix", "du"));
    }
    let start = words.into_iter().next().unwrap_or_default();
    let separator = context.text("separator");
    let depth = usize::try_from(context.number("depth")).unwrap_or(0).max(1);
    context.printer(&[Format::Simple, Format::Json])?;
    let client = context.client()?;
    let (key, range_end) = prefix(start.clone());
    let mut request = api::RangeRequest {
        key,
        range_end,
        limit: PAGE,
        ..Default::default()
    };
    let mut groups: BTreeMap<Bytes, Sum> = BTreeMap::new();
    let mut total = Sum::default();
    loop {
        let answer = client.range(request.clone()).await?;
        if request.revision == 0 {
            request.revision = answer.header.map_or(0, |header| header.revision);
        }
        for kv in &answer.kvs {
            groups
                .entry(group(&kv.key, start.len(), separator.as_bytes(), depth))
                .or_default()
                .add(kv);
            total.add(kv);
        }
        match answer.kvs.last() {
            Some(last) if answer.more => request.key = [&last.key[..], b"\0"].concat().into(),
            _ => break,
        }
    }
    if context.settings.format == Format::Json {
        let object = |sum: &Sum| {
            Object::new()
                .number("keys", sum.keys)
                .number("bytes", sum.bytes)
                .number("versions", sum.versions)
        };
        let list: Vec<String> = groups
            .iter()
            .map(|(name, sum)| {
                object(sum)
                    .text("prefix", &String::from_utf8_lossy(name))
                    .end()
            })
            .collect();
        let whole = object(&total)
            .number("revision", request.revision)
            .raw("prefixes", format!("[{}]", list.join(",")));
        return say_line(&whole.end());
    }
    let line = |name: &str, sum: &Sum| {
        let size = golang::size(i64::try_from(sum.bytes).unwrap_or(i64::MAX));
        format!(
            "{size:>8} {:>10} keys {:>12} versions  {name}\n",
            sum.keys, sum.versions
        )
    };
    let mut out: String = groups
        .iter()
        .map(|(name, sum)| line(&name.escape_ascii().to_string(), sum))
        .collect();
    out.push_str(&line("total", &total));
    say(out)
}

/// The first `depth` parts of a key behind the prefix asked for, with their separators.
pub fn group(key: &Bytes, skip: usize, separator: &[u8], depth: usize) -> Bytes {
    if separator.is_empty() {
        return key.slice(..(skip + depth).min(key.len()));
    }
    let mut end = skip;
    for part in 0..depth {
        // A separator at the very beginning opens the first part.
        let from = if part == 0 && key[end..].starts_with(separator) {
            end + separator.len()
        } else {
            end
        };
        let found = key[from..]
            .windows(separator.len())
            .position(|window| window == separator);
        match found {
            Some(at) => end = from + at + separator.len(),
            None => return key.clone(),
        }
    }
    key.slice(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_grouped_by_their_first_parts() {
        let of = |key: &'static str, skip, depth| {
            String::from_utf8(group(&Bytes::from(key), skip, b"/", depth).to_vec()).expect("text")
        };
        assert_eq!(of("a/b/c", 0, 1), "a/");
        assert_eq!(of("/a/b/c", 0, 1), "/a/");
        assert_eq!(of("/a/b/c", 0, 2), "/a/b/");
        assert_eq!(of("a/b/c", 2, 1), "a/b/");
        assert_eq!(of("plain", 0, 1), "plain");
        assert_eq!(of("a/b", 0, 5), "a/b");
    }
}
