//! The table of flags in the forms that packages install: manual pages, completion scripts, the sample file.
//!
//! `kvnode man`, `kvnode man kvnode.yaml` and `kvnode completion SHELL` print them. They are words, not flags, as with
//! the other two programs, and are looked at before anything else is read.

use super::ConfigError;
use super::flags::{self, BLOCKS, Flag, GROUPS, Kind, Verdict};
use super::print::{EXAMPLES, EXIT_CODES, INTRO, SUMMARY, quoted, wrap};
use crate::version;
use std::ffi::OsString;
use std::fmt::Write as _;

/// The page or script these arguments (without the program's name) ask for; `None` if they are flags.
pub fn asked(args: &[OsString]) -> Option<Result<String, ConfigError>> {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or("")).collect();
    match words[..] {
        ["man"] => Some(Ok(program_page())),
        ["man", "kvnode.yaml"] => Some(Ok(file_page())),
        ["completion", "bash"] => Some(Ok(bash())),
        ["completion", "zsh"] => Some(Ok(zsh())),
        ["completion", "fish"] => Some(Ok(fish())),
        ["man", ..] => Some(Err(ConfigError::usage(
            "man takes nothing or the word kvnode.yaml",
        )
        .hint("kvnode man | man -l -"))),
        ["completion", ..] => Some(Err(ConfigError::usage(
            "completion takes one word: bash, zsh or fish",
        )
        .hint("kvnode completion bash > /etc/bash_completion.d/kvnode"))),
        _ => None,
    }
}

/// The flags that are worth a word to an operator: those this version acts on.
fn used(group: &flags::Group) -> impl Iterator<Item = &'static Flag> {
    let used = |flag: &&Flag| flag.verdict == Verdict::Used;
    group.flags.iter().filter(used)
}

/// Those among them that a configuration file may hold.
fn keys(group: &flags::Group) -> impl Iterator<Item = &'static Flag> {
    used(group).filter(|flag| flag.kind != Kind::Mode && !flag.name.starts_with("config-"))
}

/// What a flag means, which words it takes and what it is without being set.
fn about(flag: &Flag) -> String {
    let mut about = flag.help.to_owned();
    if let Kind::Choice(words) = flag.kind {
        let words: Vec<&str> = words
            .iter()
            .copied()
            .filter(|word| !word.is_empty())
            .collect();
        let _ = write!(about, " One of {}.", words.join(", "));
    }
    if crate::live::RELOADABLE.contains(&flag.name) {
        about.push_str(" Taken over by a reload.");
    }
    if !flag.default.is_empty() && flag.kind != Kind::Mode {
        let _ = write!(about, " Default: {}.", flag.default);
    }
    about
}

/// `kvnode.8`.
fn program_page() -> String {
    let mut page = heading("KVNODE", 8, SUMMARY);
    page.push_str(
        ".SH SYNOPSIS\n.B kvnode\n[\\fB\\-\\-\\fIflag\\fB=\\fIvalue\\fR]...\n.SH DESCRIPTION\n",
    );
    page.push_str(&prose(INTRO));
    page.push_str(".SH OPTIONS\n");
    for group in GROUPS {
        if used(group).next().is_none() {
            continue;
        }
        let _ = writeln!(page, ".SS {}", roff(group.title));
        for flag in used(group) {
            let gap = if flag.stands_alone() { "" } else { " " };
            let name = roff(&format!("--{}", flag.name));
            let value = roff(flag.placeholder());
            let _ = writeln!(
                page,
                ".TP\n\\fB{name}\\fR{gap}\\fI{value}\\fR\n{}",
                roff(&about(flag))
            );
        }
    }
    let _ = write!(page, ".SH EXIT STATUS\n{}", literal(EXIT_CODES));
    let _ = write!(page, ".SH EXAMPLES\n{}", literal(EXAMPLES));
    page.push_str(
        ".SH FILES\n.TP\n.I /etc/kvnode/kvnode.yaml\nSettings of kvnode.service.\n.TP\n.I /var/lib/kvnode\nData of packaged members.\n\
         .SH SEE ALSO\n.BR kvnode.yaml (5),\n.BR kvctl (1),\n.BR kvutil (1)\n",
    );
    page
}

