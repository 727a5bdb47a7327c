//! `kvutil snapshot save`: a `.kvs` file of a stopped node's data directory, or of a running node through its own socket or over the
//! network.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kvnode_client::blocking::Client;
use kvnode_snapshot::{Info, Options, Totals, Writer};
use kvnode_store::View;
use kvnode_store::engine::fjall::FjallView;
use kvnode_store::schema::SCHEMA_VERSION;
use kvnode_store::select::Selection;
use serde::Serialize;

use super::Packing;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::kvs::{Kvs, short};
use crate::live;
use crate::online::Members;
use crate::output::human;
use crate::part::Part;
use crate::process;
use crate::progress::Progress;
use crate::scanned;
use crate::shell::Shell;
use crate::source::{Source, SourceArgs};

/// Save the state of a data directory or a running cluster as a snapshot file
///
/// Of a stopped node, with what its log has committed beyond its store; with --live of the node that runs on the directory, through
/// the socket in it; or with --endpoints of a running cluster: of the members named the most advanced one that votes, rather a follower
/// than the leader. The file is written as OUT.part with mode 0600, synced, read back and checked, then gets its
/// name. With --prefix, --rev or --history latest the result is a part of the state, without its past. `-` writes to stdout,
/// unchecked. Examples: kvutil snapshot save /backup/monday.kvs --data-dir /var/lib/kvnode; kvutil snapshot save - --live
/// --data-dir /var/lib/kvnode | ssh host 'cat > monday.kvs'; kvutil snapshot save monday.kvs --endpoints h1:2379,h2:2379,h3:2379.
/// Exit codes: 5 a node runs on it (--live), 6 no space, 7 OUT exists or no member is fit.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to; `-` for stdout
    out: PathBuf,
    #[command(flatten)]
    source: DataDir,
    /// Ask the running node, through the socket in its data directory
    #[arg(long)]
    live: bool,
    /// Replace OUT if it is there
    #[arg(long)]
    overwrite: bool,
    /// Only keys that start with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// The keys as they were at this revision, without leases; 0 is now
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    rev: i64,
    /// How much of the past
    #[arg(long, value_enum, default_value_t = History::Full)]
    history: History,
    #[command(flatten)]
    packing: Packing,
    /// How the file is checked before it gets its name
    #[arg(long, value_enum, default_value_t = Verify::Checksums)]
    verify: Verify,
    #[command(flatten)]
    members: Members,
}

