//! Manifests and `use` lines against the table in `crates.rs`.

use crate::crates::{self, CRATES, FREE, NAMES};
use crate::tree::{self, File};

/// The entries of a manifest's section, as (line number, key, line).
fn section<'a>(manifest: &'a File, wanted: &str) -> Vec<(usize, &'a str, &'a str)> {
    let mut inside = false;
    let mut entries = Vec::new();
    for (number, line) in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == format!("[{wanted}]");
        } else if inside
            && !line.starts_with([' ', '#', ']'])
            && let Some(end) = line.find(|c: char| c == '=' || c == '.' || c.is_whitespace())
        {
            entries.push((number, &line[..end], line));
        }
    }
    entries
}

/// Sections this reader does not understand would slip through it.
fn has_unread_section(manifest: &File) -> Option<&str> {
    manifest.text.lines().find(|line| {
        let table = line.starts_with("[dependencies.") || line.starts_with("[dev-dependencies.");
        table || (line.starts_with("[target.") && line.contains("dependencies"))
    })
}

#[test]
fn every_package_depends_only_on_what_its_role_allows() {
    let mut findings = Vec::new();
    for (directory, manifest) in tree::manifests() {
        let Some(known) = CRATES.iter().find(|known| known.directory == directory) else {
            if !crates::OUTSIDE.contains(&directory.as_str()) {
                findings.push(format!("{}: not in the table of crates", manifest.path));
            }
            continue;
        };
        if let Some(line) = has_unread_section(&manifest) {
            findings.push(format!("{}: write {line} as [dependencies]", manifest.path));
        }
        for (line, name, _) in section(&manifest, "dependencies") {
            if !known.may_use.contains(&name) && !FREE.contains(&name) {
                findings.push(format!(
                    "{}:{line}: {name} is not for {directory} ({})",
                    manifest.path, known.role
                ));
            }
        }
    }
    tree::none(findings, "a dependency outside the table");
}

#[test]
fn the_table_names_only_packages_that_exist() {
    let directories: Vec<String> = tree::manifests()
        .into_iter()
        .map(|(directory, _)| directory)
        .collect();
    for known in CRATES {
        assert!(
            directories.iter().any(|d| d == known.directory),
            "{} is gone",
            known.directory
        );
    }
}

#[test]
fn names_stand_only_where_their_owner_lives() {
    let mut findings = Vec::new();
    for file in tree::sources() {
        let code = code_only(&file.text);
        for (name, places, why) in NAMES {
            let at_home = places.iter().any(|place| file.path.starts_with(place));
            if at_home || is_module_of_ours(&code, name) {
                continue;
            }
            for (number, line) in code.lines().enumerate() {
                if names_crate(line, name) {
                    findings.push(format!("{}:{}: {name}: {why}", file.path, number + 1));
                }
            }
        }
    }
    tree::none(findings, "a crate is named outside its place");
}

#[test]
fn every_root_dependency_states_its_reason() {
    let files = tree::files();
    let root = files
        .iter()
        .find(|file| file.path == "Cargo.toml")
        .expect("the root manifest");
    let lines: Vec<&str> = root.text.lines().collect();
    let entries = section(root, "workspace.dependencies");
    assert!(entries.len() > 10, "the reader finds the table");
    let mut findings = Vec::new();
    for (number, name, _) in entries {
        // One comment may serve the run of lines below it, up to the next blank line.
        let above = lines[..number - 1]
            .iter()
            .rev()
            .take_while(|line| !line.is_empty());
        if !above.into_iter().any(|line| line.starts_with('#')) {
            findings.push(format!("Cargo.toml:{number}: {name}"));
        }
    }
    tree::none(findings, "a dependency without a reason above it");
}

#[test]
fn versions_are_chosen_at_the_root_or_with_a_reason() {
    let mut findings = Vec::new();
    for (directory, manifest) in tree::manifests() {
        if crates::OUTSIDE.contains(&directory.as_str()) {
            continue;
        }
        let lines: Vec<&str> = manifest.text.lines().collect();
        for name in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (number, dependency, line) in section(&manifest, name) {
                let shared = line.contains("workspace = true");
                let reasoned = number >= 2 && lines[number - 2].starts_with('#');
                let same = directory.starts_with("tests") && dependency == "tokio";
                if !shared && !reasoned && !same {
                    findings.push(format!("{}:{number}: {line}", manifest.path));
                }
            }
        }
    }
    tree::none(
        findings,
        "a version outside the shared table without a reason",
    );
}