/// `kvnode.yaml.5`.
fn file_page() -> String {
    let mut page = heading("KVNODE.YAML", 5, "configuration of kvnode");
    page.push_str(
        ".SH DESCRIPTION\nYAML or JSON, named by \\fB\\-\\-config\\-file\\fR. Flags and the variables KVNODE_* and ETCD_* override it.\n\
         A key that does not exist is an error with its line.\n.PP\n\
         \\fBkvnode \\-\\-config\\-file \\fIFILE\\fB \\-\\-check\\-config\\fR shows what results, or says what is wrong.\n.SH KEYS\n",
    );
    for group in GROUPS {
        if keys(group).next().is_none() {
            continue;
        }
        let _ = writeln!(page, ".SS {}", roff(group.title));
        for flag in keys(group) {
            let name = roff(flag.name);
            let _ = writeln!(page, ".TP\n.B {name}\n{}", roff(&about(flag)));
        }
    }
    page.push_str(".SH BLOCKS\nThe nested keys of etcd's file stand for flags of another name:\n");
    for (block, key, flag) in BLOCKS {
        let nested = roff(&format!("{block}.{key}"));
        let _ = writeln!(page, ".TP\n.B {nested}\n{}", roff(flag));
    }
    page.push_str(
        ".SH FILES\n.TP\n.I /etc/kvnode/kvnode.yaml\nRead by kvnode.service.\n.TP\n.I /etc/kvnode/NAME.yaml\nRead by kvnode@NAME.service.\n\
         .SH SEE ALSO\n.BR kvnode (8)\n",
    );
    page
}

fn heading(title: &str, section: u8, summary: &str) -> String {
    let name = title.to_ascii_lowercase();
    format!(
        ".TH {title} {section} \"\" \"kvnode {}\"\n.SH NAME\n{} \\- {}\n",
        version::KVNODE,
        roff(&name),
        roff(summary)
    )
}

/// Text for a line of its own: what roff would take for a command or another character is protected.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

/// Paragraphs.
fn prose(text: &str) -> String {
    let line = |line: &str| match line.trim() {
        "" => ".PP\n".to_owned(),
        line => format!("{}\n", roff(line)),
    };
    text.trim().lines().map(line).collect()
}

/// Lines as they stand.
fn literal(text: &str) -> String {
    let lines: String = text
        .lines()
        .map(|line| format!("{}\n", roff(line)))
        .collect();
    format!(".nf\n{lines}.fi\n")
}

/// The keys that `head`, the beginning of a configuration file, does not mention: each commented out with its meaning
/// and its default.
pub fn sample_rest(head: &str) -> String {
    let mentioned = |flag: &Flag| {
        let key = format!("{}:", flag.name);
        head.lines()
            .any(|line| line.trim_start_matches('#').starts_with(&key))
    };
    let mut text = String::new();
    for group in GROUPS {
        let rest: Vec<&Flag> = keys(group).filter(|flag| !mentioned(flag)).collect();
        if rest.is_empty() {
            continue;
        }
        let _ = write!(text, "\n## {}\n", group.title);
        for flag in rest {
            let mut lines = String::new();
            wrap(&mut lines, &about(flag), 0);
            text.push('\n');
            for line in lines.lines() {
                let _ = writeln!(text, "# {line}");
            }
            let _ = writeln!(text, "#{}: {}", flag.name, quoted(flag.default));
        }
    }
    text
}

/// The first sentence, for the column beside a name.
fn brief(flag: &Flag) -> &'static str {
    let end = flag.help.find(". ").unwrap_or(flag.help.len());
    flag.help[..end].trim_end_matches('.')
}

fn completed() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(used)
}

