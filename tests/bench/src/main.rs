//! kvbench: a loader for servers that speak etcd's v3 API, and a comparison of them.

mod catch_up;
mod chart;
mod compare;
mod data;
mod fail_over;
mod histogram;
mod hpack;
mod http2;
mod load;
mod machine;
mod net;
mod outcome;
mod process;
mod proto;
mod report;
mod server;
mod tls;
mod unary;
mod work;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::compare::Plan;
use crate::load::ranges::Wants;
use crate::load::{Kind, Load, connections_for};
use crate::net::Failure;
use crate::server::Program;
use crate::work::Order;

/// Measure servers that speak etcd's v3 API
#[derive(Parser)]
#[command(name = "kvbench", version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start kvnode and etcd in turn, run the same loads, print figures and ratios
    ///
    /// Every server runs alone, with a fresh data directory in the same place, with fsync, on free
    /// ports of the loopback interface. Nothing is left behind.
    Compare(CompareArgs),
    /// Run one load against a server that runs already
    Load(LoadArgs),
    /// Measure puts while a member that was away is caught up by snapshot
    ///
    /// Three members on free ports of the loopback interface, with fsync; one is killed, misses the
    /// keys, and returns.
    CatchUp(CatchUpArgs),
    /// Kill the leader of three members again and again, and measure until puts are answered again
    ///
    /// On free ports of the loopback interface, with fsync; kvnode first, then each etcd.
    FailOver(FailOverArgs),
}

#[derive(Args)]
struct FailOverArgs {
    /// kvnode to measure [default: the one next to this program]
    #[arg(long, value_name = "PATH")]
    kvnode: Option<PathBuf>,
    /// etcd to measure; may be repeated
    #[arg(long, value_name = "PATH")]
    etcd: Vec<PathBuf>,
    /// Times the leader is killed
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where to make temporary data directories [default: as for compare]
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    /// Also write every gap as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct CatchUpArgs {
    /// kvnode to measure [default: the one next to this program]
    #[arg(long, value_name = "PATH")]
    kvnode: Option<PathBuf>,
    /// etcd to measure, with a snapshot every 1000 entries; may be repeated
    #[arg(long, value_name = "PATH")]
    etcd: Vec<PathBuf>,
    /// Keys the member misses
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Length of values in bytes
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Puts in flight
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Measured seconds before, and of each slice meanwhile
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Where to make temporary data directories [default: as for compare]
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
}

