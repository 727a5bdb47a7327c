//! Authentication, users, roles.

use kvnode_client::api::{Status, permission};

use super::kv::permission_span;
use crate::context::Context;
use crate::failure::{Failure, Result, code};
use crate::output::{self, say, say_line};
use crate::terminal;

fn none(context: &Context<'_>, complaint: &str, usage: &str) -> Result<()> {
    if context.words().is_empty() {
        Ok(())
    } else {
        Err(Failure::usage(complaint, usage))
    }
}

fn names<const N: usize>(
    context: &Context<'_>,
    complaint: &str,
    usage: &str,
) -> Result<[String; N]> {
    context
        .texts()
        .try_into()
        .map_err(|_| Failure::usage(complaint, usage))
}

/// Makes the role root and gives it to the user root where that is missing.
pub async fn enable(context: &Context<'_>) -> Result<()> {
    none(
        context,
        "auth enable command does not accept any arguments",
        "auth enable",
    )?;
    let client = context.client()?;
    if let Err(error) = client.auth_enable().await {
        if !error.is(&Status::root_role_missing()) {
            return Err(error.into());
        }
        match client.role_add("root").await {
            Err(error) if !error.is(&Status::role_exists()) => return Err(error.into()),
            _ => {}
        }
        client.user_grant_role("root", "root").await?;
        client.auth_enable().await?;
    }
    say_line("Authentication Enabled")
}

pub async fn disable(context: &Context<'_>) -> Result<()> {
    none(
        context,
        "auth disable command does not accept any arguments",
        "auth disable",
    )?;
    context.client()?.auth_disable().await?;
    say_line("Authentication Disabled")
}

pub async fn status(context: &Context<'_>) -> Result<()> {
    none(
        context,
        "auth status command does not accept any arguments",
        "auth status",
    )?;
    let printer = context.printer(output::NO_FIELDS)?;
    printer.auth_status(&context.client()?.auth_status().await?)
}

pub async fn user_add(context: &Context<'_>) -> Result<()> {
    let usage = "user add";
    let [word] = names(
        context,
        "user add command requires user name as its argument",
        usage,
    )?;
    let given = context.text("new-user-password");
    let (user, password) = if context.flag("no-password") {
        (word, None)
    } else if !given.is_empty() {
        (word, Some(given))
    } else if let Some((user, password)) = word.split_once(':') {
        if user.is_empty() {
            return Err(Failure::usage("empty user name is not allowed", usage));
        }
        (user.to_owned(), Some(password.to_owned()))
    } else {
        let password = asked_password(context, &word)?;
        (word, Some(password))
    };
    let printer = context.printer(output::ALL)?;
    let answer = context
        .patient_client()?
        .user_add(&user, password.as_deref())
        .await?;
    printer.done(&answer, answer.header, format!("User {user} created"))
}

/// From the terminal, twice; or from stdin with `--interactive=false`.
fn asked_password(context: &Context<'_>, user: &str) -> Result<String> {
    if !context.flag("interactive") {
        return Ok(terminal::first_word());
    }
    terminal::new_password(user).map_err(|error| {
        Failure::new(code::BAD_ARGS, error)
            .next("echo PASSWORD | kvctl user ... --interactive=false")
    })
}

pub async fn user_delete(context: &Context<'_>) -> Result<()> {
    let [user] = names(
        context,
        "user delete command requires user name as its argument",
        "user delete",
    )?;
    let printer = context.printer(output::ALL)?;
    let answer = context.patient_client()?.user_delete(&user).await?;
    printer.done(&answer, answer.header, format!("User {user} deleted"))
}

pub async fn user_get(context: &Context<'_>) -> Result<()> {
    let [user] = names(
        context,
        "user get command requires user name as its argument",
        "user get",
    )?;
    let detail = context.flag("detail");
    let printer = context.printer(if detail {
        output::ALL
    } else {
        output::NO_FIELDS
    })?;
    let client = context.patient_client()?;
    let answer = client.user_get(&user).await?;
    if !detail {
        return printer.user(&user, &answer);
    }
    say_line(&format!("User: {user}"))?;
    for role in &answer.roles {
        say("\n")?;
        printer.role(role, &client.role_get(role).await?)?;
    }
    Ok(())
}

pub async fn user_list(context: &Context<'_>) -> Result<()> {
    none(
        context,
        "user list command requires no arguments",
        "user list",
    )?;
    let printer = context.printer(output::NO_FIELDS)?;
    let answer = context.patient_client()?.user_list().await?;
    printer.names(&answer, answer.header, "users", &answer.users)
}

