//! How files look, beyond what rustfmt holds.

use crate::tree;

const LINES_MAX: usize = 1000;

/// Files that may be longer, each with its reason.
const LONG: &[(&str, &str)] = &[];

#[test]
fn rust_and_toml_are_ascii() {
    let mut findings = Vec::new();
    for file in tree::files().iter().filter(|file| file.is(&["rs", "toml"])) {
        for (number, line) in file.lines() {
            if let Some(other) = line
                .chars()
                .find(|c| !c.is_ascii() || (c.is_control() && *c != '\t'))
            {
                findings.push(format!(
                    "{}:{number}: {}",
                    file.path,
                    other.escape_unicode()
                ));
            }
        }
    }
    tree::none(findings, "a character that is not ASCII");
}

#[test]
fn files_stay_readable_in_one_sitting() {
    let mut findings = Vec::new();
    for file in tree::sources() {
        let count = file.text.lines().count();
        if count > LINES_MAX && !LONG.iter().any(|(path, _)| *path == file.path) {
            findings.push(format!("{}: {count} lines", file.path));
        }
    }
    for (path, reason) in LONG {
        let file = tree::sources().into_iter().find(|file| file.path == *path);
        if file.is_none_or(|file| file.text.lines().count() <= LINES_MAX) {
            findings.push(format!("{path} needs no exception any more ({reason})"));
        }
    }
    tree::none(findings, "a file of more than 1000 lines");
}

#[test]
fn text_has_no_trailing_blanks_and_ends_with_a_newline() {
    let mut findings = Vec::new();
    let kinds = [
        "rs", "toml", "md", "yaml", "yml", "service", "conf", "sh", "py", "proto",
    ];
    for file in tree::files()
        .iter()
        .filter(|file| file.is(&kinds) || file.path == ".ci/run")
    {
        for (number, line) in file.lines() {
            if line.ends_with([' ', '\t', '\r']) {
                findings.push(format!("{}:{number}", file.path));
            }
        }
        if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
            findings.push(format!("{}: its end", file.path));
        }
    }
    tree::none(findings, "blanks at the end of a line or file");
}

#[test]
fn every_source_file_opens_with_its_reason() {
    let mut findings = Vec::new();
    for file in tree::sources() {
        let test = file.path.contains("/tests/") || file.path.ends_with("tests.rs");
        if !test && !file.text.starts_with("//!") {
            findings.push(file.path);
        }
    }
    tree::none(findings, "a file without an opening comment");
}
