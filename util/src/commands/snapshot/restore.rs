//! `kvutil snapshot restore`: a data directory of a new cluster from a snapshot file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kvnode_store::datadir::{BESIDE_SUFFIX, Identity, Presence, presence, utc};
use kvnode_store::remake::{Leases, Remake};
use kvnode_store::schema::{Meta, TAG_MEMBER};
use serde::Serialize;

use super::Threads;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::kvs::{Kvs, short};
use crate::output::human;
use crate::process;
use crate::restore::build::{self, Examined, Target};
use crate::restore::ids;
use crate::restore::plan::Plan;
use crate::restore::topology::{
    BUMP_AUTO, Changes, Founder, PEER_URL, TOKEN, leases_text, parse_cluster, parse_leases, usage,
};
use crate::shell::Shell;

/// Make a data directory of a new cluster from a snapshot
///
/// The whole file is checked before anything is made; the directory is built beside its place, read back, and gets its name last.
/// Members, alarms and the log of the old cluster are dropped, and the new one has another id, so that no old member can join. The
/// revision goes up by --revision-bump and everything before counts as compacted: watchers and pagers start over, instead of
/// seeing another history under numbers they know. Several members: the same command with the same file and options on each, but for
/// --name and --data-dir; or a plan written once. Examples: kvutil snapshot restore m.kvs --single n1 --data-dir /var/lib/kvnode;
/// kvutil snapshot restore m.kvs --initial-cluster n1=http://h1:2380,n2=http://h2:2380,n3=http://h3:2380 --name n1 --data-dir
/// /var/lib/kvnode. Exit codes: 3 the file is damaged, 5 another restore runs, 6 no space, 7 something is at the place.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `.kvs` file
    file: PathBuf,
    /// Where to; nothing or an empty directory is there
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Where the log is to be, if not in the data directory
    #[arg(long)]
    wal_dir: Option<PathBuf>,
    /// A cluster of one, of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["initial_cluster", "plan", "name"])]
    single: Option<String>,
    /// All members: NAME=PEERURL,...
    #[arg(long, value_name = "LIST", conflicts_with = "plan")]
    initial_cluster: Option<String>,
    /// Part of the members' ids, as the server's flag of the same name
    #[arg(long, default_value = TOKEN)]
    initial_cluster_token: String,
    /// Which of the members this is
    #[arg(long)]
    name: Option<String>,
    /// This member's peer URLs, comma-separated; must be those --initial-cluster says
    #[arg(long, value_name = "URLS")]
    initial_advertise_peer_urls: Option<String>,
    /// Carry out a plan; every member is given the same file
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Only write down what --initial-cluster and the other options come to, for --plan
    #[arg(long, value_name = "FILE", requires = "initial_cluster")]
    write_plan: Option<PathBuf>,
    /// Added to the revision: `auto` (1 000 000 000), a number, or 0 to keep revision and history
    #[arg(
        long,
        value_name = "N",
        default_value = "auto",
        conflicts_with = "bump_revision"
    )]
    revision_bump: String,
    /// etcdutl's name for it
    #[arg(long, value_name = "N", requires = "mark_compacted")]
    bump_revision: Option<u64>,
    /// etcdutl's: always done with a bump
    #[arg(long, requires = "bump_revision")]
    mark_compacted: bool,
    /// `keep` (with their full time), `extend=DURATION` (that much more, once), or `drop` (their keys stay)
    #[arg(long, default_value = "keep", value_name = "HOW")]
    leases: String,
    /// `keep` users, roles and whether they count, or `drop` them
    #[arg(long, default_value = "keep", value_parser = ["keep", "drop"])]
    auth: String,
    /// Only keys that start with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// Keep the old cluster's id; needs --force
    #[arg(long)]
    keep_cluster_id: bool,
    /// Allow what this token names; the refusal prints it
    #[arg(long, value_name = "TOKEN")]
    force: Option<String>,
    /// Do not insist on the digest at the end of the file; its frames are checked in any case
    #[arg(long)]
    skip_hash_check: bool,
    #[command(flatten)]
    threads: Threads,
    /// etcd's memory map: not used
    #[arg(long, hide = true)]
    initial_memory_map_size: Option<u64>,
    #[arg(long, hide = true)]
    to_rev: Option<String>,
    #[arg(long, hide = true)]
    to_time: Option<String>,
}

/// Who this is, who else, and what is done to the state.
struct Intent {
    own: Founder,
    members: Vec<Founder>,
    changes: Changes,
    cluster_id: u64,
    from_plan: bool,
}