#[derive(Debug, clap::Args)]
struct DataDir {
    /// The node's data directory
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Where the log is, if it was moved since the directory was made
    #[arg(long)]
    wal_dir: Option<PathBuf>,
    /// Save the store as it lies on the disk, without what its log has committed beyond it
    #[arg(long)]
    no_log: bool,
    /// Shortest lease the node grants, in seconds: needed where the log is applied
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    lease_ttl_min: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum History {
    /// All that can still be read: from the compact revision on
    Full,
    /// The same: what compaction has hidden is never saved
    Compacted,
    /// None: the newest value of each key
    Latest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Verify {
    /// Every byte, every record's contradictions
    Structure,
    /// Every byte
    Checksums,
    /// Not at all
    None,
}

/// What was saved.
#[derive(Serialize)]
pub struct Saved {
    pub schema: &'static str,
    pub path: String,
    pub revision: i64,
    pub compact_revision: i64,
    pub keys: u64,
    pub size: u64,
    /// Of the records.
    pub raw_bytes: u64,
    pub sha256: String,
    pub cluster_id: String,
    pub member_id: String,
    /// Empty: all of the state.
    pub selection: String,
    pub source: &'static str,
    /// The member that sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    pub verified: &'static str,
    pub zstd_level: Option<i32>,
    pub frames: u64,
    pub seconds: f64,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let out = args.out.display();
    let to_stdout = args.out == Path::new("-");
    let online = !args.members.endpoints.is_empty();
    if args.source.data_dir.is_none() && !online {
        return Err(Failure::new(
            Code::Usage,
            "of what? --data-dir DIR of a stopped node, --live --data-dir DIR of a running one, or --endpoints LIST of a cluster",
            "kvutil snapshot save --help",
        ));
    }
    let directory = args.source.data_dir.clone().unwrap_or_default();
    let data_dir = directory.display();
    let part = !args.prefix.is_empty() || args.rev != 0 || args.history == History::Latest;
    if (online || args.live) && part {
        let (flag, source) = match online {
            true => (
                "--endpoints",
                format!("--endpoints {}", args.members.endpoints.join(",")),
            ),
            false => ("--live", format!("--live --data-dir {data_dir}")),
        };
        return Err(Failure::new(
            Code::Refused,
            format!("{flag} saves all of the state: --prefix, --rev and --history latest need a stopped node"),
            format!("kvutil snapshot save full.kvs {source}"),
        )
        .hint("take the part from the file afterwards, with `kvutil snapshot extract`"));
    }
    if online {
        return save_online(args, to_stdout, shell);
    }
    if args.live {
        return save_live(args, to_stdout, shell);
    }
    let source = SourceArgs {
        source: None,
        data_dir: Some(directory.clone()),
        wal_dir: args.source.wal_dir.clone(),
        no_log: args.source.no_log,
        lease_ttl_min: args.source.lease_ttl_min,
    };
    let again = format!("kvutil snapshot save {out} --data-dir {data_dir} --overwrite");
    let part = match to_stdout {
        true => None,
        false => Some(Part::create(&args.out, args.overwrite, &again)?),
    };
    let started = Instant::now();
    let source = source.open(shell).map_err(|failure| match failure.code() {
        Code::Locked => failure
            .hint("--live asks the node itself, without a pause; or stop it first")
            .then(format!(
                "kvutil snapshot save {out} --live --data-dir {data_dir}"
            )),
        _ => failure,
    })?;
    if source.kind != "data-dir" {
        return Err(Failure::new(
            Code::Usage,
            format!("{data_dir} is a snapshot already"),
            format!("kvutil snapshot convert {data_dir} {out}"),
        ));
    }
    let chosen = Chosen {
        prefix: &args.prefix,
        revision: args.rev,
        latest: args.history == History::Latest,
    };
    let stats = source.view.stats();
    if !to_stdout {
        let need = (stats.live_bytes + stats.history_bytes) / 2;
        let place = parent_of(&args.out)?;
        shell.need_space(&place, need, &format!("df -h {}", place.display()))?;
    }
    let from = Whose {
        cluster_id: source.cluster_id,
        member_id: source.member_id,
    };
    let options = args.packing.options();
    let Some(part) = part else {
        let written = write(
            &source.view,
            &from,
            &chosen,
            options,
            io::stdout().lock(),
            shell,
        );
        written.map_err(|e| e.at(Path::new("stdout")))?;
        return Ok(Outcome::Fine);
    };
    let written = part
        .write(|out| write(&source.view, &from, &chosen, options, out, shell))?
        .map_err(|e| e.at(part.path()))?;
    drop::<Source>(source);
    finish(part, args, Origin::DataDir, Some(&written), started, shell)
}

/// The directory a path lies in, absolute.
pub fn parent_of(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|e| Failure::io("resolve", path, &e))?;
    Ok(absolute.parent().unwrap_or(Path::new("/")).to_path_buf())
}

/// What makes a failure: the reading of a store or the writing of a file.
pub enum Failed {
    Read(Failure),
    Write(io::Error),
}

impl Failed {
    pub fn at(self, path: &Path) -> Failure {
        match self {
            Failed::Read(failure) => failure,
            Failed::Write(error) if path == Path::new("stdout") => {
                Failure::io("write", path, &error)
                    .then("kvutil snapshot save FILE --data-dir DIR")
                    .hint("whoever was to take the snapshot did not take all of it")
            }
            Failed::Write(error) => Failure::io("write", path, &error),
        }
    }
}

impl From<kvnode_store::Error> for Failed {
    fn from(error: kvnode_store::Error) -> Self {
        Failed::Read(error.into())
    }
}

impl From<kvnode_snapshot::Error> for Failed {
    fn from(error: kvnode_snapshot::Error) -> Self {
        match error {
            kvnode_snapshot::Error::Io(error) => Failed::Write(error),
            other => Failed::Read(other.into()),
        }
    }
}

/// Whose state it is.
pub struct Whose {
    pub cluster_id: u64,
    pub member_id: u64,
}

/// Which part of the state.
pub struct Chosen<'a> {
    pub prefix: &'a str,
    pub revision: i64,
    pub latest: bool,
}

