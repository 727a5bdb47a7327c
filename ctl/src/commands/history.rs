//! `history`: the versions of a key that the store still has, oldest first.
//!
//! A watch from the oldest revision there is tells them all, deletions and earlier lives of the key included; the one
//! that was alive at the compaction is read. Versions are shown as they come, so memory does not grow with them.

use std::time::Duration;

use kvnode_client::api::event::EventType;
use kvnode_client::{Client, Error, api, get};

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{Format, Object, Printer, event_kind, say};

/// How often the server is asked whether that was all.
const ASK_EVERY: Duration = Duration::from_millis(50);

pub async fn run(context: &Context<'_>) -> Result<()> {
    let words = context.words();
    let [key] = &words[..] else {
        return Err(Failure::usage(
            "history command needs one argument as key",
            "history",
        ));
    };
    let printer = context.printer(&[Format::Simple, Format::Json])?;
    let client = context.patient_client()?;
    let now = client.range(get(key.clone())).await?;
    let now = now.header.map_or(0, |header| header.revision);
    // A compaction may come while we read: then again, from what it left.
    let mut from = 1;
    let mut shown = 0;
    loop {
        if from > 1 {
            eprintln!("compacted at revision {from}: what was before is gone");
            let request = api::RangeRequest {
                revision: from,
                ..get(key.clone())
            };
            match client.range(request).await {
                Ok(answer) => {
                    for kv in answer.kvs {
                        let event = api::Event {
                            kv: Some(kv),
                            ..Default::default()
                        };
                        show(&printer, &event, &mut shown)?;
                    }
                }
                // The watch says where to go on.
                Err(error) if error.is(&api::Status::compacted()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match follow(&client, key, from, now, &printer, &mut shown).await? {
            None => return Ok(()),
            Some(compacted) => from = compacted,
        }
    }
}

/// Shows what happened from a revision to another; if the first is gone, the oldest there is.
async fn follow(
    client: &Client,
    key: &bytes::Bytes,
    from: i64,
    to: i64,
    printer: &Printer,
    shown: &mut i64,
) -> Result<Option<i64>> {
    if from > to {
        return Ok(None);
    }
    let mut watcher = client.watch(api::WatchCreateRequest {
        key: key.clone(),
        start_revision: from,
        ..Default::default()
    });
    let mut asking = tokio::time::interval(ASK_EVERY);
    while watcher.next_revision() <= to {
        let answer = tokio::select! {
            answer = watcher.next() => answer,
            _ = asking.tick() => {
                watcher.request_progress();
                continue;
            }
        };
        match answer {
            Ok(answer) => {
                let revision =
                    |event: &api::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                for event in answer.events.iter().filter(|event| revision(event) <= to) {
                    show(printer, event, shown)?;
                }
            }
            Err(Error::Compacted {
                compact_revision, ..
            }) if compact_revision > from => return Ok(Some(compact_revision)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Shows a version once.
fn show(printer: &Printer, event: &api::Event, shown: &mut i64) -> Result<()> {
    let kv = event.kv.clone().unwrap_or_default();
    if kv.mod_revision <= *shown {
        return Ok(());
    }
    *shown = kv.mod_revision;
    let deleted = event.r#type == EventType::Delete as i32;
    if !printer.is_simple() {
        let object = Object::new()
            .number("mod_revision", kv.mod_revision)
            .text("type", event_kind(event))
            .number_if("create_revision", kv.create_revision)
            .number_if("version", kv.version)
            .number_if("lease", kv.lease)
            .bytes_if("value", &kv.value);
        return say(object.end() + "\n");
    }
    let mut line = format!("revision {} {}", kv.mod_revision, event_kind(event));
    if !deleted {
        line.push_str(&format!(" version {}", kv.version));
    }
    if kv.lease != 0 {
        line.push_str(&format!(" lease {:016x}", kv.lease));
    }
    line.push('\n');
    let mut out = line.into_bytes();
    if !deleted {
        printer.line(&kv.value, &mut out);
    }
    say(out)
}
