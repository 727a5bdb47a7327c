//! `watch`: events to stdout or to a program, from the command line or as typed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

use bytes::Bytes;
use clap::ArgMatches;
use kvnode_client::{Client, Error, Watcher, api, prefix_end};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::failure::{self, Failure, Result, code};
use crate::output::{self, Printer};
use crate::{cli, golang, terminal, words};

/// Progress requests on their way to a watcher.
const ASKS: usize = 16;

/// What is watched, and what is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    request: api::WatchCreateRequest,
    program: Vec<OsString>,
    max_events: i64,
    until: i64,
}

pub async fn run(context: &Context<'_>, arguments: &[OsString]) -> Result<()> {
    let from_variables = variables()?;
    if context.flag("interactive") {
        let printer = context.printer(output::WITH_LINES)?;
        return interactive(context.patient_client()?, &printer, &from_variables).await;
    }
    let behind = arguments
        .iter()
        .position(|word| word == "--")
        .map(|at| &arguments[at + 1..]);
    let wish = wish(
        context.matches,
        behind.map(<[OsString]>::to_vec),
        &from_variables,
    )?;
    let printer = context.printer(output::WITH_LINES)?;
    let timeout = match context.text("timeout").as_str() {
        "" => None,
        text => Some(golang::parse_duration(text).map_err(|error| Failure::usage(error, "watch"))?),
    };
    let client = context.patient_client()?;
    let watcher = client.watch(wish.request.clone());
    let (_ask, asked) = mpsc::channel(ASKS);
    let following = follow(watcher, &wish, &printer, asked);
    match timeout {
        None => following.await,
        Some(limit) => {
            let limit: Duration = limit;
            tokio::time::timeout(limit, following)
                .await
                .unwrap_or(Ok(()))
        }
    }
}

/// Key and range end of the variables.
fn variables() -> Result<Vec<OsString>> {
    let get = |name: &str| {
        let ours = std::env::var_os(format!("KVCTL_WATCH_{name}"));
        ours.or_else(|| std::env::var_os(format!("ETCDCTL_WATCH_{name}")))
            .filter(|value| !value.is_empty())
    };
    match (get("KEY"), get("RANGE_END")) {
        (None, Some(end)) => Err(Failure::usage(
            format!(
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
                golang::quote(end.as_bytes())
            ),
            "watch",
        )),
        (key, end) => Ok(key.into_iter().chain(end).collect()),
    }
}

/// Reads flags and words; `behind` is what stood behind `--`.
fn wish(
    matches: &ArgMatches,
    behind: Option<Vec<OsString>>,
    from_variables: &[OsString],
) -> Result<Wish> {
    let mut words = cli::words_of(matches);
    if let Some(program) = &behind {
        if program.is_empty() {
            return Err(Failure::usage(
                "bad number of arguments (found separator --, but no commands)",
                "watch",
            ));
        }
        words.truncate(words.len().saturating_sub(program.len()));
    }
    if !from_variables.is_empty() {
        if !words.is_empty() {
            return Err(Failure::usage(
                "bad number of arguments (found conflicting environment key)",
                "watch",
            ));
        }
        words = from_variables.to_vec();
    }
    let flag = |name: &str| matches.get_one::<bool>(name).copied().unwrap_or_default();
    let number = |name: &str| matches.get_one::<i64>(name).copied().unwrap_or_default();
    let mut words = words.into_iter().map(|word| Bytes::from(word.into_vec()));
    let Some(key) = words.next() else {
        return Err(Failure::usage("bad number of arguments", "watch"));
    };
    let by_prefix = flag("prefix");
    let range_end = match words.next() {
        Some(_) if by_prefix => {
            return Err(Failure::usage(
                "`range_end` and `--prefix` are mutually exclusive",
                "watch",
            ));
        }
        Some(end) => end,
        // An empty key stands for the first one there can be.
        None if by_prefix && key.is_empty() => Bytes::from_static(api::FROM_KEY),
        None if by_prefix => prefix_end(&key),
        None => Bytes::new(),
    };
    Ok(Wish {
        request: api::WatchCreateRequest {
            key,
            range_end,
            start_revision: number("rev"),
            progress_notify: flag("progress-notify"),
            prev_kv: flag("prev-kv"),
            ..Default::default()
        },
        program: behind.unwrap_or_default(),
        max_events: number("max-events"),
        until: number("until-rev"),
    })
}