impl Chosen<'_> {
    fn is_all(&self) -> bool {
        self.prefix.is_empty() && self.revision == 0 && !self.latest
    }

    /// In words, for the file's header.
    fn text(&self, revision: i64) -> String {
        let mut parts = Vec::new();
        if !self.prefix.is_empty() {
            parts.push(format!("prefix {:?}", self.prefix));
        }
        if self.revision != 0 {
            parts.push(format!("as of revision {revision}, without leases"));
        }
        if !self.is_all() {
            parts.push("without history".into());
        }
        parts.join(", ")
    }
}

/// Packs a view into `out`.
pub fn write(
    view: &View<FjallView>,
    from: &Whose,
    chosen: &Chosen<'_>,
    options: Options,
    out: impl Write,
    shell: &Shell,
) -> std::result::Result<Totals, Failed> {
    let mut info = Info {
        cluster_id: from.cluster_id,
        member_id: from.member_id,
        raft_index: view.applied_index(),
        raft_term: view.applied_term(),
        revision: view.revision(),
        compact_revision: view.compact_revision(),
        created_unix_ms: process::now_ms(),
        program: concat!("kvutil ", env!("CARGO_PKG_VERSION")).into(),
        schema: u32::from(SCHEMA_VERSION),
        selection: String::new(),
    };
    if chosen.is_all() {
        let stats = view.stats();
        let mut progress = shell
            .progress
            .bytes("reading", stats.live_bytes + stats.history_bytes);
        let mut writer = Writer::new(out, &info, options)?;
        let read = scanned::each(view, options.chunk_bytes, |batch| {
            progress.add(batch.raw_bytes() as u64);
            writer.push_batch(batch)
        });
        let totals = read.map_err(|error| Failed::Read(error.into()))??;
        let (written, _) = writer.finish(totals.hash())?;
        return Ok(written);
    }
    let selection = Selection {
        prefix: chosen.prefix.as_bytes().to_vec().into(),
        revision: chosen.revision,
    };
    let selected = view
        .select(&selection)
        .map_err(|status| Failed::Read(status.into()))?;
    info.revision = selected.meta().revision;
    info.compact_revision = selected.meta().compact_revision;
    info.selection = chosen.text(info.revision);
    let mut progress = shell.progress.bytes("reading", selected.bytes());
    let mut writer = Writer::new(out, &info, options)?;
    let mut totals = kvnode_store::export::Totals::default();
    selected.each(|record| {
        totals.add(&record);
        progress.add((record.key.len() + record.value.len()) as u64);
        writer
            .push(record.space as u8, &record.key, &record.value)
            .map_err(Failed::from)
    })?;
    let (written, _) = writer.finish(totals.hash())?;
    Ok(written)
}

fn save_live(args: &Args, to_stdout: bool, shell: &Shell) -> Result<Outcome> {
    let started = Instant::now();
    let directory = args.source.data_dir.clone().unwrap_or_default();
    let (out, data_dir) = (args.out.display(), directory.display());
    let body = live::snapshot(&directory)?;
    let mut progress = shell.progress.bytes("receiving", 0);
    if to_stdout {
        pass_on(body, io::stdout().lock(), &mut progress).map_err(|e| e.at(Path::new("stdout")))?;
        return Ok(Outcome::Fine);
    }
    let again = format!("kvutil snapshot save {out} --live --data-dir {data_dir} --overwrite");
    let part = Part::create(&args.out, args.overwrite, &again)?;
    pass_on(body, part.file(), &mut progress).map_err(|e| e.at(part.path()))?;
    drop(progress);
    finish(part, args, Origin::Live, None, started, shell)
}

/// Times a stream is begun; one that breaks off is worth nothing, so the next begins anew, with the member that is best then.
const ONLINE_TRIES: usize = 3;

