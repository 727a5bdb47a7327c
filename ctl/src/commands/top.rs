//! `top`: which prefixes change how often, as it happens.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvnode_client::api::event::EventType;
use kvnode_client::{api, prefix};

use super::du::group;
use super::interrupted;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{Format, Object, say};

/// Prefixes counted apart; changes of further ones are counted together.
const GROUPS_MAX: usize = 10_000;
const OTHERS: &str = "(others)";
/// Lines of a screen.
const LINES_MAX: usize = 20;
/// Pause between two screens.
const REFRESH: Duration = Duration::from_secs(1);
/// Cursor to the upper left corner, and nothing below it.
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(Clone, Copy, Default)]
struct Count {
    puts: u64,
    deletes: u64,
}

#[derive(Default)]
struct Counts {
    groups: BTreeMap<Bytes, Count>,
    others: Count,
}

impl Counts {
    fn add(&mut self, name: Bytes, deleted: bool) {
        let count = if self.groups.len() < GROUPS_MAX || self.groups.contains_key(&name) {
            self.groups.entry(name).or_default()
        } else {
            &mut self.others
        };
        match deleted {
            true => count.deletes += 1,
            false => count.puts += 1,
        }
    }

    /// Those that changed most first.
    fn ranked(&self) -> Vec<(String, Count)> {
        let mut all: Vec<(String, Count)> = self
            .groups
            .iter()
            .map(|(name, count)| (name.escape_ascii().to_string(), *count))
            .collect();
        if self.others.puts + self.others.deletes > 0 {
            all.push((OTHERS.to_owned(), self.others));
        }
        all.sort_by_key(|(_, count)| std::cmp::Reverse(count.puts + count.deletes));
        all
    }

    fn screen(&self, took: Duration) -> String {
        let mut out = format!(
            "{:>10} {:>10} {:>10}  PREFIX\n",
            "CHANGES/S", "PUTS", "DELETES"
        );
        let all = self.ranked();
        for (name, count) in all.iter().take(LINES_MAX) {
            let rate = (count.puts + count.deletes) as f64 / took.as_secs_f64().max(0.001);
            out.push_str(&format!(
                "{rate:>10.1} {:>10} {:>10}  {name}\n",
                count.puts, count.deletes
            ));
        }
        if all.len() > LINES_MAX {
            out.push_str(&format!("and {} more\n", all.len() - LINES_MAX));
        }
        out
    }

    /// An object for each prefix, one per line.
    fn json(&self, took: Duration) -> String {
        let line = |(name, count): (String, Count)| {
            let rate = (count.puts + count.deletes) as f64 / took.as_secs_f64().max(0.001);
            Object::new()
                .text("prefix", &name)
                .number("puts", count.puts)
                .number("deletes", count.deletes)
                .raw("changes_per_second", format!("{rate:.1}"))
                .end()
                + "\n"
        };
        self.ranked().into_iter().map(line).collect()
    }
}

/// With `--seconds` one report at the end; without, one each second of what happened in it, until interrupted.
pub async fn run(context: &Context<'_>) -> Result<()> {
    let words = context.words();
    if words.len() > 1 {
        return Err(Failure::usage("top command accepts one prefix", "top"));
    }
    let start = words.into_iter().next().unwrap_or_default();
    let separator = context.text("separator");
    let depth = usize::try_from(context.number("depth")).unwrap_or(0).max(1);
    let seconds = u64::try_from(context.number("seconds")).unwrap_or(0);
    context.printer(&[Format::Simple, Format::Json])?;
    let json = context.settings.format == Format::Json;
    let live = seconds == 0 && !json && std::io::stdout().is_terminal();
    let client = context.patient_client()?;
    let (key, range_end) = prefix(start.clone());
    let mut watcher = client.watch(api::WatchCreateRequest {
        key,
        range_end,
        ..Default::default()
    });
    let mut counts = Counts::default();
    let mut begun = Instant::now();
    let period = match seconds {
        0 => REFRESH,
        seconds => Duration::from_secs(seconds),
    };
    let mut refresh = tokio::time::interval_at((begun + period).into(), period);
    let end = interrupted();
    tokio::pin!(end);
    loop {
        let over = tokio::select! {
            answer = watcher.next() => {
                for event in answer?.events {
                    let Some(kv) = event.kv else { continue };
                    let name = group(&kv.key, start.len(), separator.as_bytes(), depth);
                    counts.add(name, event.r#type == EventType::Delete as i32);
                }
                continue;
            }
            _ = refresh.tick() => seconds > 0,
            () = &mut end => true,
        };
        let took = begun.elapsed();
        let shown = match json {
            true => counts.json(took),
            false => counts.screen(took),
        };
        say(if live {
            format!("{CLEAR}{shown}")
        } else {
            shown
        })?;
        if over {
            return Ok(());
        }
        counts = Counts::default();
        begun = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_ranked_and_their_number_is_bounded() {
        let mut counts = Counts::default();
        for _ in 0..3 {
            counts.add("busy/".into(), false);
        }
        for number in 0..GROUPS_MAX + 1 {
            counts.add(Bytes::from(format!("{number}/")), true);
        }
        let ranked = counts.ranked();
        assert_eq!(ranked.len(), GROUPS_MAX + 1);
        assert_eq!((ranked[0].0.as_str(), ranked[0].1.puts), ("busy/", 3));
        let others = ranked.iter().find(|(name, _)| name == OTHERS);
        assert_eq!(others.map(|(_, count)| count.deletes), Some(2));
        let screen = counts.screen(Duration::from_secs(1));
        assert!(
            screen.contains("       3.0          3          0  busy/\n"),
            "{screen}"
        );
        assert_eq!(screen.lines().count(), LINES_MAX + 2);
    }
}
