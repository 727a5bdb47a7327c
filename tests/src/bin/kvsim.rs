//! Runs the simulator over many seeds, one thread per processor, and prints one line per failing seed:
//! the command that runs it again.
//!
//! ```text
//! kvsim --seeds FROM..TO [--threads N] [--plant NAME]
//! kvsim --seed N [--plant NAME] [--verbose yes]
//! ```

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use kvnode_tests::sim::{Counts, Plan, Plant, run};

thread_local! {
    /// What this thread runs, for the hook below.
    static RUNNING: Cell<u64> = const { Cell::new(0) };
}

struct Args {
    from: u64,
    to: u64,
    threads: usize,
    plant: Option<Plant>,
    verbose: bool,
}

fn main() {
    let args = match read_args(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!(
                "kvsim: {why}\nusage: kvsim --seeds FROM..TO | --seed N [--threads N] [--plant NAME]"
            );
            std::process::exit(2);
        }
    };
    // An optimised build ends at a panic; the seed must be told before.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        println!("kvsim --seed {}   # panic: {panic}", RUNNING.get());
        usual(panic);
    }));
    let begun = Instant::now();
    let next = AtomicU64::new(args.from);
    let total = Mutex::new((Counts::default(), 0u64, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| work(&args, &next, &total));
        }
    });
    let (counts, simulated, failed) = total
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    println!(
        "{} seeds, {} failing, {} simulated seconds in {:.1} s: {counts:?}",
        args.to - args.from,
        failed.len(),
        simulated / 1_000_000,
        begun.elapsed().as_secs_f64()
    );
    std::process::exit(i32::from(!failed.is_empty()));
}

fn work(args: &Args, next: &AtomicU64, total: &Mutex<(Counts, u64, Vec<u64>)>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= args.to {
            return;
        }
        RUNNING.set(seed);
        let mut plan = Plan::of_seed(seed);
        plan.plant = args.plant;
        plan.verbose = args.verbose;
        let result = std::panic::catch_unwind(|| run(plan));
        let mut total = total
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let violation = match result {
            Ok(report) => {
                total.0.add(&report.counts);
                total.1 += report.simulated;
                if args.to - args.from == 1 {
                    println!("hash {:016x}, {:?}", report.hash, report.counts);
                }
                report.violation
            }
            Err(_) => Some("a panic, see above".to_owned()),
        };
        if let Some(violation) = violation {
            let plant = args
                .plant
                .map_or_else(String::new, |plant| format!(" --plant {}", plant.name()));
            println!("kvsim --seed {seed}{plant}   # {violation}");
            total.2.push(seed);
        }
    }
}

fn read_args(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut seeds = None;
    let mut threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut plant = None;
    let mut verbose = false;
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| format!("{text} is no number"))
        };
        match name.as_str() {
            "--seeds" => {
                let (from, to) = value.split_once("..").ok_or("--seeds is FROM..TO")?;
                seeds = Some((number(from)?, number(to)?));
            }
            "--seed" => seeds = Some((number(&value)?, number(&value)? + 1)),
            "--threads" => threads = number(&value)?.max(1) as usize,
            "--plant" => {
                let known = Plant::ALL.into_iter().find(|plant| plant.name() == value);
                plant = Some(known.ok_or_else(|| format!("no defect is called {value}"))?);
            }
            "--verbose" => verbose = value == "yes",
            _ => return Err(format!("{name} is unknown")),
        }
    }
    let (from, to) = seeds.ok_or("--seeds or --seed is missing")?;
    Ok(Args {
        from,
        to: to.max(from),
        threads,
        plant,
        verbose,
    })
}