fn save_online(args: &Args, to_stdout: bool, shell: &Shell) -> Result<Outcome> {
    let started = Instant::now();
    let (out, members) = (args.out.display(), &args.members);
    if to_stdout {
        let (client, _) = members.choose(shell)?;
        let stdout = io::stdout().lock();
        let received = receive(members, &client, stdout, shell);
        return match received.map_err(|e| e.at(Path::new("stdout")))? {
            Received::All => Ok(Outcome::Fine),
            Received::BrokeOff(failure) => Err(failure),
        };
    }
    let endpoints = members.endpoints.join(",");
    let again = format!("kvutil snapshot save {out} --endpoints {endpoints} --overwrite");
    let part = Part::create(&args.out, args.overwrite, &again)?;
    for tries_left in (0..ONLINE_TRIES).rev() {
        let (client, endpoint) = members.choose(shell)?;
        match receive(members, &client, part.file(), shell) {
            Ok(Received::All) => {
                return finish(part, args, Origin::Endpoint(endpoint), None, started, shell);
            }
            Ok(Received::BrokeOff(failure)) if tries_left > 0 => {
                shell.note(&format!("{}; once more", failure.what()));
                part.clear()?;
            }
            Ok(Received::BrokeOff(failure)) => return Err(failure),
            Err(failed) => return Err(failed.at(part.path())),
        }
    }
    unreachable!("the last try returns")
}

/// How a stream ended.
enum Received {
    All,
    /// The connection was lost on the way.
    BrokeOff(Failure),
}

/// Writes what the member sends.
fn receive(
    members: &Members,
    client: &Client,
    mut to: impl Write,
    shell: &Shell,
) -> std::result::Result<Received, Failed> {
    let mut snapshot = members.snapshot(client).map_err(Failed::Read)?;
    let mut progress = shell.progress.bytes("receiving", 0);
    let mut first = true;
    loop {
        let next = match snapshot.next() {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(error @ kvnode_client::Error::Broken { .. }) => {
                return Ok(Received::BrokeOff(members.failure(&error)));
            }
            Err(error) => return Err(Failed::Read(members.failure(&error))),
        };
        if std::mem::take(&mut first) {
            let magic = kvnode_snapshot::MAGIC;
            if !next.bytes.starts_with(&magic) {
                let endpoint = snapshot.endpoint();
                return Err(Failed::Read(
                    Failure::new(
                        Code::Version,
                        format!("{endpoint} sends no .kvs snapshot: it begins with {:02x?}, not {magic:02x?}", &next.bytes[..next.bytes.len().min(8)]),
                        format!("kvctl --endpoints {endpoint} snapshot save FILE"),
                    )
                    .hint("a server of another make sends its own format; kvctl saves that as it is"),
                ));
            }
            progress.expect(next.bytes.len() as u64 + next.remaining_bytes);
        }
        to.write_all(&next.bytes).map_err(Failed::Write)?;
        progress.add(next.bytes.len() as u64);
    }
    to.flush().map_err(Failed::Write)?;
    Ok(Received::All)
}

fn pass_on(
    mut from: impl Read,
    mut to: impl Write,
    progress: &mut Progress,
) -> std::result::Result<(), Failed> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                return Err(Failed::Read(
                    Failure::new(
                        Code::Failed,
                        format!("receiving the snapshot: {e}"),
                        "kvutil snapshot save OUT --live --data-dir DIR",
                    )
                    .hint("nothing was saved; the node's log says why it stopped"),
                ));
            }
        };
        to.write_all(&buffer[..read]).map_err(Failed::Write)?;
        progress.add(read as u64);
    }
    to.flush().map_err(Failed::Write)
}

/// Where the state was.
#[derive(PartialEq, Eq)]
enum Origin {
    DataDir,
    Live,
    Endpoint(String),
}

impl Origin {
    fn name(&self) -> &'static str {
        match self {
            Origin::DataDir => "data-dir",
            Origin::Live => "live",
            Origin::Endpoint(_) => "endpoint",
        }
    }
}

