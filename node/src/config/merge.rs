//! Command line, environment, file and defaults become one value per flag, each with its source.
//!
//! Precedence: flag > `KVNODE_*` > `ETCD_*` > file > default. What the operator should hear about
//! is collected as notices; what would weaken their intent is refused.

use super::flags::{self, Flag, Kind, Target, Verdict};
use super::{ConfigError, file};
use log::Level;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// One value as one source gave it.
#[derive(Debug, Clone)]
pub struct Given {
    /// What it sets.
    pub target: Target,
    /// Its text.
    pub text: String,
    /// Who said so.
    pub source: Source,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// A key of the configuration file.
    File {
        /// The file as the operator named it.
        path: PathBuf,
        /// From 1, where known.
        line: Option<usize>,
        /// With its blocks, joined by dots.
        key: String,
    },
    /// This variable.
    Env(String),
    /// This flag, as spelled, with two dashes.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { path, line, .. } => f.write_str(&file::place(path, *line)),
            Source::Env(name) | Source::Flag(name) => f.write_str(name),
        }
    }
}

/// Something to log once the logger runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `Info` or `Warn`.
    pub level: Level,
    /// One line.
    pub text: String,
}

impl Notice {
    /// Hands it to the running log.
    pub fn log(&self) {
        log::log!(self.level, "{}", self.text);
    }

    pub(super) fn warn(text: String) -> Notice {
        Notice {
            level: Level::Warn,
            text,
        }
    }

    pub(super) fn info(text: String) -> Notice {
        Notice {
            level: Level::Info,
            text,
        }
    }
}

/// The value a flag ends up with.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Canonical text.
    pub text: String,
    /// Who won.
    pub source: Source,
}

/// One setting per flag.
#[derive(Debug, Clone)]
pub struct Settings {
    by_name: BTreeMap<&'static str, Setting>,
}

impl Settings {
    /// The setting of a flag in the table.
    pub fn get(&self, name: &str) -> &Setting {
        self.by_name
            .get(name)
            .expect("every flag of the table has a setting; no other is asked for")
    }

    /// Whether anything but the default stands.
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name).source != Source::Default
    }
}

/// Merges the sources (each in its own order of appearance) and judges every flag that is set.
pub fn merge(
    file: Vec<Given>,
    env: Vec<Given>,
    flags: Vec<Given>,
    notices: &mut Vec<Notice>,
) -> Result<Settings, ConfigError> {
    let mut by_flag: BTreeMap<&'static str, Vec<Given>> = BTreeMap::new();
    let mut by_gate: BTreeMap<&'static str, Vec<Given>> = BTreeMap::new();
    for given in file.into_iter().chain(env).chain(flags) {
        match given.target {
            Target::Flag(flag) | Target::Renamed(flag) => {
                by_flag.entry(flag.name).or_default().push(given);
            }
            Target::Gate(gate) => by_gate.entry(gate).or_default().push(given),
        }
    }
    let mut by_name = BTreeMap::new();
    for flag in flags::all() {
        let setting = match by_flag.remove(flag.name) {
            Some(all) => judge(
                flag,
                winner(flag.kind == Kind::Secret, all, notices),
                notices,
            )?,
            None => Setting {
                text: flag.default.to_owned(),
                source: Source::Default,
            },
        };
        by_name.insert(flag.name, setting);
    }
    let mut settings = Settings { by_name };
    add_gates(by_gate, &mut settings, notices)?;
    Ok(settings)
}

/// The later source wins, and within one source the current spelling over an old one, then the
/// last. `all` is in order of rising precedence and not empty.
fn winner(secret: bool, all: Vec<Given>, notices: &mut Vec<Notice>) -> Given {
    let show = |text: &str| match secret {
        true => "(hidden)".to_owned(),
        false => format!("{text:?}"),
    };
    let mut winner: Option<Given> = None;
    for given in all {
        let Some(held) = winner else {
            winner = Some(given);
            continue;
        };
        let keeps = layer(&held.source) == layer(&given.source)
            && matches!(held.target, Target::Flag(_))
            && !matches!(given.target, Target::Flag(_));
        let (wins, loses) = if keeps { (held, given) } else { (given, held) };
        let from_file = matches!(loses.source, Source::File { .. })
            && !matches!(wins.source, Source::File { .. });
        let same_layer_same_value =
            layer(&wins.source) == layer(&loses.source) && wins.text == loses.text;
        let env_agrees = matches!(wins.source, Source::Env(_)) && wins.text == loses.text;
        if !from_file && !same_layer_same_value && !env_agrees {
            notices.push(Notice::warn(format!(
                "{}={} overrides {}={}",
                spelled(&wins.source),
                show(&wins.text),
                spelled(&loses.source),
                show(&loses.text)
            )));
        }
        winner = Some(wins);
    }
    winner.expect("the caller passes at least one")
}

