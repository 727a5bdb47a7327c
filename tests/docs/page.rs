//! A page of Markdown as the steps it asks its reader to take.

use std::path::{Path, PathBuf};

/// One thing to do.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// A command of a `console` block and what it prints.
    Compared {
        line: usize,
        /// `None` is the page's own shell.
        host: Option<String>,
        command: String,
        output: Vec<String>,
    },
    /// A block of `sh`, or a `quietly run` remark.
    Done {
        line: usize,
        /// Programs and files without which it is left out.
        needs: Vec<String>,
        command: String,
    },
    /// A block that is not run here, and why.
    NotRun { line: usize, why: Excuse },
}

/// Why a block is not run.
#[derive(Clone, Debug, PartialEq)]
pub enum Excuse {
    /// In words.
    Reason(String),
    /// A test runs it: its file, and its function or, in a script, the words that run it.
    RunBy { file: String, name: String },
}

pub struct Page {
    pub path: PathBuf,
    pub steps: Vec<Step>,
    /// Programs that are not ours, without which the page cannot be run.
    pub needs: Vec<String>,
    /// Complaints: commands in blocks of other languages, remarks in the wrong place.
    pub unmarked: Vec<String>,
}

const NOT_RUN: &str = "<!-- not run: ";
const RUN_BY: &str = "<!-- run by: ";
const QUIETLY: &str = "<!-- quietly run: ";
const NEEDS: &str = "<!-- needs: ";
const WHERE: &str = "<!-- run where: ";
/// What a line of a block begins with that is a command, whatever the block calls itself.
const PROGRAMS: [&str; 12] = [
    "cargo",
    "curl",
    "docker",
    "etcd",
    "etcdctl",
    "jq",
    "kubectl",
    "kvctl",
    "kvnode",
    "kvutil",
    "podman",
    "systemctl",
];

impl Page {
    pub fn read(path: &Path) -> Page {
        let text = std::fs::read_to_string(path).expect("a page can be read");
        Page::parse(path, &text)
    }

    pub fn parse(path: &Path, text: &str) -> Page {
        let mut page = Page {
            path: path.to_owned(),
            steps: Vec::new(),
            needs: Vec::new(),
            unmarked: Vec::new(),
        };
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
        let mut excuse = None;
        let mut block_needs = Vec::new();
        while let Some((number, line)) = lines.next() {
            let trimmed = line.trim_start();
            let indent = line.len() - trimmed.len();
            if let Some(reason) = remark(trimmed, NOT_RUN) {
                excuse = Some(Excuse::Reason(reason.to_owned()));
            } else if let Some(test) = remark(trimmed, RUN_BY) {
                let (file, name) = test.split_once(' ').unwrap_or((test, ""));
                excuse = Some(Excuse::RunBy {
                    file: file.to_owned(),
                    name: name.to_owned(),
                });
            } else if let Some(command) = remark(trimmed, QUIETLY) {
                let command = command.to_owned();
                page.steps.push(Step::Done {
                    line: number,
                    needs: Vec::new(),
                    command,
                });
            } else if let Some(program) = remark(trimmed, NEEDS) {
                page.needs.push(program.to_owned());
            } else if let Some(needs) = remark(trimmed, WHERE) {
                block_needs = needs.split_whitespace().map(str::to_owned).collect();
            } else if let Some(language) = trimmed.strip_prefix("```") {
                let block: Vec<(usize, &str)> = lines
                    .by_ref()
                    .map(|(at, line)| (at, line.get(indent..).unwrap_or("")))
                    .take_while(|(_, line)| !line.starts_with("```"))
                    .collect();
                let needs = std::mem::take(&mut block_needs);
                page.block(number, language, &block, excuse.take(), needs);
            } else if !trimmed.is_empty() {
                excuse = None;
                block_needs.clear();
            }
        }
        page
    }

    /// Whether commands run on other machines than the page's own.
    pub fn has_hosts(&self) -> bool {
        let on_host = |step: &Step| matches!(step, Step::Compared { host: Some(_), .. });
        self.steps.iter().any(on_host)
    }

