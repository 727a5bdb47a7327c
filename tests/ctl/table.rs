//! etcdctl and kvctl side by side: the same command lines on twin servers, the same output and exit code.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use kvnode_tests::program::{self, Ran};
use kvnode_tests::{Options, Server};

use crate::tour::binary;

/// Longest run of one command line.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn keys_leases_and_maintenance_answer_as_etcdctl_does() {
    compare(include_str!("cases-kv.txt"));
}

#[test]
fn users_and_roles_answer_as_etcdctl_does() {
    compare(include_str!("cases-auth.txt"));
}

/// One command line of a table.
#[derive(Default)]
struct Case {
    line: String,
    stdin: String,
    /// Its output is documented to differ: for this release, or for all.
    differs: Option<Option<String>>,
    /// kvctl's exit code, if it is documented to differ.
    code: Option<i32>,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            cases.push(Case {
                line: command.to_owned(),
                ..Case::default()
            });
        } else if line.is_empty() || line.starts_with('#') {
            continue;
        } else {
            let case = cases.last_mut().expect("a command line stands first");
            if let Some(input) = line.strip_prefix('<') {
                case.stdin
                    .push_str(input.strip_prefix(' ').unwrap_or(input));
                case.stdin.push('\n');
            } else if let Some(why) = line.strip_prefix("! out ") {
                let release = why.split_once(": ").map(|(release, _)| release.to_owned());
                case.differs = Some(release);
            } else if let Some(rest) = line.strip_prefix("! code ") {
                let (code, _) = rest.split_once(' ').expect("a code and a reason");
                case.code = Some(code.parse().expect("an exit code"));
            } else {
                panic!("odd line {line:?}");
            }
        }
    }
    cases
}

/// A program, its server, and the names that are its server's own.
struct Side {
    program: PathBuf,
    server: Server,
    cluster: u64,
    member: u64,
    leases: Vec<u64>,
}

impl Side {
    fn new(program: PathBuf) -> Side {
        let server = Server::start(Options::default());
        let client =
            kvnode_client::blocking::Client::new(kvnode_client::Config::new([server.url()]));
        let status = client
            .and_then(|client| client.status())
            .expect("the server serves");
        let header = status.header.expect("a header");
        Side {
            program,
            server,
            cluster: header.cluster_id,
            member: header.member_id,
            leases: Vec::new(),
        }
    }

    fn run(&mut self, case: &Case) -> Ran {
        let mut line = case.line.replace("{MEMBER}", &format!("{:x}", self.member));
        for (number, lease) in self.leases.iter().enumerate() {
            line = line.replace(&format!("{{L{}}}", number + 1), &format!("{lease:x}"));
        }
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("ETCDCTL_API", "3")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("ETCDCTL_ENDPOINTS", self.server.address().to_string());
        command.args(words(&line)).current_dir(self.server.home());
        let ran = program::run(command, &case.stdin, LIMIT);
        if let Some(rest) = ran.stdout.strip_prefix("lease ")
            && let Some((id, rest)) = rest.split_once(' ')
            && rest.starts_with("granted with TTL(")
            && case.line.starts_with("lease grant")
        {
            self.leases
                .push(u64::from_str_radix(id, 16).expect("a lease"));
        }
        ran
    }

    /// The output with everything of this server's own replaced by names.
    fn alike(&self, stdout: &str) -> String {
        let mut text = stdout.to_owned();
        for (name, id) in [("CLUSTER", self.cluster), ("MEMBER", self.member)]
            .into_iter()
            .chain(self.leases.iter().map(|lease| ("LEASE", *lease)))
        {
            for form in [id.to_string(), format!("{id:016x}"), format!("{id:x}")] {
                text = text.replace(&form, name);
            }
        }
        text = text.replace(&self.server.address().to_string(), "ADDRESS");
        text = text.replace(&self.server.peer_url(), "PEER");
        for (before, after) in [
            ("took = ", "\n"),
            ("took ", "\n"),
            ("\"took\":\"", "\""),
            ("remaining(", "s)"),
            ("\"ttl\":", ","),
            ("\"TTL\" : ", "\n"),
            ("\"ID\":", ","),
            ("\"ID\" : ", "\n"),
        ] {
            text = mask(&text, before, after);
        }
        text
    }
}

/// Replaces what stands between `before` and `after` by a dash, everywhere.
fn mask(text: &str, before: &str, after: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(before) {
        let (head, tail) = rest.split_at(at + before.len());
        out.push_str(head);
        out.push('-');
        rest = tail.find(after).map_or("", |end| &tail[end..]);
    }
    out + rest
}

/// Words of a shell line: blanks part, quotes hold together, a backslash takes the next character.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn compare(text: &str) {
    let etcdctl = std::env::var_os("KVNODE_ETCDCTL").map_or("etcdctl".into(), PathBuf::from);
    let version = Command::new(&etcdctl)
        .arg("version")
        .env("ETCDCTL_API", "3")
        .stderr(Stdio::null())
        .output();
    let version = match version {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            program::skip(
                "etcdctl",
                &format!("{}: {error} (Debian: etcd-client)", etcdctl.display()),
            );
            return;
        }
    };
    let is = |release: &str| version.starts_with(&format!("etcdctl version: {release}."));
    let mut theirs = Side::new(etcdctl);
    let mut ours = Side::new(binary());
    let mut findings = Vec::new();
    let cases = cases(text);
    for case in &cases {
        let (expected, found) = std::thread::scope(|scope| {
            let expected = scope.spawn(|| theirs.run(case));
            let found = ours.run(case);
            (expected.join().expect("etcdctl ran"), found)
        });
        let code = case.code.unwrap_or(expected.code);
        if found.code != code {
            findings.push(format!(
                "$ {}\n  exit code {}, expected {code}\n{}",
                case.line, found.code, found.stderr
            ));
        }
        let differs = match &case.differs {
            None => false,
            Some(None) => true,
            Some(Some(release)) => is(release),
        };
        let (expected_out, found_out) = (theirs.alike(&expected.stdout), ours.alike(&found.stdout));
        if case.code.is_none() && (expected_out != found_out) != differs {
            findings.push(format!(
                "$ {}\n--- etcdctl ({}):\n{expected_out}{}\n--- kvctl:\n{found_out}{}",
                case.line,
                if differs {
                    "documented to differ"
                } else {
                    "must be the same"
                },
                expected.stderr,
                found.stderr
            ));
        }
        if found.code != 0 && found.stderr.is_empty() {
            findings.push(format!("$ {}\n  fails without a word", case.line));
        }
    }
    assert!(
        findings.is_empty(),
        "{} of {} lines:\n{}",
        findings.len(),
        cases.len(),
        findings.join("\n")
    );
}

#[test]
fn the_tables_have_enough_lines() {
    let count =
        cases(include_str!("cases-kv.txt")).len() + cases(include_str!("cases-auth.txt")).len();
    assert!(count >= 150, "{count}");
}