fn layer(source: &Source) -> u8 {
    match source {
        Source::Default => 0,
        Source::File { .. } => 1,
        Source::Env(name) if name.starts_with("ETCD_") => 2,
        Source::Env(_) => 3,
        Source::Flag(_) => 4,
    }
}

/// How the operator spelled the setting.
fn spelled(source: &Source) -> &str {
    match source {
        Source::Default => "default",
        Source::File { key, .. } => key,
        Source::Env(name) | Source::Flag(name) => name,
    }
}

/// Checks one given value against its kind and its verdict.
fn judge(flag: &Flag, given: Given, notices: &mut Vec<Notice>) -> Result<Setting, ConfigError> {
    let Given {
        target,
        text,
        source,
    } = given;
    if matches!(target, Target::Renamed(_)) {
        notices.push(Notice::warn(format!(
            "{} is an old spelling: write {}",
            spelled(&source),
            flag.name
        )));
    }
    let text = flag
        .canonical(&text)
        .map_err(|why| invalid(flag, &text, &source, &why))?;
    match flag.verdict {
        Verdict::Used => {}
        Verdict::Accepted(_) if text == flag.default => {}
        Verdict::Accepted(why) => {
            let text = format!("{} has no effect: {why}", spelled(&source));
            notices.push(Notice::info(text));
        }
        Verdict::Ignored => {
            notices.push(Notice::warn(format!(
                "{} is ignored, as in etcd",
                spelled(&source)
            )));
        }
        Verdict::Planned(_) if text == flag.default || is_off(&text) => {}
        Verdict::Planned(hint) => return Err(unsupported(flag.name, &source, hint)),
        Verdict::Gone(_) if is_off(&text) => {
            notices.push(Notice::warn(format!(
                "{} can be removed: it is gone",
                spelled(&source)
            )));
        }
        Verdict::Gone(instead) => {
            return Err(
                ConfigError::usage(format!("{} is gone", named(flag.name, &source))).hint(instead),
            );
        }
    }
    Ok(Setting { text, source })
}

/// Whether a value asks for nothing, so that it may be asked of a feature that is not there.
fn is_off(text: &str) -> bool {
    matches!(text, "" | "false" | "off" | "none" | "0")
}

/// The flag, and who set it unless that was the flag itself.
pub fn named(name: &str, source: &Source) -> String {
    match source {
        Source::Default => format!("--{name}"),
        Source::Flag(spelled) => spelled.clone(),
        _ => format!("--{name} (from {source})"),
    }
}

/// The refusal of a value, with its place.
pub fn invalid(flag: &Flag, text: &str, source: &Source, why: &str) -> ConfigError {
    let shown = match flag.kind {
        Kind::Secret => "(hidden)".to_owned(),
        _ => format!("{text:?}"),
    };
    ConfigError::usage(format!(
        "invalid value {shown} for {}: {why}",
        named(flag.name, source)
    ))
}

/// The refusal of a feature this version does not have.
pub fn unsupported(name: &str, source: &Source, hint: &str) -> ConfigError {
    ConfigError::usage(format!(
        "{} is not supported by this version",
        named(name, source)
    ))
    .hint(hint)
}

/// Appends gates given as `experimental-` flags to `feature-gates`, unless named there too.
fn add_gates(
    by_gate: BTreeMap<&'static str, Vec<Given>>,
    settings: &mut Settings,
    notices: &mut Vec<Notice>,
) -> Result<(), ConfigError> {
    for (gate, all) in by_gate {
        let given = winner(false, all, notices);
        let value = super::values::parse_bool(&given.text).map_err(|why| {
            let spelled = spelled(&given.source);
            ConfigError::usage(format!(
                "invalid value {:?} for {spelled}: {why}",
                given.text
            ))
        })?;
        notices.push(Notice::warn(format!(
            "{} is an old spelling: write feature-gates {gate}={value}",
            spelled(&given.source)
        )));
        let gates = settings
            .by_name
            .get_mut("feature-gates")
            .expect("feature-gates is a row of the table");
        let named = gates
            .text
            .split(',')
            .any(|item| item.trim().split('=').next() == Some(gate));
        if named {
            continue;
        }
        if !gates.text.is_empty() {
            gates.text.push(',');
        }
        gates.text.push_str(&format!("{gate}={value}"));
        if gates.source == Source::Default {
            gates.source = given.source;
        }
    }
    Ok(())
}