fn bash() -> String {
    let mut cases = String::new();
    let mut paths = Vec::new();
    let mut values = Vec::new();
    for flag in completed() {
        let name = format!("--{}", flag.name);
        match flag.kind {
            Kind::Choice(words) => {
                let words = words.join(" ");
                let _ = writeln!(
                    cases,
                    "    {name}) mapfile -t COMPREPLY < <(compgen -W '{words}' -- \"$cur\"); return ;;"
                );
            }
            Kind::Path => paths.push(name),
            _ if !flag.stands_alone() => values.push(name),
            _ => {}
        }
    }
    let all: Vec<String> = completed().map(|flag| format!("--{}", flag.name)).collect();
    format!(
        "# bash completion of kvnode, printed by: kvnode completion bash
_kvnode() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
  # Readline makes a word of its own of an equals sign.
  if [ \"$cur\" = = ]; then
    cur=
  elif [ \"$prev\" = = ] && [ \"$COMP_CWORD\" -ge 2 ]; then
    prev=${{COMP_WORDS[COMP_CWORD-2]}}
  fi
  COMPREPLY=()
  case $prev in
{cases}    {}) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); return ;;
    {}) return ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$cur\")
}}
complete -F _kvnode kvnode
",
        paths.join("|"),
        values.join("|"),
        all.join(" ")
    )
}

fn zsh() -> String {
    let mut specs = String::new();
    for flag in completed() {
        let about = brief(flag)
            .replace('\\', "\\\\")
            .replace('[', "\\[")
            .replace(']', "\\]")
            .replace('\'', "'\\''");
        let value = match flag.kind {
            Kind::Choice(words) => format!(":word:({})", words.join(" ")),
            Kind::Path => ":path:_files".to_owned(),
            _ => format!(":{}: ", flag.placeholder()),
        };
        let _ = match flag.stands_alone() {
            true => writeln!(specs, "  '--{}[{about}]' \\", flag.name),
            false => writeln!(specs, "  '--{}=[{about}]{value}' \\", flag.name),
        };
    }
    format!(
        "#compdef kvnode\n# Printed by: kvnode completion zsh\n_arguments \\\n{specs}  && return 0\n"
    )
}

fn fish() -> String {
    let mut lines = "# Printed by: kvnode completion fish\ncomplete -c kvnode -f\n".to_owned();
    for flag in completed() {
        let about = brief(flag).replace('\\', "\\\\").replace('\'', "\\'");
        let value = match flag.kind {
            Kind::Choice(words) => format!(" -x -a '{}'", words.join(" ")),
            Kind::Path => " -r -F".to_owned(),
            _ if flag.stands_alone() => String::new(),
            _ => " -x".to_owned(),
        };
        let _ = writeln!(
            lines,
            "complete -c kvnode -l {}{value} -d '{about}'",
            flag.name
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(words: &[&str]) -> String {
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        asked(&args).expect("a page").expect("a known one")
    }

    #[test]
    fn every_used_flag_is_on_the_page_and_in_every_completion() {
        let page = printed(&["man"]);
        let scripts = ["bash", "zsh", "fish"].map(|shell| printed(&["completion", shell]));
        for flag in flags::all().filter(|flag| flag.verdict == Verdict::Used) {
            let name = roff(&format!("--{}", flag.name));
            assert!(page.contains(&format!("\\fB{name}\\fR")), "{}", flag.name);
            for script in &scripts {
                assert!(script.contains(flag.name), "{}", flag.name);
            }
        }
    }

    #[test]
    fn every_key_of_the_file_is_on_its_page() {
        let page = printed(&["man", "kvnode.yaml"]);
        for flag in GROUPS.iter().flat_map(keys) {
            assert!(
                page.contains(&format!("\n.B {}\n", roff(flag.name))),
                "{}",
                flag.name
            );
        }
        assert!(
            !page.contains("config\\-file\\-only"),
            "it cannot stand in a file"
        );
    }

    #[test]
    fn no_line_of_a_page_is_taken_for_a_command() {
        assert_eq!(roff(".SH a-b \\"), "\\&.SH a\\-b \\e");
        assert_eq!(literal("'x"), ".nf\n\\&'x\n.fi\n");
    }

    #[test]
    fn flags_are_no_pages_and_unknown_pages_are_refused() {
        assert!(asked(&[]).is_none());
        assert!(asked(&["--help".into()]).is_none());
        for words in [
            &["man", "kvctl"][..],
            &["completion"],
            &["completion", "tcsh"],
        ] {
            let args: Vec<OsString> = words.iter().map(OsString::from).collect();
            let error = asked(&args).expect("ours").expect_err("unknown");
            assert_eq!(error.exit_code, 2);
        }
    }
}
