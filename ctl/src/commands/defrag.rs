//! `defrag`: one member after another, so that never more than one is busy; with `--cluster` the leader comes last, and others lead
//! meanwhile.

use std::time::{Duration, Instant};

use kvnode_client::Client;
use kvnode_client::api::StatusResponse;

use super::maintenance::leads;
use crate::context::Context;
use crate::failure::{self, Failure, Result, code};
use crate::golang;
use crate::output::say_line;
use crate::terminal;

/// Pause between two looks at a member that has to catch up.
const LOOK: Duration = Duration::from_millis(200);
/// Entries a member may be behind and count as caught up: what a busy cluster always has on the way.
const LAG_MAX: u64 = 1000;

pub async fn run(context: &Context<'_>) -> Result<()> {
    let usage = |text: String| Failure::usage(text, "defrag");
    let least_free = context.number("min-free-percent");
    if !(0..=100).contains(&least_free) {
        return Err(usage(format!(
            "--min-free-percent={least_free}: expected 0 to 100"
        )));
    }
    let wait = golang::parse_duration(&context.text("wait")).map_err(usage)?;
    let client = context.client()?;
    let mut failures = false;
    let mut endpoints = context.endpoints().await?;
    let cluster = context.flag("cluster");
    if cluster {
        endpoints = leader_last(&client, endpoints).await;
    }
    for (number, endpoint) in endpoints.iter().enumerate() {
        if least_free > 0
            && let Some(free) = free_percent(&client, endpoint).await
            && free < least_free
        {
            eprintln!("{endpoint} is left as it is: {free}% of its space is not in use");
            continue;
        }
        let last = number + 1 == endpoints.len();
        if cluster && last && context.flag("move-leader") {
            step_down(&client, endpoint, &endpoints[..number]).await;
        }
        let begun = Instant::now();
        let busy = terminal::busy(format!("{endpoint} gives its unused space back"));
        let result = match client.only(endpoint) {
            Ok(client) => client.defragment().await,
            Err(error) => Err(error),
        };
        drop(busy);
        let took = golang::duration(begun.elapsed());
        match result {
            Ok(_) => {
                say_line(&format!(
                    "Finished defragmenting etcd member[{endpoint}]. took {took}"
                ))?;
                if !last && !wait.is_zero() {
                    caught_up(&client, endpoint, &endpoints, wait).await?;
                }
            }
            Err(error) => {
                failures = true;
                eprintln!(
                    "Failed to defragment etcd member[{endpoint}]. took {took}. ({})",
                    failure::text(&error)
                );
                for tried in error.attempts() {
                    eprintln!("tried: {tried}");
                }
            }
        }
    }
    if failures {
        eprintln!("next:  kvctl endpoint status --cluster --write-out=table");
        Err(Failure::silent(code::ERROR))
    } else {
        Ok(())
    }
}

async fn status(client: &Client, endpoint: &str) -> Option<StatusResponse> {
    client.only(endpoint).ok()?.status().await.ok()
}

/// Who leads is busy for all, so its turn comes when the others are done.
async fn leader_last(client: &Client, endpoints: Vec<String>) -> Vec<String> {
    let mut leading = Vec::new();
    for endpoint in endpoints {
        let leads = status(client, &endpoint).await.is_some_and(|s| leads(&s));
        leading.push((leads, endpoint));
    }
    leading.sort_by_key(|(leads, _)| *leads);
    leading.into_iter().map(|(_, endpoint)| endpoint).collect()
}

/// The part of a member's space that is not in use; `None` if it does not tell.
async fn free_percent(client: &Client, endpoint: &str) -> Option<i64> {
    let status = status(client, endpoint).await?;
    let free = status.db_size.saturating_sub(status.db_size_in_use);
    free.max(0).saturating_mul(100).checked_div(status.db_size)
}

/// If the member at `endpoint` leads, the most advanced voter of the others leads from now on. Failing that it stays as it is, with a word.
async fn step_down(client: &Client, endpoint: &str, others: &[String]) {
    if !status(client, endpoint).await.is_some_and(|s| leads(&s)) {
        return;
    }
    let mut best: Option<(u64, u64, &String)> = None;
    for other in others {
        let Some(status) = status(client, other).await else {
            continue;
        };
        let id = status.header.map_or(0, |header| header.member_id);
        let index = status.raft_applied_index;
        if !status.is_learner && id != 0 && best.is_none_or(|(most, ..)| most < index) {
            best = Some((index, id, other));
        }
    }
    let Some((_, target, other)) = best else {
        return;
    };
    let moved = match client.only(endpoint) {
        Ok(client) => client.move_leader(target).await,
        Err(error) => Err(error),
    };
    match moved {
        Ok(_) => eprintln!("leadership goes from {endpoint} to {other}"),
        Err(error) => eprintln!("{endpoint} goes on leading: {}", failure::text(&error)),
    }
}

/// Waits until the member at `endpoint` answers and has applied what the others have.
async fn caught_up(
    client: &Client,
    endpoint: &str,
    endpoints: &[String],
    wait: Duration,
) -> Result<()> {
    let begun = Instant::now();
    let _busy = terminal::busy(format!("{endpoint} catches up"));
    loop {
        let mut most = 0;
        for other in endpoints.iter().filter(|other| *other != endpoint) {
            let index = status(client, other).await.map_or(0, |s| s.raft_index);
            most = most.max(index);
        }
        let own = status(client, endpoint).await;
        let own = own.map(|status| status.raft_applied_index);
        if own.is_some_and(|own| own.saturating_add(LAG_MAX) >= most) {
            return Ok(());
        }
        if begun.elapsed() > wait {
            let what = match own {
                Some(own) => format!("{endpoint} is {} entries behind the others", most - own),
                None => format!("{endpoint} does not answer"),
            };
            return Err(Failure::new(
                code::ERROR,
                format!(
                    "{what} {} after its turn; the rest is left as it is",
                    golang::duration(wait)
                ),
            )
            .next("kvctl status"));
        }
        tokio::time::sleep(LOOK).await;
    }
}