#[derive(Serialize)]
struct Restored {
    schema: &'static str,
    snapshot: String,
    snapshot_sha256: String,
    digest: &'static str,
    data_dir: String,
    wal_dir: String,
    cluster_id: String,
    old_cluster_id: String,
    member_id: String,
    name: String,
    members: Vec<Founder>,
    old_revision: i64,
    revision: i64,
    compact_revision: i64,
    bump: i64,
    keys: u64,
    leases: u64,
    auth: &'static str,
    prefix: String,
    hashkv: u32,
    /// Whether the snapshot's keys have the same: not if some were left out, or lost their leases.
    hashkv_is_the_snapshots: bool,
    bytes: u64,
    seconds: f64,
    next: Vec<String>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let started = Instant::now();
    refuse_what_is_not_offered(args)?;
    let changes = changes(args)?;
    let target = args.data_dir.as_deref();
    if args.write_plan.is_none() {
        let target = target.ok_or_else(|| usage("--data-dir is missing: where to?"))?;
        check_place(target)?;
        // A log without its data directory may be what an interrupted run left: looked at when building begins.
        let mut left = target.as_os_str().to_owned();
        left.push(BESIDE_SUFFIX);
        if let Some(wal_dir) = args.wal_dir.as_ref().filter(|_| !Path::new(&left).exists()) {
            check_place(wal_dir)?;
        }
    }
    let kvs = Kvs::open(&args.file)?;
    let meta = kvs.meta()?;
    let sha256 = kvs.digest_told()?;
    let intent = intent(args, &kvs, &sha256, changes)?;
    if let Some(path) = &args.write_plan {
        return write_plan(path, &intent, &sha256, shell);
    }
    let target = target.unwrap_or(Path::new(""));
    let remake = Arc::new(remake(args, &intent, &kvs, &meta)?);
    if let Some(why) = remake.objection() {
        return Err(Failure::new(
            Code::Refused,
            format!("--revision-bump 0: {why}"),
            next_command(args, "--revision-bump auto"),
        ));
    }
    let examined = build::examine(&kvs, &meta, &remake, args.threads.count(), shell)?;
    let digest = sound(args, &kvs, &examined)?;
    let bytes = examined.after.totals().state.key_bytes
        + examined.after.totals().state.value_bytes
        + examined.after.totals().hist.key_bytes
        + examined.after.totals().hist.value_bytes;
    let parent = super::save::parent_of(target)?;
    shell.need_space(&parent, bytes, &format!("df -h {}", parent.display()))?;
    let mut instance_id = [0; 16];
    instance_id[..8].copy_from_slice(&process::random().to_le_bytes());
    instance_id[8..].copy_from_slice(&process::random().to_le_bytes());
    let identity = Identity {
        cluster_id: intent.cluster_id,
        member_id: intent.own.number(),
        instance_id,
    };
    let note = format!(
        "restored from a snapshot of cluster {:x} at revision {}, sha256 {sha256}",
        kvs.info.cluster_id, meta.revision
    );
    let place = Target {
        data_dir: target,
        wal_dir: args.wal_dir.as_deref(),
        identity,
        note,
    };
    build::build(
        &kvs,
        &remake,
        &examined,
        &place,
        args.threads.count(),
        shell,
    )?;
    let (revision, compact_revision) = remake.revisions(&meta);
    let restored = Restored {
        schema: "kvutil.snapshot.restore.1",
        snapshot: kvs.shown(),
        snapshot_sha256: sha256,
        digest,
        data_dir: target.display().to_string(),
        wal_dir: match &args.wal_dir {
            Some(path) => path.display().to_string(),
            None => target.display().to_string(),
        },
        cluster_id: format!("{:x}", intent.cluster_id),
        old_cluster_id: format!("{:x}", kvs.info.cluster_id),
        member_id: intent.own.id.clone(),
        name: intent.own.name.clone(),
        old_revision: meta.revision,
        revision,
        compact_revision,
        bump: remake.bump,
        keys: examined.after.seen().keys,
        leases: examined.after.seen().leases,
        auth: if remake.auth { "kept" } else { "dropped" },
        prefix: intent.changes.prefix.clone(),
        hashkv: examined.after.hash_kv(),
        hashkv_is_the_snapshots: match remake.keeps_history() {
            true => examined.after.hash_kv() == examined.before.hash_kv(),
            false => examined.after.hash_newest() == examined.before.hash_newest(),
        },
        bytes,
        seconds: started.elapsed().as_secs_f64(),
        next: next_steps(args, &intent, target),
        members: intent.members,
    };
    shell.output.print(&restored, |restored| {
        screen(
            restored,
            kvs.info.created_unix_ms,
            &kvs.info.selection,
            &remake,
        )
    });
    Ok(Outcome::Fine)
}

