//! Running other programs: with a time limit, with all they print, and with a reason when they are missing.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use kvnode_tests::server::wait;

#[derive(Debug)]
pub struct Output {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Demands success and returns what was printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success, "failed:\n{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Demands failure with this in its complaint.
    #[track_caller]
    pub fn fails_with(&self, text: &str) {
        let said = format!("{}{}", self.stdout, self.stderr);
        assert!(
            !self.success && said.contains(text),
            "expected {text:?}: {self:?}"
        );
    }
}

/// Runs a program to its end; panics when it takes longer than the limit.
pub fn run(mut command: Command, input: &str, limit: Duration) -> Output {
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
    Output {
        success: status.success(),
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

/// A program in the background, its lines as they come; killed when dropped.
pub fn background(mut command: Command) -> (Guard, mpsc::Receiver<String>) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = Guard(command.spawn().expect("it starts"));
    let output = BufReader::new(child.0.stdout.take().expect("piped"));
    let (lines, printed) = mpsc::channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    (child, printed)
}

/// Ends it as ^C does: it tidies up.
pub fn interrupt(mut child: Guard) {
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("our own child");
    wait(&mut child.0, Duration::from_secs(30)).expect("it ends");
}

/// Whether a program can be started at all.
///
/// # Errors
/// Why not.
pub fn is_there(program: &str, argument: &str) -> Result<(), String> {
    let tried = Command::new(program)
        .arg(argument)
        .env("ETCDCTL_API", "3")
        .output();
    tried.map(drop).map_err(|error| error.to_string())
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
