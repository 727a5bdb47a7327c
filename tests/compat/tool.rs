//! Running other people's programs.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub use kvnode_tests::program::{Guard, Ran as Output, run, skip};
use kvnode_tests::server::wait;

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
