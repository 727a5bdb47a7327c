//! The page's shell on its throw-away machine: a step in, what it printed and its exit code out.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvnode_tests::build;
use kvnode_tests::program::skip;

use crate::compare::fits;
use crate::page::{Page, Step};

/// The longest that one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(120);
/// How long a command that only looks is repeated until it shows what the page does.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// The machines beside the page's own, by name.
const HOSTS: &str = "n1 n2 n3";
/// Ends the output of a step, in front of its exit code; printed by no program.
const END: char = '\u{1}';

/// Runs a page; answers what is not as it says. The first failure ends it: later steps build on earlier ones.
pub fn run(root: &Path, stage: &Path, page: &Page) -> Option<String> {
    let mut shell = Shell::start(root, stage, page.has_hosts());
    let path = page.path.display();
    for step in &page.steps {
        let (line, complaint) = match step {
            Step::NotRun { .. } => continue,
            Step::Done {
                line,
                needs,
                command,
            } => {
                if let Some(missing) = needs.iter().find(|need| !installed(root, need)) {
                    skip(missing, &format!("{path}:{line} is not run"));
                    continue;
                }
                let (code, printed) = shell.script(command);
                let failed = code != 0;
                (
                    line,
                    failed.then(|| format!("{command}\nended with {code}:\n{printed}")),
                )
            }
            Step::Compared {
                line,
                host,
                command,
                output,
            } => (line, shell.compared(host.as_deref(), command, output)),
        };
        if let Some(complaint) = complaint {
            if showing() {
                println!("{path}:{line}: {complaint}");
                continue;
            }
            return Some(format!("{path}:{line}: {complaint}\n{}", shell.logs()));
        }
    }
    None
}

/// For who writes a page: all that differs is printed, and the rest is run all the same.
fn showing() -> bool {
    std::env::var_os("KVNODE_DOCS_SHOW").is_some()
}

/// Makes the tree that the packages install, with the programs that the tests use.
pub fn stage(root: &Path) -> PathBuf {
    let programs = build::subject().path.parent().expect("a file").to_owned();
    for tool in ["kvctl", "kvutil"] {
        build::tool(tool);
    }
    let out = build::scratch().join("packages");
    let output = Command::new(root.join("packaging/build"))
        .args(["stage", "--programs"])
        .arg(programs)
        .arg("--out")
        .arg(&out)
        .output()
        .expect("packaging/build runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "packaging/build: {said}");
    out.join("stage")
}

/// Where programs are looked for: our stand-ins, the system's, what `.ci/run` has unpacked.
fn path(root: &Path) -> String {
    let stand_ins = root.join("tests/docs/stand-ins");
    let etcd = root.join("target/etcd/usr/bin");
    format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{}",
        stand_ins.display(),
        etcd.display()
    )
}

/// Whether a page can use this program, or file.
pub fn installed(root: &Path, program: &str) -> bool {
    path(root)
        .split(':')
        .any(|directory| Path::new(directory).join(program).exists())
}

pub struct Shell {
    child: Child,
    stdin: ChildStdin,
    /// (exit code, output) of a step, from the thread that reads.
    steps: mpsc::Receiver<(i32, String)>,
}

