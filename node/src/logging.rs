//! The process's log: one line per record, as JSON or as text, written by a thread of its own.
//!
//! Why a thread: a write to a pipe or terminal nobody reads blocks for as long as nobody reads,
//! and an executor must not. So `log::info!` and its like only format into a bounded queue and
//! return. Invariants:
//!
//! - No caller ever waits for an output, except in [`log::Log::flush`], which gives up after a
//!   second. Whoever ends the process calls it; the panic hook does too.
//! - The queue holds at most [`QUEUE_BYTES_MAX`]. When full, lines are dropped and counted, and the
//!   next written batch says how many are missing.
//! - A failing output (closed pipe, full disk) never ends or panics the process: its lines are
//!   lost, the other outputs are told once, and it is tried again with every batch.
//! - One record is one line: control characters in a message are escaped in both forms.
//!
//! Records of other crates are kept at `warn` and above (`info` at level `debug`): libraries log
//! their inner life at levels that mean something else to an operator.

mod line;
mod queue;
mod rotation;
mod writer;

pub use rotation::Rotation;

use line::write_line;
use log::{Level, LevelFilter, Log, Metadata, Record};
use queue::Queue;
use std::cell::RefCell;
use std::io;
use std::panic;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use writer::{Sink, Writer};

/// Bytes of formatted lines waiting for the writer.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// What to log, how and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Least severe level written.
    pub level: LevelFilter,
    /// Form of a line.
    pub format: Format,
    /// All of these get every line.
    pub outputs: Vec<Output>,
    /// For the one file among them; `None` leaves files to others.
    pub rotation: Option<Rotation>,
}

impl Default for Settings {
    /// `info` and above as JSON to standard error.
    fn default() -> Settings {
        Settings {
            level: LevelFilter::Info,
            format: Format::Json,
            outputs: vec![Output::Stderr],
            rotation: None,
        }
    }
}

/// Form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `{"level":"info","ts":"2026-01-31T12:00:00.000000Z","caller":"src/node.rs:7","msg":"..."}`
    Json,
    /// The same four, tab separated, time first.
    Console,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// Appended to; created with mode 0640.
    File(PathBuf),
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A log file cannot be opened.
    #[error("cannot open log file {}: {error}", path.display())]
    Open {
        /// As configured.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The system gives no more threads.
    #[error("cannot start the log's thread: {0}")]
    Thread(io::Error),
    /// `init` was called twice.
    #[error("the log is already running")]
    Twice,
}

/// Reaches the running log.
#[derive(Debug, Clone)]
pub struct Handle {
    queue: Arc<Queue>,
}

/// Opens the outputs, starts the writer and installs the logger and a panic hook that logs.
pub fn init(settings: &Settings) -> Result<Handle, Error> {
    let open = |output| Sink::open(output, settings.rotation);
    let sinks: Result<Vec<Sink>, Error> = settings.outputs.iter().map(open).collect();
    let writer = Writer {
        sinks: sinks?,
        format: settings.format,
    };
    let queue = Arc::new(Queue::new(QUEUE_BYTES_MAX));
    let logger = Logger {
        format: settings.format,
        queue: Arc::clone(&queue),
    };
    // It lives as long as the process.
    log::set_logger(Box::leak(Box::new(logger))).map_err(|_| Error::Twice)?;
    log::set_max_level(settings.level);
    let handle = Handle {
        queue: Arc::clone(&queue),
    };
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writer.run(&queue))
        .map_err(Error::Thread)?;
    panic::set_hook(Box::new(log_panic));
    Ok(handle)
}

impl Handle {
    /// Changes the level at once.
    pub fn set_level(&self, level: LevelFilter) {
        log::set_max_level(level);
    }

    /// Opens log files anew before the next line, after something renamed them.
    pub fn reopen(&self) {
        self.queue.lock().reopen = true;
    }

    /// Lines dropped since the start because the queue was full.
    pub fn dropped_lines(&self) -> u64 {
        self.queue.lock().dropped_total
    }
}

/// A panic becomes an error line and is on its way out before the process may abort.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let trace = std::backtrace::Backtrace::capture();
    match trace.status() {
        std::backtrace::BacktraceStatus::Captured => log::error!("{info}\n{trace}"),
        _ => log::error!("{info}"),
    }
    log::logger().flush();
}

/// The front: what `log`'s macros call.
struct Logger {
    format: Format,
    queue: Arc<Queue>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = log::max_level();
        if metadata.target().starts_with("kvnode") {
            return metadata.level() <= level;
        }
        let foreign = match level {
            LevelFilter::Debug | LevelFilter::Trace => Level::Info,
            _ => Level::Warn,
        };
        metadata.level() <= level && metadata.level() <= foreign
    }

    fn log(&self, record: &Record<'_>) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = SystemTime::now();
        // A message whose formatting logs (or panics into the hook) finds the buffer taken.
        LINE.with(|line| match line.try_borrow_mut() {
            Ok(mut line) => {
                line.clear();
                write_line(&mut line, self.format, now, record);
                self.queue.push(line.as_bytes());
            }
            Err(_) => {
                let mut line = String::new();
                write_line(&mut line, self.format, now, record);
                self.queue.push(line.as_bytes());
            }
        });
    }

    fn flush(&self) {
        self.queue.flush(FLUSH_PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_log_writes_lines_in_order_and_keeps_libraries_quiet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let settings = Settings {
            level: LevelFilter::Info,
            format: Format::Json,
            outputs: vec![Output::File(path.clone())],
            rotation: None,
        };
        let handle = init(&settings).unwrap();
        assert!(matches!(init(&settings), Err(Error::Twice)));
        for number in 0..100 {
            log::info!("line {number}");
        }
        log::debug!("hidden");
        log::info!(target: "h2::codec", "hidden");
        log::warn!(target: "h2::codec", "shown");
        log::logger().flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let messages: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["msg"].to_string())
            .filter(|message| message.contains("line ") || message.contains("hidden"))
            .collect();
        let expected: Vec<String> = (0..100)
            .map(|number| format!("\"line {number}\""))
            .collect();
        assert_eq!(messages, expected);
        assert!(text.contains("shown"));
        assert_eq!(handle.dropped_lines(), 0);
    }
}
