//! Endpoints, leadership, downgrades.

use std::time::Instant;

use kvnode_client::api::downgrade_request::DowngradeAction;
use kvnode_client::api::{AlarmType, Status, StatusResponse};
use kvnode_client::{Client, get};

use super::member_id;
use crate::context::{self, Context};
use crate::failure::{self, Failure, Result, code};
use crate::output::{self, Format, Hash, Health, State};
use crate::settings::Settings;

pub async fn health(context: &Context<'_>) -> Result<()> {
    let printer = context.printer(output::LISTS)?;
    let mut asking = tokio::task::JoinSet::new();
    for (index, endpoint) in context.endpoints().await?.into_iter().enumerate() {
        let settings = context.settings.clone();
        asking.spawn(async move { (index, health_of(endpoint, &settings).await) });
    }
    let mut list = Vec::new();
    while let Some(asked) = asking.join_next().await {
        list.extend(asked.ok());
    }
    // In the order given, whoever was faster.
    list.sort_by_key(|(index, _)| *index);
    let list: Vec<Health> = list.into_iter().map(|(_, health)| health).collect();
    printer.health(&list)?;
    if list.iter().all(Health::is_well) {
        return Ok(());
    }
    Err(Failure::new(code::ERROR, "unhealthy cluster")
        .next("kvctl endpoint status --cluster --write-out=table"))
}

async fn health_of(endpoint: String, settings: &Settings) -> Health {
    let begun = Instant::now();
    let mut health = Health {
        endpoint,
        took: begun.elapsed(),
        error: String::new(),
    };
    let client = match context::client(settings).map(|client| client.only(&health.endpoint)) {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => {
            health.error = error.to_string();
            return health;
        }
        Err(failure) => {
            health.error = failure.text().to_owned();
            return health;
        }
    };
    // Any key: whoever answers a linearizable read has a leader and a quorum.
    let asked = client.range(get("health")).await;
    health.took = begun.elapsed();
    match asked {
        Ok(_) => {}
        // Permissions are looked at after the quorum was asked.
        Err(error) if error.is(&Status::permission_denied()) => {}
        Err(error) => {
            health.error = failure::text(&error);
            for tried in error.attempts() {
                health.error = format!("{} [{tried}]", health.error);
            }
            return health;
        }
    }
    match client.alarms().await {
        Ok(answer) if answer.alarms.is_empty() => {}
        Ok(answer) => {
            health.error = "Active Alarm(s): ".to_owned();
            for alarm in answer.alarms {
                health
                    .error
                    .push_str(match AlarmType::try_from(alarm.alarm) {
                        Ok(AlarmType::Nospace) => "NOSPACE ",
                        Ok(AlarmType::Corrupt) => "CORRUPT ",
                        _ => "UNKNOWN ",
                    });
            }
        }
        Err(_) => health.error = "Unable to fetch the alarm list".to_owned(),
    }
    health
}

pub async fn status(context: &Context<'_>) -> Result<()> {
    let printer = context.printer(output::LISTS)?;
    let client = context.client()?;
    let mut list = Vec::new();
    let mut last = None;
    for endpoint in context.endpoints().await? {
        let asked = match client.only(&endpoint) {
            Ok(client) => client.status().await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(status) => list.push(State { endpoint, status }),
            Err(error) => {
                eprintln!(
                    "Failed to get the status of endpoint {endpoint} ({})",
                    failure::text(&error)
                );
                last = Some(error);
            }
        }
    }
    printer.states(&list)?;
    match last {
        None => Ok(()),
        Some(error) => {
            error
                .attempts()
                .iter()
                .for_each(|line| eprintln!("tried: {line}"));
            Err(Failure::silent(code::ERROR))
        }
    }
}

pub async fn hash_kv(context: &Context<'_>) -> Result<()> {
    let printer = context.printer(output::LISTS)?;
    let client = context.client()?;
    let revision = context.number("rev");
    let mut list = Vec::new();
    let mut last = None;
    for endpoint in context.endpoints().await? {
        let asked = match client.only(&endpoint) {
            Ok(client) => client.hash_kv(revision).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(answer) => list.push(Hash { endpoint, answer }),
            Err(error) => {
                eprintln!(
                    "Failed to get the hash of endpoint {endpoint} ({})",
                    failure::text(&error)
                );
                last = Some(error);
            }
        }
    }
    printer.hashes(&list)?;
    last.map_or(Ok(()), |error| Err(error.into()))
}

pub async fn move_leader(context: &Context<'_>) -> Result<()> {
    let words = context.texts();
    let [target] = &words[..] else {
        return Err(Failure::usage(
            "move-leader command needs 1 argument",
            "move-leader",
        ));
    };
    let target = member_id(target, "move-leader")?;
    let printer = context.printer(&[Format::Simple, Format::Json, Format::Protobuf])?;
    let client = context.client()?;
    let endpoints = &context.settings.endpoints;
    let (leader, id) = leader(&client, endpoints).await?.ok_or_else(|| {
        let all = endpoints.join(" ");
        Failure::new(
            code::BAD_ARGS,
            format!("no leader endpoint given at [{all}]"),
        )
        .next("kvctl endpoint status --cluster --write-out=table")
    })?;
    let answer = leader.move_leader(target).await?;
    printer.done(
        &answer,
        answer.header,
        format!("Leadership transferred from {id:x} to {target:x}"),
    )
}

/// Whether the member that said so leads.
pub fn leads(status: &StatusResponse) -> bool {
    status
        .header
        .is_some_and(|header| header.member_id == status.leader)
}

/// The endpoint whose member leads, and its id.
async fn leader(client: &Client, endpoints: &[String]) -> Result<Option<(Client, u64)>> {
    for endpoint in endpoints {
        let client = client.only(endpoint)?;
        let status = client.status().await?;
        if leads(&status) {
            return Ok(Some((client, status.leader)));
        }
    }
    Ok(None)
}

pub type Downgrade = (DowngradeAction, &'static str);
pub const VALIDATE: Downgrade = (DowngradeAction::Validate, "validate");
pub const ENABLE: Downgrade = (DowngradeAction::Enable, "enable");
pub const CANCEL: Downgrade = (DowngradeAction::Cancel, "cancel");

pub async fn downgrade(context: &Context<'_>, (action, name): Downgrade) -> Result<()> {
    let words = context.texts();
    let version = match (&words[..], action) {
        (_, DowngradeAction::Cancel) => "",
        ([], _) => {
            return Err(Failure::usage(
                "TARGET_VERSION not provided",
                &format!("downgrade {name}"),
            ));
        }
        ([version], _) if version.is_empty() => {
            return Err(Failure::usage(
                "target version not provided",
                &format!("downgrade {name}"),
            ));
        }
        ([version], _) => version,
        _ => {
            return Err(Failure::usage(
                "too many arguments",
                &format!("downgrade {name}"),
            ));
        }
    };
    let printer = context.printer(output::NO_FIELDS)?;
    printer.downgrade(name, &context.client()?.downgrade(action, version).await?)
}