impl Shell {
    /// Whether this machine lets a test have throw-away copies of it, with networks of their own.
    pub fn possible(root: &Path) -> Result<(), String> {
        let output = Command::new(root.join("packaging/throwaway"))
            .arg("true")
            .env("THROWAWAY_HOSTS", HOSTS)
            .current_dir(root)
            .output()
            .map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    fn start(root: &Path, stage: &Path, hosts: bool) -> Shell {
        let hosts = if hosts { HOSTS } else { "" };
        let mut child = Command::new(root.join("packaging/throwaway"))
            .args([
                "bash",
                "-c",
                "mkdir /tmp/docs && cd /tmp/docs && exec 2>&1 && exec bash",
            ])
            .current_dir(root)
            .env("THROWAWAY_HOSTS", hosts)
            .env("THROWAWAY_BIND", stage)
            .env("DOCS_TREE", root)
            .env("DOCS_STAGE", stage)
            .env("PATH", path(root))
            .env("LC_ALL", "C.UTF-8")
            .env("COLUMNS", "200")
            .env_remove("ETCDCTL_API")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("packaging/throwaway runs");
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let (sender, steps) = mpsc::channel();
        std::thread::spawn(move || read_steps(stdout, &sender));
        Shell {
            child,
            stdin,
            steps,
        }
    }

    /// Runs it and compares; repeated where it only looks.
    fn compared(&mut self, host: Option<&str>, command: &str, shown: &[String]) -> Option<String> {
        let fails = shown.iter().any(|line| {
            ["error:", "Error:", "next:"]
                .iter()
                .any(|word| line.contains(word))
        });
        let limit = match showing() {
            true => Duration::from_secs(5),
            false => LOOK_LIMIT,
        };
        let until = Instant::now() + limit;
        loop {
            let (code, printed) = self.step(host, command);
            if fits(shown, &printed) && (code != 0) == fails {
                return None;
            }
            if !only_looks(command) || Instant::now() > until {
                let shown = shown.join("\n");
                return Some(format!(
                    "{command}\nthe page shows:\n{shown}\nbut it printed, and ended with {code}:\n{printed}"
                ));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// (exit code, output) of a command in the page's shell, or in a new one on a host.
    fn step(&mut self, host: Option<&str>, command: &str) -> (i32, String) {
        let words = match host {
            None => format!("eval {} </dev/null", quoted(command)),
            Some(host) => format!(
                "nsenter --net=/run/netns/{host} chroot /hosts/{host} bash -c {} </dev/null",
                quoted(&format!("cd /root\n{command}"))
            ),
        };
        self.answer(&words, "$?")
    }

    /// (exit code, output) of lines of which none may fail; the code is that of the last that did.
    fn script(&mut self, lines: &str) -> (i32, String) {
        let trap = r#"script_code=0; trap 'script_code=$?; echo "failed: $BASH_COMMAND"' ERR"#;
        let words = format!("{trap}\neval {} </dev/null\ntrap - ERR", quoted(lines));
        self.answer(&words, "$script_code")
    }

    /// What the page's shell prints of the words, and the code that they leave in a variable.
    fn answer(&mut self, words: &str, code: &str) -> (i32, String) {
        writeln!(self.stdin, "{words}\nprintf '\\001%d\\n' {code}").expect("the shell takes words");
        match self.steps.recv_timeout(STEP_LIMIT) {
            Ok(step) => step,
            Err(_) => (
                -1,
                format!("(no end within {STEP_LIMIT:?}, or the shell is gone)"),
            ),
        }
    }

    /// The end of what the services of the stand-in said.
    fn logs(&mut self) -> String {
        self.step(
            None,
            "tail -n 3 /run/*.log /hosts/*/run/*.log *.log 2>/dev/null",
        )
        .1
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Everything on the machine ends with its first process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_steps(stdout: impl Read, sender: &mpsc::Sender<(i32, String)>) {
    let mut printed = String::new();
    let mut lines = BufReader::new(stdout);
    let mut bytes = Vec::new();
    while lines
        .read_until(b'\n', &mut bytes)
        .is_ok_and(|length| length > 0)
    {
        let line = String::from_utf8_lossy(&bytes);
        match line.split_once(END) {
            Some((last, code)) => {
                printed.push_str(last);
                let code = code.trim().parse().unwrap_or(-1);
                if sender.send((code, std::mem::take(&mut printed))).is_err() {
                    return;
                }
            }
            None => printed.push_str(&line),
        }
        bytes.clear();
    }
}

fn only_looks(command: &str) -> bool {
    let looks = [
        "kvctl endpoint",
        "kvctl status",
        "kvctl member list",
        "kvctl get",
        "curl",
        "etcdctl endpoint",
        "journalctl",
        "kvctl alarm list",
    ];
    looks.iter().any(|start| command.starts_with(start))
}

/// As one word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
