//! Command lines to type next: the same restore with something more, the other members' restores, the start of the node.

use std::path::Path;

use super::Args;
use super::intent::Intent;
use crate::restore::topology::{BUMP_AUTO, TOKEN};

/// The same command with something more.
pub fn next_command(args: &Args, more: &str) -> String {
    let mut words = vec![format!("kvutil snapshot restore {}", args.file.display())];
    words.extend(
        args.data_dir
            .iter()
            .map(|d| format!("--data-dir {}", d.display())),
    );
    words.extend(
        args.wal_dir
            .iter()
            .map(|d| format!("--wal-dir {}", d.display())),
    );
    words.extend(args.single.iter().map(|name| format!("--single {name}")));
    words.extend(
        args.initial_cluster
            .iter()
            .map(|list| format!("--initial-cluster {list}")),
    );
    if args.initial_cluster_token != TOKEN {
        words.push(format!(
            "--initial-cluster-token {}",
            args.initial_cluster_token
        ));
    }
    if !more.starts_with("--single") {
        words.extend(args.name.iter().map(|name| format!("--name {name}")));
    }
    if args.keep_cluster_id {
        words.push("--keep-cluster-id".into());
    }
    for (flag, value, default) in [
        ("--leases", &args.leases, "keep"),
        ("--auth", &args.auth, "keep"),
        ("--prefix", &args.prefix, ""),
    ] {
        if value != default {
            words.push(format!("{flag} {value}"));
        }
    }
    if !more.is_empty() {
        words.push(more.to_owned());
    }
    words.join(" ")
}

pub fn next_steps(args: &Args, intent: &Intent, target: &Path) -> Vec<String> {
    let mut steps = Vec::new();
    let others: Vec<&str> = intent
        .members
        .iter()
        .filter(|member| member.name != intent.own.name)
        .map(|member| &member.name[..])
        .collect();
    if !others.is_empty() {
        let how = match (&args.plan, &args.initial_cluster) {
            (Some(plan), _) if intent.from_plan => format!("--plan {}", plan.display()),
            (_, Some(list)) => format!("--initial-cluster {list}"),
            _ => String::new(),
        };
        let mut options = String::new();
        if !intent.from_plan {
            if args.initial_cluster_token != TOKEN {
                options.push_str(&format!(
                    " --initial-cluster-token {}",
                    args.initial_cluster_token
                ));
            }
            if intent.changes.revision_bump != BUMP_AUTO {
                options.push_str(&format!(
                    " --revision-bump {}",
                    intent.changes.revision_bump
                ));
            }
            if intent.changes.leases != "keep" {
                options.push_str(&format!(" --leases {}", intent.changes.leases));
            }
            if intent.changes.auth != "keep" {
                options.push_str(&format!(" --auth {}", intent.changes.auth));
            }
            if !intent.changes.prefix.is_empty() {
                options.push_str(&format!(" --prefix {}", intent.changes.prefix));
            }
            if args.keep_cluster_id {
                options.push_str(" --keep-cluster-id");
            }
            if let Some(force) = &args.force {
                options.push_str(&format!(" --force={force}"));
            }
        }
        steps.push(format!(
            "on {}: kvutil snapshot restore {} {how}{options} --name {} --data-dir DIR",
            others.join(", "),
            args.file.display(),
            others.join("|")
        ));
    }
    let wal_dir = match &args.wal_dir {
        Some(path) => format!(" --wal-dir {}", path.display()),
        None => String::new(),
    };
    let list: Vec<String> = intent
        .members
        .iter()
        .flat_map(|member| {
            let of = |url: &String| format!("{}={url}", member.name);
            member.peer_urls.iter().map(of)
        })
        .collect();
    steps.push(format!(
        "{}kvnode --name {} --data-dir {}{wal_dir} --listen-peer-urls {} --initial-advertise-peer-urls {urls} --initial-cluster {}",
        if others.is_empty() { "" } else { "then start all of them, here: " },
        intent.own.name,
        target.display(),
        listen(&intent.own.peer_urls),
        list.join(","),
        urls = intent.own.peer_urls.join(",")
    ));
    steps
}

/// Where to listen for these urls: a name is for others, a node listens on addresses.
fn listen(urls: &[String]) -> String {
    let of = |url: &String| -> Option<String> {
        let (scheme, rest) = url.split_once("://")?;
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stays = host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok();
        let host = if stays { host } else { "0.0.0.0" };
        Some(format!("{scheme}://{host}:{port}"))
    };
    let all: Vec<String> = urls
        .iter()
        .map(|url| of(url).unwrap_or_else(|| url.clone()))
        .collect();
    all.join(",")
}
