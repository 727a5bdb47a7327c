//! Other programs, run by tests: with a time limit, with all they print, and with a reason when they are missing.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::server::wait;

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Demands success and returns what was printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.success(),
            "exit code {}:\n{}\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Demands this exit code and this in the complaint.
    #[track_caller]
    pub fn fails(&self, code: i32, text: &str) {
        assert!(
            self.code == code && self.stderr.contains(text),
            "expected {code} and {text:?}: {self:?}"
        );
    }

    /// Demands failure with this in what was said, wherever.
    #[track_caller]
    pub fn fails_with(&self, text: &str) {
        let said = format!("{}{}", self.stdout, self.stderr);
        assert!(
            !self.success() && said.contains(text),
            "expected {text:?}: {self:?}"
        );
    }
}

/// Runs a program to its end; panics when it takes longer than the limit.
pub fn run(mut command: Command, input: &str, limit: Duration) -> Ran {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    // A program that reads nothing may be gone before it could.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let Some(status) = wait(&mut child, limit) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} did not end within {limit:?}");
    };
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: stdout.join().expect("readers do not panic"),
        stderr: stderr.join().expect("readers do not panic"),
    }
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A child that is killed when the test is done with it.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that goes on while the test looks at its lines; killed when the test is done with it.
pub struct Running {
    child: Guard,
    pub stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    limit: Duration,
}

impl Running {
    /// `limit` is the longest wait for each line, and for the end.
    pub fn start(mut command: Command, limit: Duration) -> Running {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Running {
            stdin: child.stdin.take(),
            child: Guard(child),
            lines,
            limit,
        }
    }

    /// Demands these lines, in this order, to come next.
    #[track_caller]
    pub fn expect(&self, lines: &[&str]) {
        for expected in lines {
            assert_eq!(self.line(), *expected);
        }
    }

    /// The next line.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines
            .recv_timeout(self.limit)
            .expect("another line in time")
    }

    /// The next line, if it is there already.
    pub fn try_line(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Whether nothing was printed since the last look.
    pub fn is_silent(&self) -> bool {
        self.try_line().is_none()
    }

    /// SIGINT, as Ctrl-C sends it; then the exit code.
    pub fn interrupt(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("our own child");
        self.end()
    }

    /// Waits for its own end.
    pub fn end(&mut self) -> i32 {
        let status = wait(&mut self.child.0, self.limit).expect("it ends in time");
        status.code().unwrap_or(-1)
    }
}

/// Says why a test does nothing, or fails where doing nothing is not allowed.
pub fn skip(tool: &str, why: &str) {
    let required = std::env::var("KVNODE_TEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name == tool),
        "{tool} is required: {why}"
    );
    println!("skipped: {tool}: {why}");
}
