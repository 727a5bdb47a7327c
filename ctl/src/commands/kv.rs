//! get, put, del, compaction. `txn` uses the same readings of flags and words.

use std::io::IsTerminal as _;
use std::time::Duration;

use bytes::Bytes;
use clap::ArgMatches;
use kvnode_client::api::{self, FROM_KEY};
use kvnode_client::{Client, prefix, prefix_end};

use super::is_serializable;
use crate::cli;
use crate::context::Context;
use crate::failure::{Failure, Result, code};
use crate::output::{self, say_line};
use crate::terminal;

/// Time to change one's mind before a range without `--range` is deleted.
const SECOND_THOUGHT: Duration = Duration::from_secs(2);

pub async fn get(context: &Context<'_>) -> Result<()> {
    let request = range_request(context.matches)?;
    let mut printer = context.printer(output::WITH_LINES)?;
    if context.flag("print-value-only") {
        if !printer.is_simple() {
            return Err(Failure::usage(
                "print-value-only is only for `--write-out=simple`",
                "get",
            ));
        }
        printer.values_only = true;
    }
    printer.count_only = request.count_only;
    let client = context.client()?;
    if context.flag("stream") {
        return printer.range(&client.range_stream(request).await?.collect().await?);
    }
    let page = context.number("page-size");
    if page <= 0 || context.flag("no-paging") || !can_be_paged(&request) {
        return printer.range(&client.range(request).await?);
    }
    pages(
        &client,
        request,
        page,
        |answer| printer.range(answer),
        printer.shows_pairs_alone(),
    )
    .await
}

/// Order by key is the only one in which a range can be cut; limits and filters stay the server's work.
fn can_be_paged(request: &api::RangeRequest) -> bool {
    let plain = api::RangeRequest {
        key: request.key.clone(),
        range_end: request.range_end.clone(),
        revision: request.revision,
        serializable: request.serializable,
        keys_only: request.keys_only,
        ..Default::default()
    };
    !request.range_end.is_empty() && *request == plain
}

/// Reads a range in pieces at one revision. `at_once` shows each piece when it comes, otherwise all of it is
/// shown as the one answer it would have been.
async fn pages(
    client: &Client,
    mut request: api::RangeRequest,
    page: i64,
    show: impl Fn(&api::RangeResponse) -> Result<()>,
    at_once: bool,
) -> Result<()> {
    request.limit = page;
    let mut whole = client.range(request.clone()).await?;
    let mut more = whole.more;
    whole.more = false;
    request.revision = match request.revision {
        0 => whole.header.map_or(0, |header| header.revision),
        given => given,
    };
    while more {
        let Some(last) = whole.kvs.last() else { break };
        request.key = [&last.key[..], b"\0"].concat().into();
        if at_once {
            show(&whole)?;
            whole.kvs.clear();
        }
        let next = client.range(request.clone()).await?;
        more = next.more;
        whole.kvs.extend(next.kvs);
    }
    show(&whole)
}

pub async fn put(context: &Context<'_>) -> Result<()> {
    let request = put_request(context.matches, true)?;
    let printer = context.printer(output::ALL)?;
    printer.put(&context.client()?.put(request).await?)
}

pub async fn del(context: &Context<'_>) -> Result<()> {
    let request = delete_request(context.matches)?;
    let printer = context.printer(output::ALL)?;
    let client = context.client()?;
    if context.flag("dry-run") {
        let count = api::RangeRequest {
            key: request.key,
            range_end: request.range_end,
            count_only: true,
            ..Default::default()
        };
        return say_line(&client.range(count).await?.count.to_string());
    }
    let words = context.words();
    let everything = request.range_end[..] == *FROM_KEY && request.key[..] == *FROM_KEY;
    if everything && !context.flag("yes") {
        if !terminal::is_attended() {
            return Err(Failure::new(
                code::BAD_ARGS,
                "every key would be deleted, and there is nobody to ask; nothing was deleted",
            )
            .next("kvctl del --prefix '' --yes   # or --dry-run, which only counts"));
        }
        if !terminal::confirm("Delete every key?") {
            return Err(Failure::new(code::ERROR, "nothing was deleted")
                .next("kvctl del --dry-run --prefix ''"));
        }
    }
    if words.len() > 1 && !context.flag("range") {
        eprintln!(
            "Warning: keys between {} and {} will be deleted; --range leaves this warning out.",
            crate::golang::quote(&words[0]),
            crate::golang::quote(&words[1])
        );
        if std::io::stderr().is_terminal() {
            eprintln!("Interrupt within 2 seconds to keep them.");
            tokio::time::sleep(SECOND_THOUGHT).await;
        }
    }
    printer.delete(&client.delete_range(request).await?)
}