/// Prints until the watcher is over or enough was seen.
async fn follow(
    mut watcher: Watcher,
    wish: &Wish,
    printer: &Printer,
    mut asked: mpsc::Receiver<()>,
) -> Result<()> {
    let mut seen: i64 = 0;
    loop {
        let response = tokio::select! {
            response = watcher.next() => response,
            Some(()) = asked.recv() => {
                watcher.request_progress();
                continue;
            }
        };
        let mut response = match response {
            Ok(response) => response,
            Err(error) => return canceled(error, printer),
        };
        if response.events.is_empty() {
            let revision = response.header.map_or(0, |header| header.revision);
            printer.progress(revision)?;
        }
        if wish.until > 0 {
            let revision = |event: &api::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            response
                .events
                .retain(|event| revision(event) <= wish.until);
        }
        if wish.max_events > 0 {
            let left = usize::try_from(wish.max_events - seen).unwrap_or(usize::MAX);
            response.events.truncate(left);
        }
        printer.watch(&response)?;
        for event in &response.events {
            act(&wish.program, &response, event).await?;
        }
        seen += i64::try_from(response.events.len()).unwrap_or(i64::MAX);
        let enough = wish.max_events > 0 && seen >= wish.max_events;
        let far = wish.until > 0 && watcher.next_revision() > wish.until;
        if enough || far {
            return Ok(());
        }
    }
}

/// A watch the server ended: said on stderr, shown in the form asked for, exit 5.
fn canceled(error: Error, printer: &Printer) -> Result<()> {
    let (compact_revision, header) = match &error {
        Error::Compacted {
            compact_revision,
            header,
        } => (*compact_revision, *header),
        Error::WatchCanceled { header, .. } => (0, *header),
        _ => return Err(error.into()),
    };
    eprintln!("watch was canceled ({})", failure::text(&error));
    if !printer.is_simple() {
        let response = api::WatchResponse {
            header,
            canceled: true,
            compact_revision,
            ..Default::default()
        };
        printer.watch(&response)?;
    }
    let next = match compact_revision {
        0 => "kvctl watch --help".to_owned(),
        revision => format!("kvctl watch --rev {revision} ...   # the oldest history there is"),
    };
    Err(Failure::new(code::INTERRUPTED, "watch is canceled by the server").next(next))
}

async fn act(
    program: &[OsString],
    response: &api::WatchResponse,
    event: &api::Event,
) -> Result<()> {
    let Some((name, arguments)) = program.split_first() else {
        return Ok(());
    };
    let kv = event.kv.clone().unwrap_or_default();
    let status = tokio::process::Command::new(name)
        .args(arguments)
        .env(
            "ETCD_WATCH_REVISION",
            response
                .header
                .map_or(0, |header| header.revision)
                .to_string(),
        )
        .env(
            "ETCD_WATCH_EVENT_TYPE",
            golang::quote(output::event_kind(event).as_bytes()),
        )
        .env("ETCD_WATCH_KEY", golang::quote(&kv.key))
        .env("ETCD_WATCH_VALUE", golang::quote(&kv.value))
        .status()
        .await;
    let why = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let shown: Vec<_> = program
        .iter()
        .map(|word| OsStr::to_string_lossy(word))
        .collect();
    eprintln!("command {shown:?} error ({why})");
    Err(Failure::silent(code::ERROR))
}

