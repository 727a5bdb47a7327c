//! The documentation, run: every command that README.md and `docs/` show, in the order in which a page shows them, each
//! page on a throw-away copy of this machine (`packaging/throwaway`) with the packages' own files.
//!
//! ```text
//! ```console           each `$ ` line is run, and what it prints is compared with the lines below it
//! $ kvctl get greeting
//! ```
//!
//! - `n1$ ` runs on the host n1 (n1, n2 and n3 are 10.0.0.1, 10.0.0.2 and 10.0.0.3): another disk, another network namespace, a new
//!   shell; `$ ` are words to the page's one shell, which keeps its directory and variables. On a page without hosts that shell's machine
//!   has those addresses itself. A command goes on over lines that begin with `> `.
//! - `...` in an output line is any text, a line of only `...` any number of lines. The rest has to be equal.
//! - A command whose shown output has `error:`, `Error:` or `next:` has to fail, any other to succeed.
//! - A block of `sh` is run as it stands and has to succeed; its output is not compared.
//! - `<!-- needs: PROGRAM -->` leaves the page out where that is not installed (and fails where `KVNODE_TEST_REQUIRE` names it).
//! - `<!-- run where: PROGRAM... -->` above a block of `sh` leaves it alone out in that way; a path names a file instead.
//! - `<!-- not run: REASON -->` above a block leaves it out, and so does `<!-- run by: FILE NAME -->`: the test, or the line of a
//!   script, that runs it elsewhere. `<!-- quietly run: COMMAND -->` on a line of its own runs what a reader would not type.
//!
//! Commands that only look (`kvctl endpoint`, `status`, `member list`, `get`, and curl) are repeated for a while until they show what the
//! page shows: members find each other in their own time. What stands in for systemd, apt and scp is in `stand-ins/`.

mod compare;
mod page;
mod shell;

use std::path::{Path, PathBuf};

use kvnode_tests::program::skip;
use page::{Excuse, Page, Step};
use shell::Shell;

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("this package lies in the workspace").to_owned()
}

/// README.md and every page of `docs/`, by path.
fn pages() -> Vec<Page> {
    let directory = std::fs::read_dir(root().join("docs")).expect("docs/");
    let mut paths: Vec<PathBuf> = directory
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.push(root().join("README.md"));
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

#[test]
fn every_command_of_the_documentation_does_what_it_says() {
    let only = std::env::var("KVNODE_DOCS_PAGE").ok();
    if let Err(why) = Shell::possible(&root()) {
        return skip("throwaway", &why);
    }
    let stage = shell::stage(&root());
    let mut findings = Vec::new();
    for page in pages() {
        let wanted = only.as_ref().is_none_or(|name| page.path.ends_with(name));
        let steps = page
            .steps
            .iter()
            .any(|step| !matches!(step, Step::NotRun { .. }));
        if let Some(missing) = page
            .needs
            .iter()
            .find(|program| !shell::installed(&root(), program))
        {
            skip(missing, &format!("{} is not run", page.path.display()));
            continue;
        }
        if wanted && steps {
            let since = std::time::Instant::now();
            findings.extend(shell::run(&root(), &stage, &page));
            println!("{}: {} s", page.path.display(), since.elapsed().as_secs());
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n\n"));
}

#[test]
fn commands_stand_in_blocks_that_are_run() {
    let mut findings = Vec::new();
    for page in pages() {
        findings.extend(page.unmarked);
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// A reason of fewer words than this says nothing.
const REASON_WORDS_MIN: usize = 4;

#[test]
fn a_block_that_is_not_run_says_why_or_who_runs_it() {
    let mut findings = Vec::new();
    for page in pages() {
        for step in &page.steps {
            let Step::NotRun { line, why } = step else {
                continue;
            };
            let complaint = match why {
                Excuse::Reason(reason) => unconvincing(reason),
                Excuse::RunBy { file, name } => not_running(file, name),
            };
            let path = page.path.display();
            findings.extend(complaint.map(|complaint| format!("{path}:{line}: {complaint}")));
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

fn unconvincing(reason: &str) -> Option<String> {
    if reason.split_whitespace().count() < REASON_WORDS_MIN {
        return Some(format!("\"{reason}\" is no reason"));
    }
    let claim =
        reason.contains("tests/") || reason.contains(".rs") || reason.contains("packaging/");
    claim.then(|| format!("\"{reason}\" names what runs it: write \"run by: FILE NAME\""))
}

/// Of a source the name is that of a test in it, of another file a text in it.
fn not_running(file: &str, name: &str) -> Option<String> {
    let Ok(text) = std::fs::read_to_string(root().join(file)) else {
        return Some(format!("there is no {file}"));
    };
    let found = match file.ends_with(".rs") {
        true => text.contains(&format!("#[test]\nfn {name}()")),
        false => !name.is_empty() && text.contains(name),
    };
    (!found).then(|| format!("{file} has no \"{name}\""))
}

#[test]
fn reasons_and_claims_are_held_to_what_they_say() {
    assert!(unconvincing("").is_some());
    assert!(unconvincing("it is slow").is_some());
    assert!(unconvincing("tests/e2e has a test of it").is_some());
    assert_eq!(unconvincing("it asks for a password"), None);
    let this = "tests/docs/main.rs";
    assert_eq!(
        not_running(this, "reasons_and_claims_are_held_to_what_they_say"),
        None
    );
    assert!(not_running(this, "not_running").is_some());
    assert!(not_running(this, "").is_some());
    assert!(not_running("tests/docs/none.rs", "x").is_some());
    assert_eq!(not_running("packaging/check", "packaging/build"), None);
    assert!(not_running("packaging/check", "").is_some());
}
