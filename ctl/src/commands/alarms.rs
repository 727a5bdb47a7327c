//! Alarms that are on, how full the members are that raised them, and what to do about it.

use kvnode_client::Client;
use kvnode_client::api::{AlarmResponse, AlarmType};

use super::overview;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;

pub async fn list(context: &Context<'_>) -> Result<()> {
    if !context.words().is_empty() {
        return Err(Failure::usage(
            "alarm list command accepts no arguments",
            "alarm list",
        ));
    }
    let printer = context.printer(output::ALL)?;
    let client = context.client()?;
    let answer = client.alarms().await?;
    printer.alarms(&answer)?;
    if printer.is_simple() {
        for line in advice(&client, &answer).await {
            eprintln!("{line}");
        }
    }
    Ok(())
}

/// For people: which member that is, how full it is, and what to type. A member that cannot be asked is only named.
async fn advice(client: &Client, answer: &AlarmResponse) -> Vec<String> {
    let mut lines = Vec::new();
    if answer.alarms.is_empty() {
        return lines;
    }
    let members = client.member_list(false).await;
    let members = members.map(|list| list.members).unwrap_or_default();
    for alarm in &answer.alarms {
        let id = alarm.member_id;
        let member = members.iter().find(|member| member.id == id);
        let name = match member.map(|member| member.name.as_str()) {
            None | Some("") => format!("{id:x}"),
            Some(name) => format!("{id:x} ({name})"),
        };
        let url = member.and_then(|member| member.client_urls.first());
        let status = match url.map(|url| client.only(url)) {
            Some(Ok(client)) => client.status().await.ok(),
            _ => None,
        };
        let kind = overview::kind(alarm);
        lines.push(match status {
            Some(status) => format!("{kind} at member {name}: {}", overview::used(&status)),
            None => format!("{kind} at member {name}"),
        });
    }
    let is = |kind: AlarmType| {
        let mut alarms = answer.alarms.iter();
        alarms.any(|alarm| alarm.alarm == kind as i32)
    };
    if is(AlarmType::Corrupt) {
        lines.push(
            "next:  kvctl endpoint hashkv --cluster   # which member differs; there: kvutil data resync --live --data-dir DIR"
                .to_owned(),
        );
    }
    if is(AlarmType::Nospace) {
        lines.push(
            "next:  kvctl compaction REVISION && kvctl defrag --cluster   # then: kvctl alarm disarm".to_owned(),
        );
    }
    lines
}

pub async fn disarm(context: &Context<'_>) -> Result<()> {
    if !context.words().is_empty() {
        return Err(Failure::usage(
            "alarm disarm command accepts no arguments",
            "alarm disarm",
        ));
    }
    let printer = context.printer(output::ALL)?;
    let client = context.client()?;
    // One request per alarm; what each one ended is shown together, without a header as it is several answers.
    let mut ended = AlarmResponse::default();
    for alarm in client.alarms().await?.alarms {
        let kind = AlarmType::try_from(alarm.alarm).unwrap_or(AlarmType::None);
        let answer = client.alarm_disarm(alarm.member_id, kind).await?;
        ended.alarms.extend(answer.alarms);
    }
    printer.alarms(&ended)
}