fn refuse_what_is_not_offered(args: &Args) -> Result<()> {
    for (flag, given) in [
        ("--to-rev", args.to_rev.is_some()),
        ("--to-time", args.to_time.is_some()),
    ] {
        if given {
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "{flag}: a snapshot holds one moment; restoring to another needs an archive of the log, which this release does not have"
                ),
                next_command(args, ""),
            ));
        }
    }
    Ok(())
}

fn changes(args: &Args) -> Result<Changes> {
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

/// Nothing, or an empty directory.
fn check_place(path: &Path) -> Result<()> {
    let shown = path.display();
    let away = || {
        format!(
            "mv {shown} {shown}.old-{}",
            utc(process::now_ms() / 1000)
                .replace([':', '-'], "")
                .replace(" UTC", "Z")
                .replace(' ', "T")
        )
    };
    if path.is_file() {
        return Err(Failure::new(
            Code::Refused,
            format!("{shown} is a file"),
            format!("ls -la {shown}"),
        ));
    }
    match presence(path)? {
        Presence::Absent => {}
        Presence::Present => {
            return Err(Failure::new(
                Code::Refused,
                format!("{shown} is a data directory already"),
                away(),
            )
            .hint("a restore never writes over one: move it away, or name another --data-dir"));
        }
        Presence::Unfinished | Presence::Foreign => {
            return Err(
                Failure::new(Code::Refused, format!("{shown} is not empty"), away())
                    .hint("name an empty or new directory with --data-dir, or move the files away"),
            );
        }
    }
    let device = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).map(|meta| meta.dev()).ok()
    };
    let parent = std::path::absolute(path)
        .ok()
        .and_then(|path| path.parent().map(Path::to_path_buf));
    if let (Some(own), Some(above)) = (device(path), parent.as_deref().and_then(device))
        && own != above
    {
        return Err(Failure::new(
            Code::Refused,
            format!("{shown} is a mount point, and a directory cannot be renamed over one"),
            format!("kvutil snapshot restore FILE --data-dir {shown}/data ..."),
        )
        .hint("name a directory inside it, and give the same to the server"));
    }
    Ok(())
}

fn intent(args: &Args, kvs: &Kvs, sha256: &str, changes: Changes) -> Result<Intent> {
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

fn write_plan(path: &Path, intent: &Intent, sha256: &str, shell: &Shell) -> Result<Outcome> {
    let restore_id = format!("{:016x}", process::random());
    let plan = Plan::new(
        sha256,
        &restore_id,
        intent.members.clone(),
        intent.changes.clone(),
    );
    let part = crate::part::Part::create(path, false, &format!("ls -la {}", path.display()))?;
    use std::io::Write as _;
    part.file()
        .write_all(plan.text().as_bytes())
        .map_err(|e| Failure::io("write", part.path(), &e))?;
    part.sync()?;
    part.commit()?;
    shell.output.print(&plan, |plan| {
        let names: Vec<&str> = plan.members.iter().map(|m| &m.name[..]).collect();
        format!(
            "plan       {}  for cluster {} of {}\nnext       on each of them: kvutil snapshot restore FILE --plan {} --name NAME --data-dir DIR",
            path.display(),
            plan.cluster_id,
            names.join(", "),
            path.display()
        )
    });
    Ok(Outcome::Fine)
}

fn remake(args: &Args, intent: &Intent, kvs: &Kvs, meta: &Meta) -> Result<Remake> {
    // Ids that were members, or must not be, under the same cluster id.
    let mut removed = Vec::new();
    if args.keep_cluster_id {
        let mut snapshot = kvs.snapshot()?;
        let to = [TAG_MEMBER + 1];
        for item in snapshot.range(0, &[TAG_MEMBER], Some(&to)) {
            let (key, _) = item.map_err(|lost| crate::kvs::unreadable(&kvs.path, &lost.error))?;
            let id = key.get(1..).and_then(|id| id.try_into().ok());
            removed.extend(id.map(u64::from_be_bytes));
        }
    }
    Ok(Remake {
        bump: intent.changes.revision_bump,
        leases: intent.changes.leases()?,
        auth: intent.changes.auth(),
        prefix: intent.changes.prefix(),
        members: intent.members.iter().map(Founder::record).collect(),
        removed,
        applied: (meta.applied_index.max(1), meta.applied_term.max(1)),
    })
}

/// Refuses what is not whole; says what of the digest is known.
fn sound(args: &Args, kvs: &Kvs, examined: &Examined) -> Result<&'static str> {
    let checked = &examined.checked;
    let verify = format!("kvutil snapshot verify {}", kvs.shown());
    let damaged = |what: String| Failure::new(Code::Damage, what, verify.clone());
    if let Some(lost) = checked.lost.first() {
        return Err(damaged(format!("{}: {lost}", kvs.shown()))
            .hint("nothing was made; `snapshot convert --skip-bad` saves what can be read of it"));
    }
    let mut problems = examined.before.problems();
    problems.extend(super::verify::hash_problem(kvs, &examined.before));
    if let Some(problem) = problems.first() {
        return Err(damaged(format!(
            "{}: its records contradict each other: {problem}",
            kvs.shown()
        ))
        .hint("nothing was made"));
    }
    match (checked.digest_matches, args.skip_hash_check) {
        (true, _) => Ok("ok"),
        (false, true) => Ok("skipped"),
        (false, false) => Err(damaged(format!(
            "{}: SHA-256 is {}, the file says {}",
            kvs.shown(),
            short(&checked.sha256),
            short(&checked.sha256_told)
        ))
        .hint("nothing was made; every frame is good, so --skip-hash-check would restore it")),
    }
}