pub async fn user_passwd(context: &Context<'_>) -> Result<()> {
    let [user] = names(
        context,
        "user passwd command requires user name as its argument",
        "user passwd",
    )?;
    let printer = context.printer(output::ALL)?;
    let password = asked_password(context, &user)?;
    let answer = context
        .patient_client()?
        .user_change_password(&user, &password)
        .await?;
    printer.done(&answer, answer.header, "Password updated".to_owned())
}

pub async fn user_grant_role(context: &Context<'_>) -> Result<()> {
    let complaint = "user grant command requires user name and role name as its argument";
    let [user, role] = names(context, complaint, "user grant-role")?;
    let printer = context.printer(output::ALL)?;
    let answer = context
        .patient_client()?
        .user_grant_role(&user, &role)
        .await?;
    printer.done(
        &answer,
        answer.header,
        format!("Role {role} is granted to user {user}"),
    )
}

pub async fn user_revoke_role(context: &Context<'_>) -> Result<()> {
    let complaint = "user revoke-role requires user name and role name as its argument";
    let [user, role] = names(context, complaint, "user revoke-role")?;
    let printer = context.printer(output::ALL)?;
    let answer = context
        .patient_client()?
        .user_revoke_role(&user, &role)
        .await?;
    printer.done(
        &answer,
        answer.header,
        format!("Role {role} is revoked from user {user}"),
    )
}

pub async fn role_add(context: &Context<'_>) -> Result<()> {
    let [role] = names(
        context,
        "role add command requires role name as its argument",
        "role add",
    )?;
    let printer = context.printer(output::ALL)?;
    let answer = context.patient_client()?.role_add(&role).await?;
    printer.done(&answer, answer.header, format!("Role {role} created"))
}

pub async fn role_delete(context: &Context<'_>) -> Result<()> {
    let [role] = names(
        context,
        "role delete command requires role name as its argument",
        "role delete",
    )?;
    let printer = context.printer(output::ALL)?;
    let answer = context.patient_client()?.role_delete(&role).await?;
    printer.done(&answer, answer.header, format!("Role {role} deleted"))
}

pub async fn role_get(context: &Context<'_>) -> Result<()> {
    let [role] = names(
        context,
        "role get command requires role name as its argument",
        "role get",
    )?;
    let printer = context.printer(output::ALL)?;
    printer.role(&role, &context.patient_client()?.role_get(&role).await?)
}

pub async fn role_list(context: &Context<'_>) -> Result<()> {
    none(
        context,
        "role list command requires no arguments",
        "role list",
    )?;
    let printer = context.printer(output::ALL)?;
    let answer = context.patient_client()?.role_list().await?;
    printer.names(&answer, answer.header, "roles", &answer.roles)
}

pub async fn role_grant(context: &Context<'_>) -> Result<()> {
    let usage = "role grant-permission";
    let words = context.words();
    let texts = context.texts();
    if words.len() < 3 {
        let text = "role grant command requires role name, permission type, and key [endkey] as its argument";
        return Err(Failure::usage(text, usage));
    }
    let kind = match texts[1].to_uppercase().as_str() {
        "READ" => permission::Type::Read,
        "WRITE" => permission::Type::Write,
        "READWRITE" => permission::Type::Readwrite,
        _ => {
            return Err(Failure::usage(
                format!("invalid permission type: {}", texts[1]),
                usage,
            ));
        }
    };
    let (key, range_end) = permission_span(context, &words[2..], usage)?;
    let printer = context.printer(output::ALL)?;
    let role = &texts[0];
    let answer = context
        .patient_client()?
        .role_grant_permission(role, kind, key, range_end)
        .await?;
    printer.done(&answer, answer.header, format!("Role {role} updated"))
}

pub async fn role_revoke(context: &Context<'_>) -> Result<()> {
    let usage = "role revoke-permission";
    let words = context.words();
    let texts = context.texts();
    if words.len() < 2 {
        let text =
            "role revoke-permission command requires role name and key [endkey] as its argument";
        return Err(Failure::usage(text, usage));
    }
    let (key, range_end) = permission_span(context, &words[1..], usage)?;
    let printer = context.printer(output::ALL)?;
    let (role, shown) = (&texts[0], &texts[1]);
    let end = String::from_utf8_lossy(&range_end).into_owned();
    let what = match end.as_str() {
        "" => format!("key {shown}"),
        "\0" => format!("range [{shown}, <open ended>"),
        end => format!("range [{shown}, {end})"),
    };
    let answer = context
        .patient_client()?
        .role_revoke_permission(role, key, range_end)
        .await?;
    printer.done(
        &answer,
        answer.header,
        format!("Permission of {what} is revoked from role {role}"),
    )
}
