//! `docs/configuration.md` says what the table says.

use crate::config::flags::{GROUPS, Kind, Verdict};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
const BEGIN: &str = "<!-- flags: written by the test the_configuration_page_is_the_table; KVNODE_WRITE_DOCS=1 rewrites it -->\n";
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
    let right = format!("{before}{BEGIN}{}{END}{after}", tables());
    if std::env::var_os("KVNODE_WRITE_DOCS").is_some() {
        std::fs::write(PATH, &right).expect("the page can be written");
        return;
    }
    assert!(
        page == right,
        "docs/configuration.md differs from the flag table: run this test with KVNODE_WRITE_DOCS=1"
    );
}
