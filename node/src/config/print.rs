//! What the process prints about its configuration: the manual, the version, the merged result.

use super::flags::{self, Flag, Kind, Verdict};
use super::merge::{Settings, Source};
use super::{Config, Effective};
use crate::version;
use std::fmt::Write as _;

const WIDTH: usize = 90;
const INDENT: usize = 6;

/// What it is, in a line.
pub(super) const SUMMARY: &str = "replicated key-value server speaking etcd's v3 API";

pub(super) const INTRO: &str = "\
Without flags: one member called \"default\", clients on http://localhost:2379, state in
default.etcd in the working directory.

A flag is written --flag=value, --flag value or -flag value; a boolean alone means true.
Each flag --some-flag is also the variable KVNODE_SOME_FLAG or ETCD_SOME_FLAG and the key
some-flag of the configuration file. A flag wins over KVNODE_*, that over ETCD_*, that
over the file. Flags of etcd that have no meaning here are accepted and noted in the log;
those whose feature this version lacks are refused rather than ignored.
";

pub(super) const EXIT_CODES: &str = "\
  0   stopped on request, or asked only to print
  1   could not do it
  2   wrong configuration
  3   refused: going on could lose data
  5   another process holds the data directory
  8   the data was written by a newer version
  9   a device failed a write or a sync
  78  the machine lacks something (io_uring, locked memory)
";

pub(super) const EXAMPLES: &str = "\
  kvnode
  kvnode --data-dir=kv --listen-client-urls=http://0.0.0.0:2379 \\
         --advertise-client-urls=http://10.0.0.1:2379
  kvnode --config-file=kvnode.yaml --check-config
  kvnode man [kvnode.yaml] | man -l -
  kvnode completion bash|zsh|fish
";

/// The manual, as `--help` prints it.
pub fn help() -> String {
    let mut text = format!("kvnode - {SUMMARY}\n\nUsage: kvnode [--FLAG=VALUE]...\n\n{INTRO}");
    for group in flags::GROUPS {
        let shown = |flag: &&Flag| matches!(flag.verdict, Verdict::Used);
        if !group.flags.iter().any(|flag| shown(&flag)) {
            continue;
        }
        let _ = writeln!(text, "\n{}", group.title);
        for flag in group.flags.iter().filter(shown) {
            write_flag(&mut text, flag);
        }
    }
    let names = |keep: fn(&Flag) -> bool| -> Vec<&str> {
        flags::all()
            .filter(|flag| keep(flag))
            .map(|flag| flag.name)
            .collect()
    };
    let others = [
        (
            "Refused unless left at the default: not supported by this version",
            names(|flag| matches!(flag.verdict, Verdict::Planned(_))),
        ),
        (
            "Accepted without effect",
            names(|flag| matches!(flag.verdict, Verdict::Accepted(_) | Verdict::Ignored)),
        ),
        (
            "Gone",
            names(|flag| matches!(flag.verdict, Verdict::Gone(_))),
        ),
    ];
    for (title, names) in others {
        let _ = writeln!(text, "\n{title}");
        wrap(&mut text, &names.join(", "), 2);
    }
    let _ = write!(text, "\nExit codes\n{EXIT_CODES}\nExamples\n{EXAMPLES}");
    text
}

fn write_flag(text: &mut String, flag: &Flag) {
    let gap = match flag.kind {
        Kind::Bool | Kind::Mode | Kind::OptionalText => "",
        _ => " ",
    };
    let _ = writeln!(text, "  --{}{gap}{}", flag.name, flag.placeholder());
    let mut about = flag.help.to_owned();
    if let Kind::Choice(words) = flag.kind {
        let _ = write!(about, " One of {}.", words.join(", "));
    }
    if !flag.default.is_empty() && flag.kind != Kind::Mode {
        let _ = write!(about, " [default: {}]", flag.default);
    }
    wrap(text, &about, INDENT);
}

/// Writes words in lines of at most `WIDTH` bytes, each `indent` deep.
pub(super) fn wrap(text: &mut String, about: &str, indent: usize) {
    let mut column = 0;
    for word in about.split_whitespace() {
        if column > 0 && column + 1 + word.len() > WIDTH {
            text.push('\n');
            column = 0;
        }
        match column {
            0 => {
                text.push_str(&" ".repeat(indent));
                column = indent;
            }
            _ => {
                text.push(' ');
                column += 1;
            }
        }
        text.push_str(word);
        column += word.len();
    }
    text.push('\n');
}

/// Four lines, as `--version` prints them.
pub fn version() -> String {
    format!(
        "kvnode Version: {}\nEtcd-compatible Version: {}\nRust Version: {} ({})\nGit SHA: {}\n",
        version::KVNODE,
        version::ETCD,
        version::RUSTC,
        version::TARGET,
        version::COMMIT
    )
}

/// Every setting that matters here or was set, and can stand in a file; computed defaults filled in.
pub(super) fn effective(settings: &Settings, config: &Config) -> Vec<Effective> {
    flags::all()
        .filter(|flag| flag.kind != Kind::Mode && !flag.name.starts_with("config-"))
        .filter(|flag| flag.verdict == Verdict::Used || settings.is_set(flag.name))
        .map(|flag| {
            let setting = settings.get(flag.name);
            let value = match (flag.name, setting.text.as_str()) {
                (_, text) if flag.kind == Kind::Secret && !text.is_empty() => "(hidden)".to_owned(),
                ("data-dir", "") => config.data_dir.display().to_string(),
                ("admin-socket", "") => match &config.admin_socket {
                    Some(socket) => socket.path.display().to_string(),
                    None => String::new(),
                },
                ("initial-cluster", "") => config
                    .initial_cluster
                    .iter()
                    .flat_map(|member| {
                        member
                            .peer_urls
                            .iter()
                            .map(|url| format!("{}={url}", member.name))
                    })
                    .collect::<Vec<_>>()
                    .join(","),
                (_, text) => text.to_owned(),
            };
            Effective {
                name: flag.name,
                value,
                source: setting.source.clone(),
            }
        })
        .collect()
}

/// `name: value  # source`, a line each, values quoted where YAML would misread them.
pub(super) fn report(effective: &[Effective]) -> String {
    let lines: Vec<(String, String)> = effective
        .iter()
        .map(|one| {
            (
                format!("{}: {}", one.name, quoted(&one.value)),
                source(&one.source),
            )
        })
        .collect();
    let width = lines
        .iter()
        .map(|(line, _)| line.len())
        .filter(|len| *len <= 60)
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (line, source) in lines {
        let _ = writeln!(text, "{line:width$}  # {source}");
    }
    text
}

fn source(source: &Source) -> String {
    match source {
        Source::Default => "default".to_owned(),
        Source::Env(name) => format!("variable {name}"),
        Source::Flag(name) => format!("flag {name}"),
        file => format!("file {file}"),
    }
}

/// Plain where that is the same text to any YAML reader, else in JSON's quotes, which are YAML's.
pub(super) fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        && (text.parse::<f64>().is_err() || text.bytes().all(|b| b.is_ascii_digit()))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "null" | "yes" | "no" | "on" | "off"
        );
    match plain {
        true => text.to_owned(),
        false => serde_json::Value::from(text).to_string(),
    }
}
