//! `kvutil snapshot restore`: a data directory of a new cluster from a snapshot file.

mod intent;
mod screen;
mod steps;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kvnode_store::datadir::{BESIDE_SUFFIX, Identity, Presence, presence, utc};
use kvnode_store::remake::Remake;
use kvnode_store::schema::{Meta, TAG_MEMBER};
use serde::Serialize;

use self::intent::Intent;
use self::steps::{next_command, next_steps};
use super::Threads;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::kvs::{Kvs, short};
use crate::process;
use crate::restore::build::{self, Target};
use crate::restore::examine::{Examined, examine};
use crate::restore::plan::Plan;
use crate::restore::topology::{Founder, TOKEN, usage};
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
    let changes = intent::changes(args)?;
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
    let intent = intent::intent(args, &kvs, &sha256, changes)?;
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
    let examined = examine(&kvs, &meta, &remake, args.threads.count(), shell)?;
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
        screen::screen(
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
    problems.extend(kvs.hash_problem(&examined.before));
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