/// `watch ...` and `progress` lines from stdin; each watch prints as events come.
async fn interactive(client: Client, printer: &Printer, from_variables: &[OsString]) -> Result<()> {
    let mut lines = terminal::lines("watch", true);
    let mut running: tokio::task::JoinSet<Result<()>> = tokio::task::JoinSet::new();
    let mut asks: Vec<mpsc::Sender<()>> = Vec::new();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            Some(ended) = running.join_next() => match ended {
                Ok(Err(failure)) if failure.text().is_empty() => return Err(failure),
                // A watch that ended leaves the others alone.
                _ => continue,
            },
        };
        let Some(line) = line else {
            return Err(Failure::new(
                code::INVALID_INPUT,
                "error reading watch request line: EOF",
            ));
        };
        let words = match words::split(&line) {
            Ok(words) => words,
            Err(error) => return Err(Failure::new(code::INVALID_INPUT, error)),
        };
        match words.first().map(Vec::as_slice) {
            None => eprintln!("Invalid command: {line} (watch and progress supported)"),
            Some(b"watch") if words.len() < 2 && from_variables.is_empty() => {
                eprintln!("Invalid command {line} (command type or key is not provided)");
            }
            Some(b"watch") => {
                let wish = typed(words, from_variables)?;
                let (ask, asked) = mpsc::channel(ASKS);
                asks.push(ask);
                let watcher = client.watch(wish.request.clone());
                let printer = printer.clone();
                running.spawn(async move { follow(watcher, &wish, &printer, asked).await });
            }
            Some(b"progress") => {
                // One of them is enough: the answer speaks of the whole server.
                asks.retain(|ask| !ask.is_closed());
                if let Some(ask) = asks.first() {
                    let _ = ask.try_send(());
                }
            }
            Some(_) => eprintln!("Invalid command {line} (only support watch)"),
        }
    }
}

/// A `watch` line: the flags of the command, and perhaps `-- CMD`.
fn typed(words: Vec<Vec<u8>>, from_variables: &[OsString]) -> Result<Wish> {
    let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
    let behind = words
        .iter()
        .position(|word| word == "--")
        .map(|at| words[at + 1..].to_vec());
    let matches = cli::watch().try_get_matches_from(words).map_err(|error| {
        Failure::usage(
            error
                .render()
                .to_string()
                .trim_start_matches("error: ")
                .trim()
                .to_owned(),
            "watch",
        )
    })?;
    wish(&matches, behind, from_variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, from_variables: &[&str]) -> Result<Wish> {
        let words = words::split(line).expect("words");
        let from_variables: Vec<_> = from_variables.iter().map(OsString::from).collect();
        typed(words, &from_variables)
    }

    #[test]
    fn key_range_and_program_are_told_apart() {
        let wish = read("watch foo bar --rev 5 -- echo hi", &[]).expect("good");
        assert_eq!(
            (&wish.request.key[..], &wish.request.range_end[..]),
            (&b"foo"[..], &b"bar"[..])
        );
        assert_eq!(
            (wish.request.start_revision, wish.program),
            (5, vec!["echo".into(), "hi".into()])
        );
        let wish = read("watch --prefix foo --prev-kv", &[]).expect("good");
        assert_eq!(
            (&wish.request.range_end[..], wish.request.prev_kv),
            (&b"fop"[..], true)
        );
        let wish = read("watch -- echo hi", &["k", "l"]).expect("good");
        assert_eq!(
            (&wish.request.key[..], &wish.request.range_end[..]),
            (&b"k"[..], &b"l"[..])
        );
        assert_eq!(wish.program.len(), 2);
    }

    #[test]
    fn contradictions_are_refused() {
        for (line, variables) in [
            ("watch", &[][..]),
            ("watch foo --", &[]),
            ("watch foo bar --prefix", &[]),
            ("watch foo", &["k"]),
            ("watch foo -- echo", &["k"]),
            ("watch foo --nonsense", &[]),
        ] {
            assert!(read(line, variables).is_err(), "{line}");
        }
    }
}
