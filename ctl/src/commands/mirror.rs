//! `make-mirror`: copies keys to another cluster and follows their changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvnode_client::api::request_op::Request;
use kvnode_client::{Client, Config, Tls, api, prefix, put};

use crate::context::Context;
use crate::failure::{Failure, Result, code};
use crate::output::say_line;
use crate::settings::credentials;

/// Pause between two counts.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// Keys read at a time in the first copy.
const PAGE: i64 = 1000;

/// Ends only with an error, as a mirror never is complete.
pub async fn run(context: &Context<'_>) -> Result<()> {
    let words = context.texts();
    let [destination] = &words[..] else {
        return Err(Failure::usage(
            "make-mirror takes one destination argument",
            "make-mirror",
        ));
    };
    let source_prefix = context.text("prefix");
    let dest_prefix = context.text("dest-prefix");
    let bare = context.flag("no-dest-prefix");
    if bare && !dest_prefix.is_empty() {
        let text =
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one";
        return Err(Failure::usage(text, "make-mirror"));
    }
    let source = context.patient_client()?;
    let target = destination_client(context, destination)?;
    let names = Names {
        from: source_prefix.clone().into(),
        to: match (bare, dest_prefix.is_empty()) {
            (true, _) => Bytes::new(),
            (false, true) => source_prefix.clone().into(),
            (false, false) => dest_prefix.into(),
        },
    };
    let copied = Arc::new(AtomicI64::new(0));
    let counted = Arc::clone(&copied);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(COUNT_EVERY).await;
            if say_line(&counted.load(Ordering::Relaxed).to_string()).is_err() {
                return;
            }
        }
    });
    let (key, range_end) = prefix(source_prefix);
    let given = context.number("rev");
    let start = match given > 1 {
        true => given,
        false => copy(&source, &target, &names, (&key, &range_end), &copied).await? + 1,
    };
    let most = usize::try_from(context.number("max-txn-ops"))
        .unwrap_or(128)
        .max(1);
    let mut watcher = source.watch(api::WatchCreateRequest {
        key,
        range_end,
        start_revision: start,
        ..Default::default()
    });
    loop {
        let response = watcher.next().await?;
        follow(&target, &names, response.events, most, &copied).await?;
    }
}

/// How keys are called there.
struct Names {
    from: Bytes,
    to: Bytes,
}

impl Names {
    fn there(&self, key: &[u8]) -> Bytes {
        let rest = key.strip_prefix(&self.from[..]).unwrap_or(key);
        [&self.to[..], rest].concat().into()
    }
}

/// Copies what is there at one revision, which is returned.
async fn copy(
    source: &Client,
    target: &Client,
    names: &Names,
    (key, range_end): (&Bytes, &Bytes),
    copied: &AtomicI64,
) -> Result<i64> {
    let mut request = api::RangeRequest {
        key: key.clone(),
        range_end: range_end.clone(),
        limit: PAGE,
        ..Default::default()
    };
    loop {
        let answer = source.range(request.clone()).await?;
        if request.revision == 0 {
            request.revision = answer.header.map_or(0, |header| header.revision);
        }
        for kv in &answer.kvs {
            target
                .put(put(names.there(&kv.key), kv.value.clone()))
                .await?;
            copied.fetch_add(1, Ordering::Relaxed);
        }
        match answer.kvs.last() {
            Some(last) if answer.more => request.key = [&last.key[..], b"\0"].concat().into(),
            _ => return Ok(request.revision),
        }
    }
}

/// One transaction per revision, or several if it has too many changes for one.
async fn follow(
    target: &Client,
    names: &Names,
    events: Vec<api::Event>,
    most: usize,
    copied: &AtomicI64,
) -> Result<()> {
    let mut batch: Vec<api::RequestOp> = Vec::new();
    let mut revision = 0;
    for event in events {
        let kv = event.kv.unwrap_or_default();
        if !batch.is_empty() && (kv.mod_revision != revision || batch.len() == most) {
            commit(target, &mut batch).await?;
        }
        revision = kv.mod_revision;
        let key = names.there(&kv.key);
        let request = if event.r#type == api::EventType::Delete as i32 {
            Request::RequestDeleteRange(api::DeleteRangeRequest {
                key,
                ..Default::default()
            })
        } else {
            Request::RequestPut(put(key, kv.value))
        };
        batch.push(api::RequestOp {
            request: Some(request),
        });
        copied.fetch_add(1, Ordering::Relaxed);
    }
    if batch.is_empty() {
        Ok(())
    } else {
        commit(target, &mut batch).await
    }
}

async fn commit(target: &Client, batch: &mut Vec<api::RequestOp>) -> Result<()> {
    let success = std::mem::take(batch);
    target
        .txn(api::TxnRequest {
            success,
            ..Default::default()
        })
        .await?;
    Ok(())
}

fn destination_client(context: &Context<'_>, destination: &str) -> Result<Client> {
    let file = |name: &str| {
        Some(context.text(name))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    };
    let tls = Tls {
        cert_file: file("dest-cert"),
        key_file: file("dest-key"),
        ca_file: file("dest-cacert"),
        ..Tls::default()
    };
    let mut config = Config::new([destination]);
    config.call_timeout = None;
    config.bare_endpoints_use_tls =
        tls != Tls::default() || !context.flag("dest-insecure-transport");
    config.tls = Some(tls);
    let user = context.text("dest-user");
    if !user.is_empty() {
        let asked = credentials(
            &user,
            &context.text("dest-password"),
            "Destination Password: ",
        )?;
        config.credentials = Some(asked);
    }
    Client::new(config).map_err(|error| Failure::from(error).with_code(code::BAD_ARGS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_exchanged_at_the_front_only() {
        let names = |from: &'static str, to: &'static str| Names {
            from: from.into(),
            to: to.into(),
        };
        assert_eq!(names("a/", "b/").there(b"a/x/a/")[..], *b"b/x/a/");
        assert_eq!(names("a/", "").there(b"a/x")[..], *b"x");
        assert_eq!(names("", "b/").there(b"x")[..], *b"b/x");
    }
}