/// Syncs, checks, names, and tells.
fn finish(
    part: Part,
    args: &Args,
    origin: Origin,
    written: Option<&Totals>,
    started: Instant,
    shell: &Shell,
) -> Result<Outcome> {
    part.sync()?;
    let threads = args.packing.threads.count();
    let described = describe(part.path(), args.verify, written, threads, shell)?;
    let path = part.commit()?;
    let saved = Saved {
        schema: "kvutil.snapshot.save.1",
        path: path.display().to_string(),
        source: origin.name(),
        zstd_level: (origin == Origin::DataDir).then_some(args.packing.options().level),
        endpoint: match origin {
            Origin::Endpoint(endpoint) => Some(endpoint),
            Origin::DataDir | Origin::Live => None,
        },
        seconds: started.elapsed().as_secs_f64(),
        ..described
    };
    shell.output.print(&saved, screen);
    Ok(Outcome::Fine)
}

/// Checks a file that was just written and says what it holds. Where it was made here, as `written` tells, its digest was
/// computed from the very bytes that were written: then every frame's CRC and the digest at the end show that they came back.
pub fn describe(
    path: &Path,
    verify: Verify,
    written: Option<&Totals>,
    threads: usize,
    shell: &Shell,
) -> Result<Saved> {
    let kvs = Kvs::open(path)?;
    let meta = kvs.meta()?;
    let wrong = |what: String| {
        Failure::new(
            Code::Io,
            format!("{} does not read back: {what}", path.display()),
            "kvutil disk probe --help",
        )
        .hint("nothing was saved; the device may be failing")
    };
    let mut sha256 = kvs.digest_told()?;
    let verified = match (verify, written) {
        (Verify::None, _) => "none",
        (Verify::Checksums, Some(written)) => {
            if !kvs.is_as_written(written, threads, shell)? {
                return Err(wrong("its bytes are not those written".into()));
            }
            "checksums"
        }
        (Verify::Checksums, None) => {
            let checked = kvs.check(threads, shell, |_, _| (), |()| ())?;
            if !checked.is_sound() {
                return Err(wrong("its bytes are not those written".into()));
            }
            sha256 = checked.sha256;
            "checksums"
        }
        (Verify::Structure, _) => {
            let (checked, problems, _) = super::verify::structure(&kvs, &meta, threads, shell)?;
            if let Some(problem) = problems.first() {
                return Err(wrong(problem.clone()));
            }
            if !checked.is_sound() {
                return Err(wrong("its bytes are not those written".into()));
            }
            sha256 = checked.sha256;
            "structure"
        }
    };
    Ok(Saved {
        schema: "",
        path: String::new(),
        revision: meta.revision,
        compact_revision: meta.compact_revision,
        keys: meta.key_count,
        size: kvs.file_bytes,
        raw_bytes: kvs.raw_bytes(),
        sha256,
        cluster_id: format!("{:x}", kvs.info.cluster_id),
        member_id: format!("{:x}", kvs.info.member_id),
        selection: kvs.info.selection.clone(),
        source: "",
        endpoint: None,
        verified,
        zstd_level: None,
        frames: kvs.chunks.len() as u64,
        seconds: 0.0,
    })
}

fn screen(saved: &Saved) -> String {
    let mut text = format!(
        "state      cluster {}, member {}, {}",
        saved.cluster_id,
        saved.member_id,
        match &saved.endpoint {
            Some(endpoint) => format!("from {endpoint}"),
            None if saved.source == "live" => "from the running node".to_owned(),
            None => "stopped".to_owned(),
        }
    );
    if !saved.selection.is_empty() {
        text.push_str(&format!("\npart       {}", saved.selection));
    }
    let ratio = saved.raw_bytes as f64 / saved.size.max(1) as f64;
    text.push_str(&format!(
        "\nwritten    {}  ({ratio:.1}x)\nverified   {}, {} frames, sha256 {}\nsaved      {}   revision {}   keys {}   took {:.1}s",
        human(saved.size),
        match saved.verified {
            "none" => "not read back",
            "structure" => "re-read, structure checked",
            _ => "re-read",
        },
        saved.frames,
        short(&saved.sha256),
        saved.path,
        saved.revision,
        saved.keys,
        saved.seconds
    ));
    text
}
