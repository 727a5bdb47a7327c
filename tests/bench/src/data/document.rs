//! Small JSON documents as configuration stores hold them: the same fields in each, most values out of a few, identifiers,
//! times and numbers of hosts differing. So they compress as such things do, neither like noise nor like zeros.

use std::io::Write as _;

use super::Chance;

const SERVICES: &[&str] = &[
    "billing",
    "search",
    "checkout",
    "inventory",
    "profile",
    "mail",
    "ledger",
    "gateway",
];
const SITES: &[&str] = &["eu-west", "eu-north", "us-east", "us-west", "ap-south"];
const LEVELS: &[&str] = &["debug", "info", "warn", "error"];
const WORDS: &[&str] = &[
    "blue", "canary", "stable", "batch", "internal", "public", "cached", "primary", "replica",
    "retry", "region", "shadow", "quota", "legacy", "rollout", "audited",
];

/// Begins with what is always there, and ends with labels as far as there is room.
pub fn write(chance: &mut Chance, length: usize, out: &mut Vec<u8>) {
    out.clear();
    let service = pick(chance, SERVICES);
    let site = pick(chance, SITES);
    let level = pick(chance, LEVELS);
    let (id, number) = (chance.next(), chance.next());
    let mut below = |bound| chance.below(bound);
    let (host, port) = (below(2000), 8000 + below(20));
    let (day, hour, minute, second, milli) =
        (1 + below(28), below(24), below(60), below(60), below(1000));
    let (limit, memory, enabled) = (100 * (1 + below(20)), 64 << below(6), below(8) != 0);
    // Writing to memory cannot fail.
    let _ = write!(
        out,
        "{{\"id\":\"{id:016x}{:08x}\",\"service\":\"{service}\",\"host\":\"node-{host:04}.{site}.example.net\",\
         \"port\":{port},\"enabled\":{enabled},\"updated\":\"2026-03-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z\",\
         \"cpu\":{limit},\"memory\":{memory},\"level\":\"{level}\",\"labels\":\"",
        number as u32,
    );
    while out.len() + 2 < length {
        out.extend_from_slice(pick(chance, WORDS).as_bytes());
        out.push(b' ');
    }
    out.truncate(length.saturating_sub(2));
    out.extend_from_slice(&b"\"}"[..length.min(2)]);
}

fn pick<'a>(chance: &mut Chance, words: &[&'a str]) -> &'a str {
    words[chance.below(words.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_json_of_their_length_and_follow_from_the_seed() {
        let (mut one, mut other) = (Chance(7), Chance(7));
        let (mut out, mut again) = (Vec::new(), Vec::new());
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            write(&mut one, 256, &mut out);
            write(&mut other, 256, &mut again);
            assert_eq!(out, again);
            assert_eq!(out.len(), 256);
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert!(read["host"].as_str().unwrap().ends_with(".example.net"));
            assert!(seen.insert(read["id"].to_string()), "ids differ");
        }
        for length in [0, 1, 2, 100, 300, 4096] {
            write(&mut one, length, &mut out);
            assert_eq!(out.len(), length);
        }
    }
}