/// The same command with something more.
fn next_command(args: &Args, more: &str) -> String {
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

fn next_steps(args: &Args, intent: &Intent, target: &Path) -> Vec<String> {
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

fn screen(restored: &Restored, created_ms: u64, selection: &str, remake: &Remake) -> String {
    let age = process::now_ms().saturating_sub(created_ms) / 60_000;
    let age = match age {
        0..120 => format!("{age} min old"),
        120..2880 => format!("{} h old", age / 60),
        _ => format!("{} days old", age / 1440),
    };
    let mut lines = vec![format!(
        "snapshot    revision {}, {} keys restored, digest {}, {age}",
        restored.old_revision, restored.keys, restored.digest
    )];
    if !selection.is_empty() {
        lines.push(format!(
            "part        the snapshot holds a part only: {selection}"
        ));
    }
    lines.push(match restored.cluster_id == restored.old_cluster_id {
        true => format!("cluster     id {} KEPT", restored.cluster_id),
        false => format!(
            "cluster     NEW id {} (old {}: its members cannot join)",
            restored.cluster_id, restored.old_cluster_id
        ),
    });
    let members: Vec<String> = restored
        .members
        .iter()
        .map(|member| {
            let this = if member.name == restored.name {
                " (this)"
            } else {
                ""
            };
            format!("{} {}{this}", member.name, member.id)
        })
        .collect();
    lines.push(format!("members     {}", members.join("   ")));
    lines.push(match restored.bump {
        0 => format!(
            "revision    {} as it was, with its history: watchers that had seen more will not notice",
            restored.revision
        ),
        bump => format!(
            "revision    {} -> {} (bump {bump}; all older marked compacted, so watchers re-list)",
            restored.old_revision, restored.revision
        ),
    });
    lines.push(match remake.leases {
        Leases::Drop => "leases      dropped; their keys stay".to_owned(),
        Leases::Keep => format!(
            "leases      {} kept, clocks restart at full TTL",
            restored.leases
        ),
        Leases::Extend(seconds) => format!(
            "leases      {} kept, clocks restart at full TTL and {seconds} s more, once",
            restored.leases
        ),
    });
    lines.push(format!("auth        {}", restored.auth));
    if !restored.prefix.is_empty() {
        lines.push(format!("prefix      {}", restored.prefix));
    }
    lines.push(format!(
        "checked     structure ok, hashkv {}{}",
        restored.hashkv,
        if restored.hashkv_is_the_snapshots {
            " = snapshot"
        } else {
            ""
        }
    ));
    lines.push(format!(
        "done        {} in place   {}   took {:.1}s",
        restored.data_dir,
        human(restored.bytes),
        restored.seconds
    ));
    for (number, step) in restored.next.iter().enumerate() {
        let word = if number == 0 { "next" } else { "" };
        lines.push(format!("{word:<12}{step}"));
    }
    lines.join("\n")
}