pub async fn compaction(context: &Context<'_>) -> Result<()> {
    let words = context.texts();
    let [revision] = &words[..] else {
        return Err(Failure::usage(
            "compaction command needs 1 argument",
            "compaction",
        ));
    };
    let revision = revision.parse().map_err(|_| {
        Failure::new(code::ERROR, format!("{revision:?} is no revision"))
            .next("kvctl endpoint status -w json")
    })?;
    let client = context.client()?;
    client
        .compact(api::CompactionRequest {
            revision,
            physical: context.flag("physical"),
        })
        .await?;
    say_line(&format!("compacted revision {revision}"))
}

fn bool_of(matches: &ArgMatches, name: &str) -> bool {
    matches.get_one::<bool>(name).copied().unwrap_or_default()
}

fn number_of(matches: &ArgMatches, name: &str) -> i64 {
    matches.get_one::<i64>(name).copied().unwrap_or_default()
}

fn text_of(matches: &ArgMatches, name: &str) -> String {
    let text = matches.get_one::<std::ffi::OsString>(name);
    text.map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn words_of(matches: &ArgMatches) -> Vec<Bytes> {
    use std::os::unix::ffi::OsStringExt as _;
    cli::words_of(matches)
        .into_iter()
        .map(|word| word.into_vec().into())
        .collect()
}

/// Key and end of `KEY`, `KEY END`, `--prefix KEY`, `--from-key KEY`.
fn span(matches: &ArgMatches, usage: &str) -> Result<(Bytes, Bytes)> {
    let words = words_of(matches);
    let (by_prefix, from_key) = (bool_of(matches, "prefix"), bool_of(matches, "from-key"));
    if by_prefix && from_key {
        return Err(Failure::usage(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
            usage,
        ));
    }
    if words.len() > 1 && (by_prefix || from_key) {
        let text =
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";
        return Err(Failure::usage(text, usage));
    }
    let key = words[0].clone();
    Ok(match words.get(1) {
        Some(end) => (key, end.clone()),
        None if by_prefix => prefix(key),
        None if from_key && key.is_empty() => {
            (Bytes::from_static(FROM_KEY), Bytes::from_static(FROM_KEY))
        }
        None if from_key => (key, Bytes::from_static(FROM_KEY)),
        None => (key, Bytes::new()),
    })
}

/// What `get` asks for.
pub fn range_request(matches: &ArgMatches) -> Result<api::RangeRequest> {
    let words = words_of(matches);
    if words.is_empty() {
        return Err(Failure::usage(
            "get command needs one argument as key and an optional argument as range_end",
            "get",
        ));
    }
    let (keys_only, count_only) = (
        bool_of(matches, "keys-only"),
        bool_of(matches, "count-only"),
    );
    if keys_only && count_only {
        return Err(Failure::usage(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            "get",
        ));
    }
    let serializable = is_serializable(&text_of(matches, "consistency"))?;
    let (key, range_end) = span(matches, "get")?;
    let order = text_of(matches, "order");
    let sort_order = match order.to_uppercase().as_str() {
        "" => api::SortOrder::None,
        "ASCEND" => api::SortOrder::Ascend,
        "DESCEND" => api::SortOrder::Descend,
        _ => {
            return Err(
                Failure::new(code::BAD_FEATURE, format!("bad sort order {order}"))
                    .next("--order=ASCEND|DESCEND"),
            );
        }
    };
    let target = text_of(matches, "sort-by");
    let sort_target = match target.to_uppercase().as_str() {
        "" | "KEY" => api::SortTarget::Key,
        "CREATE" => api::SortTarget::Create,
        "MODIFY" => api::SortTarget::Mod,
        "VALUE" => api::SortTarget::Value,
        "VERSION" => api::SortTarget::Version,
        _ => {
            return Err(
                Failure::new(code::BAD_FEATURE, format!("bad sort target {target}"))
                    .next("--sort-by=CREATE|KEY|MODIFY|VALUE|VERSION"),
            );
        }
    };
    // Ascending by key is the order answers come in anyway.
    let natural = sort_target == api::SortTarget::Key && sort_order == api::SortOrder::Ascend;
    let bounds = |least: &str, most: &str, names: (&str, &str)| {
        let (min, max) = (
            number_of(matches, least).max(0),
            number_of(matches, most).max(0),
        );
        if max > 0 && min > max {
            return Err(Failure::new(
                code::BAD_FEATURE,
                format!("{}(={min}) > {}(={max})", names.0, names.1),
            ));
        }
        Ok((min, max))
    };
    let (min_create, max_create) = bounds(
        "min-create-rev",
        "max-create-rev",
        ("getMinCreateRev", "getMaxCreateRev"),
    )?;
    let (min_mod, max_mod) = bounds(
        "min-mod-rev",
        "max-mod-rev",
        ("getMinModRev", "getMaxModRev"),
    )?;
    Ok(api::RangeRequest {
        key,
        range_end,
        limit: number_of(matches, "limit"),
        revision: number_of(matches, "rev").max(0),
        sort_order: if natural {
            api::SortOrder::None
        } else {
            sort_order
        } as i32,
        sort_target: sort_target as i32,
        serializable,
        keys_only,
        count_only,
        min_mod_revision: min_mod,
        max_mod_revision: max_mod,
        min_create_revision: min_create,
        max_create_revision: max_create,
    })
}

/// What `put` asks for; without value it may come from stdin.
pub fn put_request(matches: &ArgMatches, stdin: bool) -> Result<api::PutRequest> {
    let needs = || {
        Failure::usage(
            "put command needs 1 argument and input from stdin or 2 arguments",
            "put",
        )
    };
    let words = words_of(matches);
    let Some(key) = words.first() else {
        return Err(needs());
    };
    let ignore_value = bool_of(matches, "ignore-value");
    if ignore_value && words.len() > 1 {
        return Err(Failure::usage(
            "put command needs only 1 argument when 'ignore-value' is set",
            "put",
        ));
    }
    let value = match words.get(1) {
        Some(value) => value.clone(),
        None if ignore_value => Bytes::new(),
        None if stdin => terminal::everything()
            .ok()
            .filter(|bytes| !bytes.is_empty())
            .ok_or_else(needs)?
            .into(),
        None => return Err(needs()),
    };
    let lease = text_of(matches, "lease");
    let lease = i64::from_str_radix(&lease, 16).map_err(|_| {
        Failure::usage(
            format!("bad lease ID ({lease:?}), expecting ID in Hex"),
            "put",
        )
    })?;
    Ok(api::PutRequest {
        key: key.clone(),
        value,
        lease,
        prev_kv: bool_of(matches, "prev-kv"),
        ignore_value,
        ignore_lease: bool_of(matches, "ignore-lease"),
    })
}

/// What `del` asks for.
pub fn delete_request(matches: &ArgMatches) -> Result<api::DeleteRangeRequest> {
    if !(1..=2).contains(&words_of(matches).len()) {
        return Err(Failure::usage(
            "del command needs one argument as key and an optional argument as range_end",
            "del",
        ));
    }
    let (key, range_end) = span(matches, "del")?;
    Ok(api::DeleteRangeRequest {
        key,
        range_end,
        prev_kv: bool_of(matches, "prev-kv"),
    })
}

/// Key and end of a permission, whose empty key means every key.
pub fn permission_span(
    context: &Context<'_>,
    words: &[Bytes],
    usage: &str,
) -> Result<(Bytes, Bytes)> {
    let (by_prefix, from_key) = (context.flag("prefix"), context.flag("from-key"));
    if by_prefix && from_key {
        return Err(Failure::usage(
            "--from-key and --prefix flags are mutually exclusive",
            usage,
        ));
    }
    let all = Bytes::from_static(FROM_KEY);
    let key = words[0].clone();
    if key.is_empty() {
        let end = if by_prefix || from_key {
            all.clone()
        } else {
            Bytes::new()
        };
        return Ok((all, end));
    }
    match words.get(1) {
        Some(_) if by_prefix => Err(Failure::usage(
            "unexpected endkey argument with --prefix flag",
            usage,
        )),
        Some(_) if from_key => Err(Failure::usage(
            "unexpected endkey argument with --from-key flag",
            usage,
        )),
        Some(end) => Ok((key, end.clone())),
        None if by_prefix => {
            let end = prefix_end(&key);
            Ok((key, end))
        }
        None if from_key => Ok((key, all)),
        None => Ok((key, Bytes::new())),
    }
}
