//! One file per command or family of commands. This one only finds the right one.

mod alarms;
mod auth;
mod bench;
mod cluster;
mod concurrency;
mod defrag;
mod du;
mod history;
mod kv;
mod lease;
mod maintenance;
pub mod manual;
mod mirror;
mod overview;
mod replace;
mod snapshot;
mod start;
mod top;
mod txn;
mod watch;

use std::ffi::OsString;

use clap::ArgMatches;

use crate::context::Context;
use crate::failure::{Failure, Result, code};

/// Runs what the command line asks for. `arguments` is the raw line: `watch` needs to know where its `--` was.
pub async fn run(matches: &ArgMatches, arguments: &[OsString]) -> Result<()> {
    let (path, inner) = innermost(matches);
    if let Some(done) = manual::run(&path, inner) {
        return done;
    }
    let context = Context::new(inner)?;
    let context = &context;
    match path.as_str() {
        "get" => kv::get(context).await,
        "put" => kv::put(context).await,
        "del" => kv::del(context).await,
        "compaction" => kv::compaction(context).await,
        "txn" => txn::run(context).await,
        "watch" => watch::run(context, arguments).await,
        "lease grant" => lease::grant(context).await,
        "lease revoke" => lease::revoke(context).await,
        "lease timetolive" => lease::time_to_live(context).await,
        "lease list" => lease::list(context).await,
        "lease keep-alive" => lease::keep_alive(context).await,
        "alarm list" => alarms::list(context).await,
        "alarm disarm" => alarms::disarm(context).await,
        "defrag" => defrag::run(context).await,
        "endpoint health" => maintenance::health(context).await,
        "endpoint status" => maintenance::status(context).await,
        "endpoint hashkv" => maintenance::hash_kv(context).await,
        "move-leader" => maintenance::move_leader(context).await,
        "downgrade validate" => maintenance::downgrade(context, maintenance::VALIDATE).await,
        "downgrade enable" => maintenance::downgrade(context, maintenance::ENABLE).await,
        "downgrade cancel" => maintenance::downgrade(context, maintenance::CANCEL).await,
        "member list" => cluster::list(context).await,
        "member add" => cluster::add(context).await,
        "member remove" => cluster::remove(context).await,
        "member update" => cluster::update(context).await,
        "member promote" => cluster::promote(context).await,
        "member replace" => replace::run(context).await,
        "snapshot save" => snapshot::save(context).await,
        "lock" => concurrency::lock(context).await,
        "elect" => concurrency::elect(context).await,
        "auth enable" => auth::enable(context).await,
        "auth disable" => auth::disable(context).await,
        "auth status" => auth::status(context).await,
        "user add" => auth::user_add(context).await,
        "user delete" => auth::user_delete(context).await,
        "user get" => auth::user_get(context).await,
        "user list" => auth::user_list(context).await,
        "user passwd" => auth::user_passwd(context).await,
        "user grant-role" => auth::user_grant_role(context).await,
        "user revoke-role" => auth::user_revoke_role(context).await,
        "role add" => auth::role_add(context).await,
        "role delete" => auth::role_delete(context).await,
        "role get" => auth::role_get(context).await,
        "role list" => auth::role_list(context).await,
        "role grant-permission" => auth::role_grant(context).await,
        "role revoke-permission" => auth::role_revoke(context).await,
        "make-mirror" => mirror::run(context).await,
        "check perf" => bench::perf(context).await,
        "check datascale" => bench::datascale(context).await,
        "du" => du::run(context).await,
        "history" => history::run(context).await,
        "status" => overview::run(context).await,
        "top" => top::run(context).await,
        other => Err(Failure::new(
            code::ERROR,
            format!("unknown command {other:?} for \"kvctl\""),
        )
        .next("kvctl --help")),
    }
}

/// The command's whole name, and its matches.
fn innermost(matches: &ArgMatches) -> (String, &ArgMatches) {
    let mut path = Vec::new();
    let mut inner = matches;
    while let Some((name, next)) = inner.subcommand() {
        path.push(name);
        inner = next;
    }
    (path.join(" "), inner)
}

/// A number in hexadecimal, as leases and members are named.
fn hex<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>, what: &str, usage: &str) -> Result<T> {
    parse(text)
        .ok_or_else(|| Failure::usage(format!("bad {what} ({text:?}), expecting ID in Hex"), usage))
}

/// A lease's id.
fn lease_id(text: &str, usage: &str) -> Result<i64> {
    hex(
        text,
        |text| i64::from_str_radix(text, 16).ok(),
        "lease ID arg",
        usage,
    )
}

/// A member's id.
fn member_id(text: &str, usage: &str) -> Result<u64> {
    hex(
        text,
        |text| u64::from_str_radix(text, 16).ok(),
        "member ID arg",
        usage,
    )
}

/// `l` or `s`.
fn is_serializable(text: &str) -> Result<bool> {
    match text {
        "s" => Ok(true),
        "l" => Ok(false),
        other => Err(Failure::new(
            code::BAD_FEATURE,
            format!("unknown consistency flag {other:?}"),
        )
        .next("--consistency=l|s")),
    }
}

/// Returns at SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let both = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    match both {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Then signals end the process as they always do.
        _ => std::future::pending().await,
    }
}