#[derive(Args)]
struct CompareArgs {
    /// kvnode to measure [default: the one next to this program]
    #[arg(long, value_name = "PATH")]
    kvnode: Option<PathBuf>,
    /// etcd to measure; may be repeated
    #[arg(long, value_name = "PATH")]
    etcd: Vec<PathBuf>,
    /// Times each server gets all loads [default: 3, quick: 2]
    #[arg(long)]
    rounds: Option<usize>,
    /// Measured seconds of each load [default: 5, quick: 2]
    #[arg(long)]
    seconds: Option<f64>,
    /// Fewer rounds, shorter loads, fewer keys, leases, watchers and connections
    #[arg(long)]
    quick: bool,
    /// Keys under the loads, 10000 at least
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Keys for memory and restart times; 0 leaves these out [default: 1000000, quick: 250000]
    #[arg(long)]
    many_keys: Option<u64>,
    /// Length of values in bytes
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Given to every server; raised if --many-keys needs more
    #[arg(long, default_value_t = 8 << 30)]
    quota_backend_bytes: u64,
    /// Members of each server. With several the load goes to the one that leads, CPU time and memory are
    /// those of all members together, and memory and restarts are left out unless --many-keys is given
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    members: u8,
    /// Leases that exist while leases are granted and kept alive [default: 100000, quick: 1000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    leases: Option<u64>,
    /// Watchers of the loads with many [default: 10000, quick: 2000]
    #[arg(long)]
    many_watchers: Option<usize>,
    /// Connections nobody uses, as far as the limit of open files allows [default: 10000, quick: 2000]
    #[arg(long)]
    idle_connections: Option<usize>,
    /// Run everything: also hot keys, more ranges, counts, old revisions, larger values, many watchers, idle
    /// connections, bytes on disk, puts during maintenance, fail-over
    #[arg(long)]
    more: bool,
    /// Run only what has this in its name, of everything there is; may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Clients and servers speak TLS: every server gets --auto-tls, its certificate is not verified
    #[arg(long)]
    tls: bool,
    /// Where to make temporary data directories [default: the system's place for temporary files,
    /// or next to this program if that place is in memory]
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    /// Also write the tables as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also write a report into this directory: report.md, chart.svg and figures.json
    #[arg(long, value_name = "DIRECTORY")]
    report: Option<PathBuf>,
    /// Also write every figure of every round as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct LoadArgs {
    /// What to ask
    kind: Kind,
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:2379", value_name = "HOST:PORT")]
    endpoint: String,
    /// Speak TLS; the server's certificate is not verified
    #[arg(long)]
    tls: bool,
    /// Process id of the server, if it runs here, for its CPU time and memory; one for each member
    #[arg(long)]
    pid: Vec<u32>,
    /// Connections [default: as the comparison uses for so many in flight]
    #[arg(long)]
    connections: Option<usize>,
    /// Requests in flight over all connections; for watch, changes on the way
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// Measured seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before measuring
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Length of values in bytes
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Size of the key space; for get and range it must have been filled
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Keys in order instead of at random
    #[arg(long)]
    sequential: bool,
    /// A hundred keys of them all instead, at random
    #[arg(long, conflicts_with = "sequential")]
    hot: bool,
    /// Serializable reads instead of linearizable ones
    #[arg(long)]
    serializable: bool,
    /// What of the keys of a range is asked for
    #[arg(long, default_value = "pairs")]
    wants: Wants,
    /// Keys per range
    #[arg(long, default_value_t = 100)]
    width: u64,
    /// For get and range: read the revision of the beginning, after overwriting all keys so many times
    #[arg(long, default_value_t = 0)]
    overwrites: u64,
    /// Watchers, dealt over the connections
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// Every watcher has a key of its own
    #[arg(long)]
    distinct: bool,
    /// Watchers of other keys that are there meanwhile
    #[arg(long, default_value_t = 0)]
    idle_watchers: usize,
    /// Leases granted before it is measured; what keepalive keeps alive
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    leases: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    machine::allow_open_files();
    let done = match cli.command {
        Verb::Compare(args) => compare(args),
        Verb::Load(args) => load(&args),
        Verb::CatchUp(args) => catch_up(args),
        Verb::FailOver(args) => fail_over(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("kvbench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: CompareArgs) -> Result<(), Failure> {
    if args.tls {
        tls::switch_on()?;
    }
    if !compare::keys_suffice(args.keys) {
        return Err(Failure(
            "--keys must be at least 10000, for the widest range".to_owned(),
        ));
    }
    let programs = programs(args.kvnode, &args.etcd)?;
    let quick = args.quick;
    let open_files = machine::open_files_max();
    let plan = Plan {
        programs,
        rounds: args.rounds.unwrap_or(if quick { 2 } else { 3 }).max(1),
        measured: seconds(args.seconds.unwrap_or(if quick { 2.0 } else { 5.0 }))?,
        warm_up: Duration::from_millis(500),
        members: usize::from(args.members),
        keys: args.keys,
        many_keys: args.many_keys.unwrap_or(match (args.members, quick) {
            (1, true) => 250_000,
            (1, false) => 1_000_000,
            _ => 0,
        }),
        leases: args.leases.unwrap_or(if quick { 1000 } else { 100_000 }),
        watchers: args
            .many_watchers
            .unwrap_or(if quick { 2000 } else { 10_000 }),
        idle_connections: args
            .idle_connections
            .unwrap_or(if quick { 2000 } else { 10_000 })
            .min(open_files.saturating_sub(FILES_RESERVED)),
        kills: if quick { 3 } else { 10 },
        more: args.more,
        value_bytes: args.value_bytes,
        quota_bytes: args.quota_backend_bytes,
        only: args.only,
        directory: match args.directory {
            Some(directory) => directory,
            None => on_disk()?,
        },
    };
    let comparison = compare::run(&plan)?;
    print!("{}", report::text(&comparison));
    if let Some(path) = args.markdown {
        write(&path, &report::markdown(&comparison))?;
    }
    if let Some(directory) = args.report {
        let json = report::json(&comparison).map_err(|error| Failure(error.to_string()))?;
        std::fs::create_dir_all(&directory)?;
        write(&directory.join("report.md"), &report::page(&comparison))?;
        write(&directory.join("chart.svg"), &chart::svg(&comparison))?;
        write(&directory.join("figures.json"), &json)?;
    }
    if let Some(path) = args.json {
        let json = report::json(&comparison).map_err(|error| Failure(error.to_string()))?;
        write(&path, &json)?;
    }
    Ok(())
}

/// Open files of a loader and a server beside the idle connections.
const FILES_RESERVED: usize = 1000;

/// kvnode first; every label once.
fn programs(kvnode: Option<PathBuf>, etcd: &[PathBuf]) -> Result<Vec<Program>, Failure> {
    let kvnode = match kvnode {
        Some(path) => path,
        None => beside_us("kvnode")?,
    };
    let mut programs: Vec<Program> = Vec::new();
    for path in std::iter::once(&kvnode).chain(etcd) {
        let mut program = Program::new(path)?;
        while programs.iter().any(|other| other.label == program.label) {
            program.label.push('\'');
        }
        programs.push(program);
    }
    Ok(programs)
}

fn fail_over(args: FailOverArgs) -> Result<(), Failure> {
    let found = fail_over::run(&fail_over::Plan {
        programs: programs(args.kvnode, &args.etcd)?,
        rounds: args.rounds,
        directory: match args.directory {
            Some(directory) => directory,
            None => on_disk()?,
        },
    })?;
    if let Some(path) = args.json {
        let json =
            serde_json::to_string_pretty(&found).map_err(|error| Failure(error.to_string()))?;
        write(&path, &json)?;
    }
    Ok(())
}

fn catch_up(args: CatchUpArgs) -> Result<(), Failure> {
    catch_up::run(&catch_up::Plan {
        programs: programs(args.kvnode, &args.etcd)?,
        keys: args.keys,
        value_bytes: args.value_bytes,
        in_flight: args.in_flight,
        measured: seconds(args.seconds)?,
        directory: match args.directory {
            Some(directory) => directory,
            None => on_disk()?,
        },
    })
}

fn load(args: &LoadArgs) -> Result<(), Failure> {
    if args.tls {
        tls::switch_on()?;
    }
    let load = Load {
        kind: args.kind,
        connections: args
            .connections
            .unwrap_or_else(|| connections_for(args.in_flight)),
        in_flight: args.in_flight,
        value_bytes: args.value_bytes,
        keys: args.keys,
        order: match (args.sequential, args.hot) {
            (true, _) => Order::Sequential,
            (_, true) => Order::Hot,
            _ => Order::Random,
        },
        serializable: args.serializable,
        wants: args.wants,
        width: args.width,
        overwrites: args.overwrites,
        watchers: args.watchers,
        distinct: args.distinct,
        idle_watchers: args.idle_watchers,
        leases: args.leases,
        warm_up: seconds(args.warm_up)?,
        measured: seconds(args.seconds)?,
    };
    let outcome = load.run(address(&args.endpoint)?, &args.pid)?;
    if args.json {
        let json = serde_json::to_string(&outcome).map_err(|error| Failure(error.to_string()))?;
        println!("{json}");
        return Ok(());
    }
    println!(
        "operations   {} in {:.2} s, {:.0}/s",
        outcome.ops, outcome.seconds, outcome.ops_per_second
    );
    println!(
        "latency      p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
        outcome.p50_us, outcome.p99_us, outcome.p999_us, outcome.max_us
    );
    println!(
        "errors       {} {}",
        outcome.errors,
        outcome.first_error.as_deref().unwrap_or("")
    );
    if let (Some(cpu), Some(system)) = (
        outcome.server_cpu_us_per_op,
        outcome.server_system_us_per_op,
    ) {
        println!("server CPU   {cpu:.2} us per operation, {system:.2} of it in the kernel");
    }
    if let Some(rss) = outcome.server_rss_bytes {
        println!("server RSS   {} MiB", rss >> 20);
    }
    println!(
        "loader CPU   {:.2} us per operation",
        outcome.loader_cpu_us_per_op
    );
    Ok(())
}

fn seconds(seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds).map_err(|error| Failure(format!("{seconds} s: {error}")))
}

fn address(endpoint: &str) -> Result<SocketAddr, Failure> {
    let host_port = match tls::is_on() {
        true => endpoint.trim_start_matches("https://"),
        false => endpoint.trim_start_matches("http://"),
    };
    let mut found = host_port
        .to_socket_addrs()
        .map_err(|error| Failure(format!("{endpoint}: {error}")))?;
    found
        .next()
        .ok_or_else(|| Failure(format!("{endpoint}: no address")))
}

fn beside_us(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(Failure(format!(
        "{} is not there; build it or give --{name}",
        path.display()
    )))
}

/// A place for data directories where syncing means something.
fn on_disk() -> Result<PathBuf, Failure> {
    let temporary = std::env::temp_dir();
    if !machine::is_memory(&temporary) {
        return Ok(temporary);
    }
    let ours = std::env::current_exe()?;
    Ok(ours.parent().unwrap_or(Path::new(".")).to_owned())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure(format!("{}: {error}", path.display())))
}
