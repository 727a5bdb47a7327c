//! What a restore is to come to: who is in the new cluster, and what is done to the state. From the command line or a plan.

use std::path::Path;

use super::Args;
use super::steps::next_command;
use crate::failure::{Code, Failure, Result};
use crate::kvs::{Kvs, short};
use crate::restore::ids;
use crate::restore::plan::Plan;
use crate::restore::topology::{
    BUMP_AUTO, Changes, Founder, PEER_URL, leases_text, parse_cluster, parse_leases, usage,
};

/// Who this is, who else, and what is done to the state.
pub struct Intent {
    pub own: Founder,
    pub members: Vec<Founder>,
    pub changes: Changes,
    pub cluster_id: u64,
    pub from_plan: bool,
}

pub fn changes(args: &Args) -> Result<Changes> {
    let bump = match (args.bump_revision, args.revision_bump.as_str()) {
        (Some(0), _) => return Err(usage("--bump-revision: a number above 0 is wanted")),
        (Some(number), _) => i64::try_from(number).ok(),
        (None, "auto") => Some(BUMP_AUTO),
        (None, text) => text.parse().ok().filter(|number| *number >= 0),
    };
    // Far from where numbers end, and from where other programs lose digits.
    let bump = bump.filter(|bump| *bump <= 1 << 52).ok_or_else(|| {
        usage(format!(
            "--revision-bump {}: `auto`, or a number from 0 to 2^52",
            args.revision_bump
        ))
    })?;
    let leases = parse_leases(&args.leases).ok_or_else(|| {
        usage(format!(
            "--leases {}: keep, drop, or extend=DURATION such as extend=2h",
            args.leases
        ))
    })?;
    Ok(Changes {
        revision_bump: bump,
        leases: leases_text(leases),
        auth: args.auth.clone(),
        prefix: args.prefix.clone(),
    })
}

pub fn intent(args: &Args, kvs: &Kvs, sha256: &str, changes: Changes) -> Result<Intent> {
    if let Some(path) = &args.plan {
        return planned(args, path, kvs, sha256, &changes);
    }
    let token = &args.initial_cluster_token;
    let urls = args.initial_advertise_peer_urls.as_deref();
    let own_urls = || -> Option<Vec<String>> {
        let mut urls: Vec<String> = urls?.split(',').map(str::to_owned).collect();
        urls.sort();
        Some(urls)
    };
    let members = match (&args.single, &args.initial_cluster) {
        (Some(name), _) => {
            let urls = own_urls().unwrap_or_else(|| vec![PEER_URL.to_owned()]);
            vec![Founder::new(name, urls, token)?]
        }
        (None, Some(list)) => parse_cluster(list, token)?,
        (None, None) => {
            return Err(Failure::new(
                Code::Refused,
                "who is to be in the cluster? without --single, --initial-cluster or --plan that would be a cluster of one, which is seldom meant",
                next_command(args, &format!("--single {}", args.name.as_deref().unwrap_or("default"))),
            )
            .hint("for several members: --initial-cluster n1=http://h1:2380,n2=http://h2:2380,... --name n1"));
        }
    };
    let name = args.single.as_deref().or(args.name.as_deref());
    let own = find(&members, name, args.write_plan.is_some())?;
    if let Some(urls) = own_urls()
        && urls != own.peer_urls
    {
        return Err(usage(format!(
            "--initial-advertise-peer-urls says {}, --initial-cluster says {} for {}",
            urls.join(","),
            own.peer_urls.join(","),
            own.name
        )));
    }
    let numbers = members.iter().map(Founder::number);
    let cluster_id = ids::cluster(numbers, sha256, &changes.text());
    let cluster_id = match args.keep_cluster_id {
        true => kept_id(args, kvs)?,
        false => cluster_id,
    };
    Ok(Intent {
        own,
        members,
        changes,
        cluster_id,
        from_plan: false,
    })
}

fn find(members: &[Founder], name: Option<&str>, any: bool) -> Result<Founder> {
    let names = || {
        let names: Vec<&str> = members.iter().map(|member| &member.name[..]).collect();
        names.join(", ")
    };
    match (name, members) {
        (Some(name), _) => {
            let own = members.iter().find(|member| member.name == name);
            own.cloned()
                .ok_or_else(|| usage(format!("--name {name}: the members are {}", names())))
        }
        (None, [only]) => Ok(only.clone()),
        (None, [first, ..]) if any => Ok(first.clone()),
        _ => Err(usage(format!(
            "--name is missing: which of the members {} is this?",
            names()
        ))),
    }
}

/// The old cluster's id, if that was asked for with its token.
fn kept_id(args: &Args, kvs: &Kvs) -> Result<u64> {
    let id = kvs.info.cluster_id;
    let token = format!("same-cluster-id:{id:x}");
    if args.force.as_deref() == Some(&token) {
        return Ok(id);
    }
    Err(Failure::new(
        Code::Refused,
        format!("--keep-cluster-id: members of the old cluster {id:x} that still run, or are started again, could join the new one and mix two histories"),
        next_command(args, &format!("--force={token}")),
    )
    .hint("stop all of them for good first, then repeat with the token; or leave --keep-cluster-id out"))
}

fn planned(args: &Args, path: &Path, kvs: &Kvs, sha256: &str, changes: &Changes) -> Result<Intent> {
    let plan = Plan::read(path)?;
    if plan.snapshot_sha256 != sha256 {
        return Err(Failure::new(
            Code::Refused,
            format!(
                "{} is for the snapshot with SHA-256 {}, {} has {}",
                path.display(),
                short(&plan.snapshot_sha256),
                kvs.shown(),
                short(sha256)
            ),
            format!("sha256sum {}", kvs.shown()),
        )
        .hint("every member restores the same file"));
    }
    // What is told beside a plan must not be told in vain.
    let (none, defaults) = (parse_leases("keep").map(leases_text), BUMP_AUTO);
    let told = changes.revision_bump != defaults
        || Some(&changes.leases) != none.as_ref()
        || changes.auth != "keep"
        || !changes.prefix.is_empty()
        || args.keep_cluster_id;
    if told && *changes != plan.changes {
        return Err(usage(
            "--plan says what is done to the state: leave --revision-bump, --leases, --auth, --prefix and --keep-cluster-id out",
        ));
    }
    let own = find(&plan.members, args.name.as_deref(), false)?;
    Ok(Intent {
        own,
        cluster_id: plan.cluster(),
        members: plan.members,
        changes: plan.changes,
        from_plan: true,
    })
}
