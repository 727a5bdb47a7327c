//! `member replace`: the steps of a replacement in one command, which can be interrupted and run again.
//!
//! What is done already is read from the member list, not remembered: the new member is the one with the
//! peer URLs given, so the command finds its place after a break. The old member goes last, when the new one
//! votes; until then the cluster is never smaller than it was.

use std::time::{Duration, Instant};

use kvnode_client::api::Status;
use kvnode_client::{Client, api};

use super::cluster::peer_urls;
use super::member_id;
use super::start::Start;
use crate::context::Context;
use crate::failure::{Failure, Result, code};
use crate::golang;
use crate::output::{Format, say, say_line};

/// Pause between two looks at the new member.
const LOOK: Duration = Duration::from_millis(500);

pub async fn run(context: &Context<'_>) -> Result<()> {
    let words = context.texts();
    let [old, name] = &words[..] else {
        return Err(Failure::usage(
            "member replace command needs the old member's ID and the new one's name",
            "member replace",
        ));
    };
    let old = member_id(old, "member replace")?;
    let urls = peer_urls(context, "member peer urls not provided", "member replace")?;
    let wait = golang::parse_duration(&context.text("wait"))
        .map_err(|error| Failure::usage(error, "member replace"))?;
    context.printer(&[Format::Simple])?;
    let client = context.client()?;
    let again = format!(
        "kvctl member replace {old:x} {name} --peer-urls {}   # goes on here",
        urls.join(",")
    );

    let members = client.member_list(true).await?.members;
    let same_urls = |member: &&api::Member| member.peer_urls == urls;
    let new = match members.iter().find(same_urls) {
        Some(member) if member.id == old => {
            let text = format!(
                "{} are the URLs of the old member; the new one needs others",
                urls.join(",")
            );
            return Err(Failure::usage(text, "member replace"));
        }
        Some(member) => {
            say_line(&format!(
                "Member {:16x} is in the cluster already",
                member.id
            ))?;
            member.id
        }
        None => {
            if !members.iter().any(|member| member.id == old) {
                return Err(Failure::from(kvnode_client::Error::Status {
                    status: Status::member_not_found(),
                    endpoint: context.settings.endpoints.join(","),
                }));
            }
            let answer = client.member_add(urls.clone(), true).await?;
            let id = answer.member.as_ref().map_or(0, |member| member.id);
            say_line(&format!("Member {id:16x} added as learner; start it with:"))?;
            let start = Start::new(name, &urls.join(","), &answer);
            say(start.variables())?;
            eprint!("\n{}", start.other_forms());
            id
        }
    };
    promote(&client, new, wait)
        .await
        .map_err(|failure| failure.next(again.clone()))?;
    if !client
        .member_list(true)
        .await?
        .members
        .iter()
        .any(|member| member.id == old)
    {
        return say_line(&format!("Member {old:16x} was removed already"));
    }
    remove(&client, old, wait)
        .await
        .map_err(|failure| failure.next(again))?;
    say_line(&format!(
        "Member {old:16x} removed: replaced by {new:x} ({name})"
    ))
}

/// Waits until the learner votes.
async fn promote(client: &Client, new: u64, wait: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        let members = client.member_list(true).await?.members;
        let member = members.iter().find(|member| member.id == new);
        match member {
            Some(member) if !member.is_learner => return Ok(()),
            Some(member) if !member.name.is_empty() => match client.member_promote(new).await {
                Ok(_) => return say_line(&format!("Member {new:16x} has caught up and votes")),
                Err(error) if error.is(&Status::learner_not_ready()) => {}
                Err(error) => return Err(error.into()),
            },
            Some(_) if !said => {
                said = true;
                eprintln!("waiting for the new member to start and catch up");
            }
            Some(_) => {}
            None => {
                return Err(Failure::new(
                    code::ERROR,
                    format!("member {new:x} was removed meanwhile"),
                ));
            }
        }
        if begun.elapsed() > wait {
            let text = format!(
                "member {new:x} has not started and caught up within {}",
                golang::duration(wait)
            );
            return Err(Failure::new(code::ERROR, text));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Removes the old member; a cluster that just changed may need a moment.
async fn remove(client: &Client, old: u64, wait: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        match client.member_remove(old).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is(&Status::member_not_found()) => return Ok(()),
            Err(error) if begun.elapsed() < wait && error.is(&Status::unhealthy_cluster()) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK).await;
    }
}