    fn block(
        &mut self,
        number: usize,
        language: &str,
        block: &[(usize, &str)],
        excuse: Option<Excuse>,
        needs: Vec<String>,
    ) {
        let path = self.path.display();
        if !needs.is_empty() && (language != "sh" || excuse.is_some()) {
            self.unmarked.push(format!(
                "{path}:{number}: `run where` is for blocks of `sh` that are run"
            ));
        }
        match language {
            _ if excuse.is_some() => self
                .steps
                .extend(excuse.map(|why| Step::NotRun { line: number, why })),
            "console" => self.console(block),
            "sh" => {
                let lines: Vec<&str> = block.iter().map(|(_, line)| *line).collect();
                self.steps.push(Step::Done {
                    line: number,
                    needs,
                    command: lines.join("\n"),
                });
            }
            _ => {
                let command = |line: &str| {
                    let first = line.split_whitespace().next();
                    prompt(line).is_some() || first.is_some_and(|word| PROGRAMS.contains(&word))
                };
                if let Some((line, _)) = block.iter().find(|(_, line)| command(line)) {
                    self.unmarked.push(format!(
                        "{path}:{line}: a command outside of a block of `console` or `sh`"
                    ));
                }
            }
        }
    }

    fn console(&mut self, block: &[(usize, &str)]) {
        for (number, line) in block {
            if let Some((to, words)) = prompt(line) {
                self.steps.push(Step::Compared {
                    line: *number,
                    host: to.map(str::to_owned),
                    command: words.to_owned(),
                    output: Vec::new(),
                });
                continue;
            }
            let Some(Step::Compared {
                command, output, ..
            }) = self.steps.last_mut()
            else {
                let path = self.path.display();
                self.unmarked
                    .push(format!("{path}:{number}: output in front of any command"));
                continue;
            };
            match line
                .strip_prefix("> ")
                .or(line.strip_prefix('>').filter(|rest| rest.is_empty()))
            {
                Some(more) if output.is_empty() => {
                    command.push('\n');
                    command.push_str(more);
                }
                _ => output.push((*line).to_owned()),
            }
        }
    }
}

/// What a remark of this kind says.
fn remark<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    let words = line.strip_prefix(kind)?;
    Some(words.trim_end_matches("-->").trim())
}

/// `$ words` or `n1$ words`: host and words.
fn prompt(line: &str) -> Option<(Option<&str>, &str)> {
    let (host, words) = line.split_once("$ ")?;
    let named = |host: &str| host.starts_with('n') && host[1..].bytes().all(|b| b.is_ascii_digit());
    match host {
        "" => Some((None, words)),
        host if named(host) => Some((Some(host), words)),
        _ => None,
    }
}

#[test]
fn a_page_is_its_commands_and_what_they_print() {
    let text = "<!-- needs: etcd -->\n\n```console\n$ one \\\n> two\nout\n\nmore\nn1$ three\n```\n\n- x\n\n  ```sh\n  four\n    five\n  ```\n\
                <!-- not run: it takes a day -->\n```sh\nsix\n```\n```\n$ seven\n```\n<!-- quietly run: eight -->\n\
                <!-- run by: tests/a.rs nine -->\n```sh\nten\n```\n<!-- run where: jq /a/file -->\n```sh\neleven\n```\n\
                ```sh\ntwelve\n```\n```text\nwal podman\n```\n```text\npodman thirteen\n```\n<!-- run where: jq -->\n```console\n$ fourteen\n```\n";
    let page = Page::parse(Path::new("p.md"), text);
    let compared = |line, host: Option<&str>, command: &str, output: &[&str]| Step::Compared {
        line,
        host: host.map(str::to_owned),
        command: command.to_owned(),
        output: output.iter().map(|line| (*line).to_owned()).collect(),
    };
    let done = |line, needs: &[&str], command: &str| Step::Done {
        line,
        needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        command: command.to_owned(),
    };
    assert_eq!(
        page.steps,
        [
            compared(4, None, "one \\\ntwo", &["out", "", "more"]),
            compared(9, Some("n1"), "three", &[]),
            done(14, &[], "four\n  five"),
            Step::NotRun {
                line: 19,
                why: Excuse::Reason("it takes a day".to_owned()),
            },
            done(25, &[], "eight"),
            Step::NotRun {
                line: 27,
                why: Excuse::RunBy {
                    file: "tests/a.rs".to_owned(),
                    name: "nine".to_owned(),
                },
            },
            done(31, &["jq", "/a/file"], "eleven"),
            done(34, &[], "twelve"),
            compared(45, None, "fourteen", &[]),
        ]
    );
    assert_eq!(
        page.unmarked,
        [
            "p.md:23: a command outside of a block of `console` or `sh`",
            "p.md:41: a command outside of a block of `console` or `sh`",
            "p.md:44: `run where` is for blocks of `sh` that are run",
        ]
    );
}
