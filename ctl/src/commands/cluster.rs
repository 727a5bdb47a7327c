//! Members.

use super::start::Start;
use super::{is_serializable, member_id};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{self, say};

pub async fn list(context: &Context<'_>) -> Result<()> {
    let serializable = is_serializable(&context.text("consistency"))?;
    let printer = context.printer(output::WITH_TABLE)?;
    printer.member_list(&context.client()?.member_list(!serializable).await?)
}

pub async fn add(context: &Context<'_>) -> Result<()> {
    let words = context.texts();
    let name = match &words[..] {
        [] => return Err(Failure::usage("member name not provided", "member add")),
        [name] => name,
        _ => {
            let mut text = "too many arguments".to_owned();
            for word in words
                .iter()
                .filter(|word| word.to_lowercase().starts_with("http"))
            {
                text.push_str(&format!(", did you mean --peer-urls={word}"));
            }
            return Err(Failure::usage(text, "member add"));
        }
    };
    let urls = peer_urls(context, "member peer urls not provided", "member add")?;
    let printer = context.printer(output::NO_FIELDS)?;
    let answer = context
        .client()?
        .member_add(urls, context.flag("learner"))
        .await?;
    printer.member_added(&answer)?;
    if !printer.is_simple() {
        return Ok(());
    }
    let start = Start::new(name, &context.text("peer-urls"), &answer);
    say(format!("\n{}", start.variables()))?;
    eprint!("\n{}", start.other_forms());
    Ok(())
}

pub fn peer_urls(context: &Context<'_>, complaint: &str, usage: &str) -> Result<Vec<String>> {
    match context.text("peer-urls").as_str() {
        "" => Err(Failure::usage(complaint, usage)),
        urls => Ok(urls.split(',').map(str::to_owned).collect()),
    }
}

fn id(context: &Context<'_>, usage: &str) -> Result<u64> {
    let words = context.texts();
    let [id] = &words[..] else {
        return Err(Failure::usage("member ID is not provided", usage));
    };
    member_id(id, usage)
}

pub async fn remove(context: &Context<'_>) -> Result<()> {
    let id = id(context, "member remove")?;
    let printer = context.printer(output::NO_FIELDS)?;
    let answer = context.client()?.member_remove(id).await?;
    printer.member_changed(id, "removed from", &answer, answer.header, &answer.members)
}

pub async fn update(context: &Context<'_>) -> Result<()> {
    let id = id(context, "member update")?;
    let urls = peer_urls(context, "member peer urls not provided", "member update")?;
    let printer = context.printer(output::NO_FIELDS)?;
    let answer = context.client()?.member_update(id, urls).await?;
    printer.member_changed(id, "updated in", &answer, answer.header, &answer.members)
}

pub async fn promote(context: &Context<'_>) -> Result<()> {
    let id = id(context, "member promote")?;
    let printer = context.printer(output::NO_FIELDS)?;
    let answer = context.client()?.member_promote(id).await?;
    printer.member_changed(id, "promoted in", &answer, answer.header, &answer.members)
}
