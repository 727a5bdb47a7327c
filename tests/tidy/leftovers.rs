//! What a working day leaves behind and a commit should not.

use crate::dependencies::code_only;
use crate::tree;

/// Reminders belong into an issue. (Assembled, or this file would find itself.)
const REMINDERS: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

const MACROS: [&str; 3] = [
    concat!("dbg", "!("),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

/// Beginnings of paths that exist on one machine only.
const MACHINES: [&str; 4] = [
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/tm", "p/kv/"),
];

#[test]
fn no_reminders_are_left() {
    let mut findings = Vec::new();
    for file in tree::files()
        .iter()
        .filter(|file| file.path != "Cargo.lock")
    {
        for (number, line) in file.lines() {
            for word in REMINDERS {
                let stands_alone = line.match_indices(word).any(|(at, _)| {
                    let inside =
                        |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                    !inside(line[..at].chars().next_back())
                        && !inside(line[at + word.len()..].chars().next())
                });
                if stands_alone {
                    findings.push(format!("{}:{number}: {}", file.path, line.trim()));
                }
            }
        }
    }
    tree::none(findings, "a reminder in the tree");
}

#[test]
fn no_debugging_macros_or_stubs_are_left() {
    let mut findings = Vec::new();
    for file in tree::sources() {
        let code = code_only(&file.text);
        for (number, line) in code.lines().enumerate() {
            if MACROS.iter().any(|name| line.contains(name)) {
                findings.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    tree::none(findings, "a debugging macro or a stub");
}

#[test]
fn an_ignored_test_says_why() {
    let bare = concat!("#[ig", "nore]");
    let mut findings = Vec::new();
    for file in tree::sources() {
        for (number, line) in file.lines() {
            if line.contains(bare) {
                findings.push(format!("{}:{number}", file.path));
            }
        }
    }
    tree::none(findings, "an ignored test without a reason");
}

#[test]
fn a_silenced_lint_says_why() {
    let mut findings = Vec::new();
    for file in tree::sources() {
        let code = code_only(&file.text);
        for name in ["allow(", "expect("] {
            for opening in ["#[", "#!["] {
                for (at, _) in code.match_indices(&format!("{opening}{name}")) {
                    // An attribute may span lines; none of ours holds another bracket.
                    let end = code[at..]
                        .find(']')
                        .map_or(code.len(), |length| at + length);
                    if !code[at..end].contains("reason") {
                        let number = code[..at].matches('\n').count() + 1;
                        findings.push(format!("{}:{number}", file.path));
                    }
                }
            }
        }
    }
    tree::none(findings, "a silenced lint without a reason");
}

#[test]
fn no_path_of_one_machine_is_named() {
    let mut findings = Vec::new();
    for file in tree::files() {
        for (number, line) in file.lines() {
            if MACHINES.iter().any(|path| line.contains(path)) {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    tree::none(findings, "a path of one machine");
}
