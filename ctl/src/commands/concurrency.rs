//! `lock` and `elect`, by the client library's recipes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::ExitStatusExt as _;

use kvnode_client::concurrency::{Election, Lock, Session};
use kvnode_client::{Client, get};

use super::interrupted;
use crate::cli;
use crate::context::Context;
use crate::failure::{Failure, Result, code};
use crate::output::{self, Printer};

/// Time to live of an election's sessions, as etcd's client has it.
const ELECTION_TTL_SECONDS: i64 = 60;

pub async fn lock(context: &Context<'_>) -> Result<()> {
    let words = cli::words_of(context.matches);
    let Some((name, program)) = words.split_first() else {
        return Err(Failure::usage(
            "lock takes a lock name argument and an optional command to execute",
            "lock",
        ));
    };
    let printer = context.printer(output::ALL)?;
    let client = context.patient_client()?;
    let session = Session::new(&client, context.number("ttl")).await?;
    let mut lock = Lock::new(&session, name.as_bytes());
    let held = tokio::select! {
        acquired = lock.acquire() => Some(acquired?),
        () = interrupted() => None,
    };
    let Some(header) = held else {
        session.close().await?;
        return Err(Failure::new(code::ERROR, "context canceled"));
    };
    let result = if program.is_empty() {
        hold(&client, &session, &lock, &printer).await
    } else {
        execute(program, &lock, header.revision).await
    };
    // What happened while it was held weighs more than how it was given up.
    let released = lock.release().await;
    let closed = session.close().await;
    result?;
    released.and(closed).map_err(Failure::from)
}

async fn hold(client: &Client, session: &Session, lock: &Lock, printer: &Printer) -> Result<()> {
    let own = client.range(get(lock.key().clone())).await?;
    if own.kvs.is_empty() {
        return Err(Failure::new(code::ERROR, "lock lost on init"));
    }
    printer.range(&own)?;
    tokio::select! {
        () = interrupted() => Ok(()),
        () = session.expired() => Err(Failure::new(code::ERROR, "session expired")
            .next("kvctl endpoint status --cluster --write-out=table")),
    }
}

/// Runs the program while the lease is renewed beside it.
async fn execute(program: &[OsString], lock: &Lock, revision: i64) -> Result<()> {
    let (name, arguments) = program.split_first().expect("the caller looked");
    let status = tokio::process::Command::new(name)
        .args(arguments)
        .env("ETCD_LOCK_KEY", OsString::from_vec(lock.key().to_vec()))
        .env("ETCD_LOCK_REV", revision.to_string())
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            // A program ended by a signal has no code of its own.
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            let text = match status.signal() {
                Some(signal) => format!("signal: {signal}"),
                None => format!("exit status {}", code.unwrap_or(code::ERROR)),
            };
            Err(Failure::new(code.unwrap_or(u8::MAX), text))
        }
        Err(error) => Err(Failure::new(
            code::ERROR,
            format!("cannot run {}: {error}", name.to_string_lossy()),
        )
        .next(format!("command -v {}", name.to_string_lossy()))),
    }
}

pub async fn elect(context: &Context<'_>) -> Result<()> {
    let words = context.words();
    let listens = context.flag("listen");
    let text = match (words.len(), listens) {
        (1, true) | (2, false) => "",
        (1, false) => "no proposal argument but -l not set",
        (2, true) => "proposal given but -l is set",
        _ => "elect takes one election name argument and an optional proposal argument",
    };
    if !text.is_empty() {
        return Err(Failure::usage(text, "elect"));
    }
    let printer = context.printer(output::ALL)?;
    let client = context.patient_client()?;
    let session = Session::new(&client, ELECTION_TTL_SECONDS).await?;
    let mut election = Election::new(&session, &words[0]);
    if listens {
        let mut observer = election.observe();
        let result = loop {
            tokio::select! {
                leader = observer.next() => match leader {
                    Ok(leader) => printer.range(&leader)?,
                    Err(error) => break Err(Failure::from(error).inside("elect: observer lost: {}")),
                },
                () = interrupted() => break Ok(()),
            }
        };
        session.close().await?;
        return result;
    }
    let elected = tokio::select! {
        elected = election.campaign(words[1].clone()) => elected.map(|()| true),
        () = interrupted() => Ok(false),
    };
    if !elected? {
        session.close().await?;
        return Err(Failure::new(code::ERROR, "context canceled"));
    }
    printer.range(&client.range(get(election.key().clone())).await?)?;
    tokio::select! {
        () = interrupted() => {}
        () = session.expired() => return Err(Failure::new(code::ERROR, "elect: session expired")),
    }
    election.resign().await?;
    session.close().await.map_err(Failure::from)
}
