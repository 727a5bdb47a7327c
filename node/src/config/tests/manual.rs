//! `docs/configuration.md` and `packaging/kvnode.yaml` say what the table says.

use crate::config::flags::{GROUPS, Kind, Verdict};
use crate::config::pages;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
const BEGIN: &str = "<!-- flags: written by the test the_configuration_page_is_the_table; KVNODE_WRITE_DOCS=1 rewrites it -->\n";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/kvnode.yaml");
const REST: &str =
    "\n# Every other key with its default (written by the test the_packaged_file_has_every_key).\n";
const END: &str = "<!-- end of flags -->\n";

fn tables() -> String {
    let mut text = String::new();
    for group in GROUPS {
        text.push_str(&format!("\n### {}\n\n", group.title));
        text.push_str("| flag | default | meaning | here |\n|---|---|---|---|\n");
        for flag in group.flags {
            let default = match (flag.kind, flag.default) {
                (Kind::Mode, _) | (_, "") => String::new(),
                (_, default) => format!("`{default}`"),
            };
            let here = match flag.verdict {
                Verdict::Used if crate::live::RELOADABLE.contains(&flag.name) => {
                    "used, reloadable".to_owned()
                }
                Verdict::Used => "used".to_owned(),
                Verdict::Planned(hint) => format!("refused: {hint}"),
                Verdict::Accepted(why) => format!("no effect: {why}"),
                Verdict::Ignored => "ignored, as in etcd".to_owned(),
                Verdict::Gone(instead) => format!("gone: {instead}"),
            };
            let mut help = flag.help.to_owned();
            if let Kind::Choice(words) = flag.kind {
                let words: Vec<&str> = words.iter().copied().filter(|w| !w.is_empty()).collect();
                help.push_str(&format!(" One of {}.", words.join(", ")));
            }
            let cell = |text: &str| text.replace('|', "\\|");
            text.push_str(&format!(
                "| `{}` | {} | {} | {} |\n",
                flag.name,
                cell(&default),
                cell(&help),
                cell(&here)
            ));
        }
    }
    text.push('\n');
    text
}

#[test]
fn the_configuration_page_is_the_table() {
    let page = std::fs::read_to_string(PATH).expect("docs/configuration.md");
    let (before, rest) = page.split_once(BEGIN).expect("the place for the tables");
    let (_, after) = rest.split_once(END).expect("the end of the tables");
    holds(
        PATH,
        &page,
        &format!("{before}{BEGIN}{}{END}{after}", tables()),
    );
}

#[test]
fn the_packaged_file_has_every_key() {
    let file = std::fs::read_to_string(FILE).expect("packaging/kvnode.yaml");
    let (head, _) = file.split_once(REST).expect("the place for the other keys");
    holds(
        FILE,
        &file,
        &format!("{head}{REST}{}", pages::sample_rest(head)),
    );
}

/// Asserts that a file is what it should be, or makes it so where that was asked for.
fn holds(path: &str, is: &str, should: &str) {
    if std::env::var_os("KVNODE_WRITE_DOCS").is_some() {
        std::fs::write(path, should).expect("the file can be written");
        return;
    }
    assert!(
        is == should,
        "{path} differs from the flag table: run this test with KVNODE_WRITE_DOCS=1"
    );
}
