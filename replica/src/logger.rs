//! raft insists on a slog logger; this drain hands its lines to the `log` facade.
//!
//! Formatting happens only when `log` wants the line, so a quiet level costs one comparison.

use std::fmt::{self, Write as _};

use slog::{Drain, KV as _, Key, Level, Logger, Never, OwnedKVList, Record, Serializer, o};

const TARGET: &str = "kvnode_replica::raft";

/// A logger for one raft node.
pub(crate) fn logger() -> Logger {
    Logger::root(ToLog, o!())
}

struct ToLog;

impl Drain for ToLog {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let level = level(record.level());
        if !log::log_enabled!(target: TARGET, level) {
            return Ok(());
        }
        let mut line = Line(String::with_capacity(128));
        // Writing into a String cannot fail; a failing value only shortens the line.
        let _ = write!(line.0, "{}", record.msg());
        let _ = record.kv().serialize(record, &mut line);
        let _ = values.serialize(record, &mut line);
        log::log!(target: TARGET, level, "{}", line.0);
        Ok(())
    }
}

fn level(level: Level) -> log::Level {
    match level {
        Level::Critical | Level::Error => log::Level::Error,
        Level::Warning => log::Level::Warn,
        // raft tells every election step as news; the node tells the outcome itself.
        Level::Info | Level::Debug => log::Level::Debug,
        Level::Trace => log::Level::Trace,
    }
}

/// `message, key: value, key: value`
struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, ", {key}: {value}").map_err(slog::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Collect(Mutex<Vec<(log::Level, String)>>);

    static COLLECT: Collect = Collect(Mutex::new(Vec::new()));

    impl log::Log for Collect {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target() == TARGET
        }
        fn log(&self, record: &log::Record<'_>) {
            // The facade does not ask `enabled` on behalf of the macros of other crates.
            if record.target() == TARGET && record.args().to_string().starts_with("drain") {
                let line = (record.level(), record.args().to_string());
                self.0
                    .lock()
                    .expect("no test panics while holding it")
                    .push(line);
            }
        }
        fn flush(&self) {}
    }

    #[test]
    fn a_line_keeps_level_message_and_values() {
        log::set_logger(&COLLECT).expect("only this test sets a logger");
        log::set_max_level(log::LevelFilter::Info);
        let logger = logger().new(o!("raft_id" => 7));
        slog::warn!(logger, "drain {} sees", "this"; "term" => 3);
        slog::debug!(logger, "drain must not see this");
        let lines = COLLECT.0.lock().expect("no test panics while holding it");
        assert_eq!(
            *lines,
            [(
                log::Level::Warn,
                "drain this sees, term: 3, raft_id: 7".to_owned()
            )]
        );
    }
}
