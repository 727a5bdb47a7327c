//! Taking over changed settings without a restart, on SIGHUP or through the admin socket.
//!
//! All settings are read again the way the start read them: the same command line and variables, the configuration file as
//! it is now. Settings that do not pass their checks change nothing at all. Of those that do, the ones in
//! `live::RELOADABLE` are taken over; the others are named and wait for the next start. Then every hook runs: whoever
//! holds files of its own (certificates) registers one and reads them anew, whether or not a setting changed.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::config::{Config, ConfigError, Effective, Loaded};
use crate::live::{self, Live};
use crate::logging;

/// Reads all settings as the start did.
pub type Reread = Box<dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync>;

/// What a subsystem does at a reload: it gets the new settings (of which only reloadable ones may differ from the running
/// ones in effect) and answers with a line for the log, if there is something to tell.
pub type Hook = Box<dyn Fn(&Config) -> Result<Option<String>, String> + Send>;

/// Subsystems that take part in reloads. A failing hook keeps what it had; the others run all the same.
#[derive(Default)]
pub struct Hooks {
    hooks: Mutex<Vec<(&'static str, Hook)>>,
}

impl Hooks {
    /// Registers `hook` under a name for the log.
    pub fn add(&self, name: &'static str, hook: Hook) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.push((name, hook));
    }

    fn run(&self, config: &Config, outcome: &mut Outcome) {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, hook) in hooks.iter() {
            match hook(config) {
                Ok(None) => {}
                Ok(Some(told)) => outcome.told.push(format!("{name}: {told}")),
                Err(error) => outcome.failed.push(format!("{name}: {error}")),
            }
        }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

/// A setting whose value is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub name: &'static str,
    pub from: String,
    pub to: String,
}

/// What a reload came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// In force now.
    pub applied: Vec<Changed>,
    /// Differ from what runs, and need a restart.
    pub waiting: Vec<Changed>,
    /// What hooks told.
    pub told: Vec<String>,
    /// Hooks that failed, or why the settings were not taken at all.
    pub failed: Vec<String>,
}

impl Outcome {
    /// As the admin socket answers it.
    pub fn json(&self) -> Value {
        let list = |changes: &[Changed]| -> Vec<Value> {
            let change = |one: &Changed| json!({"name": one.name, "from": one.from, "to": one.to});
            changes.iter().map(change).collect()
        };
        json!({
            "applied": list(&self.applied),
            "needs_restart": list(&self.waiting),
            "reloaded": self.told,
            "failed": self.failed,
        })
    }

    fn log(&self) {
        for Changed { name, from, to } in &self.applied {
            log::info!("reload: {name} is {to} now (was {from})");
        }
        for Changed { name, from, to } in &self.waiting {
            log::warn!("reload: {name} stays {from}; {to} needs a restart");
        }
        for told in &self.told {
            log::info!("reload: {told}");
        }
        for failed in &self.failed {
            log::error!("reload: {failed}");
        }
        if *self == Outcome::default() {
            log::info!("reload: no setting changed");
        }
    }
}

/// The running settings and the way to new ones. One per process.
pub struct Reload {
    reread: Reread,
    logging: logging::Handle,
    /// As in force; also keeps two reloads apart.
    effective: Mutex<Vec<Effective>>,
}

impl Reload {
    /// `effective` is what the start came to.
    pub fn new(reread: Reread, logging: logging::Handle, effective: Vec<Effective>) -> Reload {
        Reload {
            reread,
            logging,
            effective: Mutex::new(effective),
        }
    }

    /// Every setting in force, with its source.
    pub fn effective(&self) -> Vec<Effective> {
        self.effective
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lines the log lost.
    pub fn dropped_log_lines(&self) -> u64 {
        self.logging.dropped_lines()
    }

    /// Reads the settings again and takes over what can be; log files are opened anew. Reads files: not for an executor.
    pub fn run(&self, live: &Live, hooks: &Hooks, changed: impl FnOnce(&Config)) -> Outcome {
        let mut effective = self
            .effective
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.logging.reopen();
        let mut outcome = Outcome::default();
        match (self.reread)() {
            Err(error) => {
                let hint = error
                    .hint
                    .as_deref()
                    .unwrap_or("correct it and reload again");
                let text = format!("settings stay as they were: {}; {hint}", error.message);
                outcome.failed.push(text);
            }
            Ok(loaded) => {
                sort_out(&mut effective, &loaded.effective, &mut outcome);
                self.logging.set_level(loaded.config.log.level);
                live.set(&loaded.config);
                changed(&loaded.config);
                hooks.run(&loaded.config, &mut outcome);
            }
        }
        outcome.log();
        outcome
    }
}

/// Compares settings: what can change is exchanged in `running`, what cannot stays there as it is.
fn sort_out(running: &mut [Effective], new: &[Effective], outcome: &mut Outcome) {
    for old in running {
        let Some(new) = new.iter().find(|new| new.name == old.name) else {
            continue;
        };
        if new.value == old.value {
            continue;
        }
        let change = Changed {
            name: old.name,
            from: old.value.clone(),
            to: new.value.clone(),
        };
        if live::RELOADABLE.contains(&old.name) {
            *old = new.clone();
            outcome.applied.push(change);
        } else {
            outcome.waiting.push(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Vec<Effective> {
        let none = std::iter::empty::<(String, String)>();
        let no_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        Config::load(args.iter().copied(), none, no_file)
            .unwrap()
            .effective
    }

    #[test]
    fn what_can_change_is_taken_over_and_what_cannot_is_named() {
        let mut running = settings(&["--log-level=info", "--name=a"]);
        let new = settings(&["--log-level=debug", "--name=b"]);
        let mut outcome = Outcome::default();
        sort_out(&mut running, &new, &mut outcome);
        let names = |changes: &[Changed]| changes.iter().map(|c| c.name).collect::<Vec<_>>();
        assert_eq!(names(&outcome.applied), ["log-level"]);
        assert!(names(&outcome.waiting).contains(&"name"));
        let value = |name: &str| {
            let found = running.iter().find(|one| one.name == name);
            found.map(|one| one.value.clone()).unwrap()
        };
        assert_eq!(
            (value("log-level").as_str(), value("name").as_str()),
            ("debug", "a")
        );
    }

    #[test]
    fn every_reloadable_name_is_a_flag() {
        for name in live::RELOADABLE {
            assert!(crate::config::flags::find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_failing_hook_is_told_and_does_not_stop_the_next() {
        let hooks = Hooks::default();
        hooks.add("first", Box::new(|_| Err("no file".into())));
        hooks.add("second", Box::new(|_| Ok(Some("2 files read".into()))));
        let mut outcome = Outcome::default();
        hooks.run(&Config::default(), &mut outcome);
        assert_eq!(outcome.failed, ["first: no file"]);
        assert_eq!(outcome.told, ["second: 2 files read"]);
    }
}