#[test]
fn every_package_inherits_the_shared_lints_and_metadata() {
    let mut findings = Vec::new();
    for (directory, manifest) in tree::manifests() {
        if crates::OUTSIDE.contains(&directory.as_str()) {
            continue;
        }
        if !manifest.text.contains("[lints]\nworkspace = true") {
            findings.push(format!("{}: no [lints] workspace = true", manifest.path));
        }
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            if !manifest.text.contains(&format!("\n{key}.workspace = true")) {
                findings.push(format!("{}: {key} is not the workspace's", manifest.path));
            }
        }
    }
    tree::none(findings, "a package on its own");
}

#[test]
fn the_pure_crates_forbid_clocks_files_and_threads_by_lint() {
    let files = tree::files();
    for directory in ["replica", "store"] {
        let path = format!("{directory}/clippy.toml");
        let config = files
            .iter()
            .find(|file| file.path == path)
            .expect("a clippy.toml");
        for name in [
            "time::Instant::now",
            "time::SystemTime::now",
            "thread::spawn",
            "fs::File",
        ] {
            let entry = format!("path = \"std::{name}\"");
            assert!(config.text.contains(&entry), "{path} lacks {name}");
        }
    }
}

/// Whether a file means a module of ours by this name: it declares it, or imports it from here.
fn is_module_of_ours(code: &str, name: &str) -> bool {
    code.contains(&format!("mod {name};"))
        || code.split(';').any(|statement| {
            let Some(at) = statement.rfind("use ") else {
                return false;
            };
            let path = &statement[at + 4..];
            let ours = ["crate::", "self::", "super::"]
                .iter()
                .any(|own| path.starts_with(own));
            ours && path
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == name)
        })
}

/// Whether a line of code names the crate: as the head of a path, or in a `use`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        let head = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        let used = line
            .trim_start()
            .trim_start_matches("pub ")
            .starts_with("use ")
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let own = ["crate::", "self::", "super::"]
            .iter()
            .any(|own| line[..at].ends_with(own));
        let path = after.starts_with("::");
        let absolute = line[..at].ends_with(" ::") || line[..at].ends_with("(::");
        !own && ((head && path) || (head && used && is_first_segment(&line[..at])) || absolute)
    })
}

/// Whether a `use` line up to here has named nothing yet.
fn is_first_segment(before: &str) -> bool {
    before
        .trim_start()
        .trim_start_matches("pub ")
        .trim_start_matches("use ")
        .trim()
        .is_empty()
}

/// The text with comments, strings and characters blanked; lines stay where they are.
pub fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest, &out) {
            length
        } else if first == '"' {
            string(rest)
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        let taken = match skip {
            0 => {
                out.push(first);
                first.len_utf8()
            }
            length => {
                out.extend(
                    rest[..length]
                        .chars()
                        .map(|c| if c == '\n' { '\n' } else { ' ' }),
                );
                length
            }
        };
        rest = &rest[taken..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of `r"..."`, `r#"..."#` and their byte forms, unless the `r` ends a word.
fn raw_string(text: &str, before: &str) -> Option<usize> {
    if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len();
    Some(
        body.find(&end)
            .map_or(text.len(), |at| start + at + end.len()),
    )
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text
            .char_indices()
            .skip(3)
            .find(|(_, c)| *c == '\'')
            .map_or(0, |(at, _)| at + 1),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

#[test]
fn comments_strings_and_characters_are_not_code() {
    let source = "a // fjall::x\nb /* fjall::y /* z */ */ c \"fjall::\\\" d\" r#\"fjall::\"# e '\\'' '\"' f<'a>";
    let code = code_only(source);
    assert!(!code.contains("fjall"), "{code}");
    assert_eq!(code.lines().count(), 2);
    for word in ["a ", "b ", " c ", " e ", " f<'a>"] {
        assert!(code.contains(word), "{word:?} in {code:?}");
    }
}

#[test]
fn an_import_of_our_module_is_known_from_the_crate_of_that_name() {
    assert!(is_module_of_ours(
        "use crate::engine::{Space, fjall};",
        "fjall"
    ));
    assert!(is_module_of_ours(
        "use a;\nuse super::fjall::{\n X };",
        "fjall"
    ));
    assert!(is_module_of_ours("pub mod fjall;", "fjall"));
    assert!(!is_module_of_ours(
        "use fjall::Keyspace; use crate::fjallish;",
        "fjall"
    ));
}

#[test]
fn a_crate_is_named_by_paths_and_uses_but_not_by_modules_of_ours() {
    for line in [
        "use fjall::Keyspace;",
        "use fjall;",
        "pub use fjall as f;",
        "x(fjall::open())",
        "a::<fjall::X>()",
    ] {
        assert!(names_crate(line, "fjall"), "{line}");
    }
    for line in [
        "mod fjall;",
        "use crate::engine::fjall::Engine;",
        "self::fjall::x()",
        "let fjall = 1;",
        "use engine::fjall;",
        "my_fjall::x()",
        "fjallish::x()",
    ] {
        assert!(!names_crate(line, "fjall"), "{line}");
    }
}
