//! Leases.

use kvnode_client::Error;

use super::lease_id;
use crate::context::Context;
use crate::failure::{Failure, Result, code};
use crate::output::{self, say_line};

/// Every failure but a wrong argument is etcdctl's "bad connection" here.
fn failed(error: Error) -> Failure {
    Failure::from(error).with_code(code::BAD_CONNECTION)
}

fn one_word(context: &Context<'_>, complaint: &str, usage: &str) -> Result<String> {
    let mut words = context.texts();
    match words.len() {
        1 => Ok(words.remove(0)),
        _ => Err(Failure::usage(complaint, usage)),
    }
}

pub async fn grant(context: &Context<'_>) -> Result<()> {
    let ttl = one_word(
        context,
        "lease grant command needs TTL argument",
        "lease grant",
    )?;
    let ttl = ttl.parse().map_err(|_| {
        Failure::usage(
            format!("bad TTL ({ttl:?}), expecting seconds"),
            "lease grant",
        )
    })?;
    let printer = context.printer(output::ALL)?;
    let answer = context.client()?.lease_grant(ttl, 0).await;
    let answer =
        answer.map_err(|error| Failure::from(error).inside("failed to grant lease ({})"))?;
    printer.lease_granted(&answer)
}

pub async fn revoke(context: &Context<'_>) -> Result<()> {
    let id = one_word(
        context,
        "lease revoke command needs 1 argument",
        "lease revoke",
    )?;
    let id = lease_id(&id, "lease revoke")?;
    let printer = context.printer(output::NO_PROTOBUF)?;
    let answer = context.client()?.lease_revoke(id).await;
    let answer =
        answer.map_err(|error| Failure::from(error).inside("failed to revoke lease ({})"))?;
    printer.lease_revoked(id, &answer)
}

pub async fn time_to_live(context: &Context<'_>) -> Result<()> {
    let id = one_word(
        context,
        "lease timetolive command needs lease ID as argument",
        "lease timetolive",
    )?;
    let id = lease_id(&id, "lease timetolive")?;
    let keys = context.flag("keys");
    let printer = context.printer(output::ALL)?;
    let answer = context
        .patient_client()?
        .lease_time_to_live(id, keys)
        .await
        .map_err(failed)?;
    printer.lease_time_to_live(&answer, keys)
}

pub async fn list(context: &Context<'_>) -> Result<()> {
    let printer = context.printer(output::ALL)?;
    printer.leases(&context.patient_client()?.leases().await.map_err(failed)?)
}

pub async fn keep_alive(context: &Context<'_>) -> Result<()> {
    let id = one_word(
        context,
        "lease keep-alive command needs lease ID as argument",
        "lease keep-alive",
    )?;
    let id = lease_id(&id, "lease keep-alive")?;
    let printer = context.printer(output::ALL)?;
    let client = context.patient_client()?;
    if context.flag("once") {
        return printer.lease_renewed(&client.lease_keep_alive_once(id).await.map_err(failed)?);
    }
    let mut keeper = client.lease_keep_alive(id);
    loop {
        match keeper.next().await {
            Ok(Some(answer)) => printer.lease_renewed(&answer)?,
            Ok(None) | Err(Error::SessionExpired) => break,
            Err(error) => return Err(failed(error)),
        }
    }
    match printer.is_simple() {
        true => say_line(&format!("lease {id:016x} expired or revoked.")),
        false => Ok(()),
    }
}
