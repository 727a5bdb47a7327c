//! What only a person at a terminal sees: passwords without echo, questions, lines with editing.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvnode_tests::program::{self, Ran};
use kvnode_tests::server::wait;
use kvnode_tests::{Options, Server};

use crate::tour::binary;

/// Longest wait for what is to appear, and for an end.
const LIMIT: Duration = Duration::from_secs(30);

/// A program in a terminal of its own, made by `script`.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: Arc<Mutex<String>>,
    /// Bytes of the screen that were looked at.
    seen: usize,
}

impl Terminal {
    /// kvctl with this line, whose words need no quotes.
    fn start(server: &Server, line: &str) -> Terminal {
        let program = binary();
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command"])
            .arg(format!(
                "{} --endpoints {} {line}",
                program.display(),
                server.address()
            ))
            .arg("/dev/null")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERM", "xterm")
            .env("XDG_STATE_HOME", server.home().join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut output = child.stdout.take().expect("piped");
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]);
                shown.lock().expect("no panic").push_str(&text);
            }
        });
        Terminal {
            keyboard: child.stdin.take().expect("piped"),
            child,
            screen,
            seen: 0,
        }
    }

    fn screen(&self) -> String {
        self.screen.lock().expect("no panic").clone()
    }

    /// Waits until this stands on the screen, behind what was waited for before.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if let Some(at) = screen[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(begun.elapsed() < LIMIT, "{text:?} never came: {screen:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("it reads");
        self.keyboard.flush().expect("it reads");
    }

    /// Waits for its end; the exit code.
    #[track_caller]
    fn end(mut self) -> i32 {
        let status = wait(&mut self.child, LIMIT);
        let status = status.unwrap_or_else(|| panic!("it never ended: {:?}", self.screen()));
        status.code().unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal goes with it, which ends the program.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(server: &Server, line: &str) -> Ran {
    let mut command = Command::new(binary());
    command
        .env_clear()
        .arg("--endpoints")
        .arg(server.address().to_string())
        .args(line.split_whitespace());
    program::run(command, "", LIMIT)
}

#[test]
fn a_password_is_asked_for_twice_and_never_shown() {
    let server = Server::start(Options::default());
    let mut adding = Terminal::start(&server, "user add alice");
    adding.expect("Password of alice: ");
    adding.press("s3cret\n");
    adding.expect("Type password of alice again for confirmation: ");
    adding.press("s3cret\n");
    adding.expect("User alice created");
    assert!(!adding.screen().contains("s3cret"), "{:?}", adding.screen());
    assert_eq!(adding.end(), 0);
    // Two different ones are no password.
    let mut typo = Terminal::start(&server, "user add bob");
    typo.expect("Password of bob: ");
    typo.press("one\n");
    typo.expect("confirmation: ");
    typo.press("two\n");
    typo.expect("given passwords are different");
    assert_eq!(typo.end(), 128);
    assert_eq!(run(&server, "user list").ok(), "alice\n");

    run(&server, "user add root:pw").ok();
    run(&server, "auth enable").ok();
    let mut asking = Terminal::start(&server, "--user root role list");
    asking.expect("Password: ");
    asking.press("pw\n");
    asking.expect("root");
    assert_eq!(asking.end(), 0);
    // It is alice's password, as typed.
    run(&server, "--user alice:s3cret get k").fails(1, "permission denied");
    // Nobody is there to be asked.
    run(&server, "--user root:pw user add carol").fails(128, "--interactive=false");
}

#[test]
fn on_a_terminal_every_key_is_deleted_only_after_a_yes() {
    let server = Server::start(Options::default());
    run(&server, "put k v").ok();
    let mut asking = Terminal::start(&server, "del --prefix ''");
    asking.expect("Delete every key? [y/N] ");
    asking.press("n\n");
    asking.expect("nothing was deleted");
    assert_eq!(asking.end(), 1);
    assert_eq!(run(&server, "get k").ok(), "k\nv\n");
    let mut asking = Terminal::start(&server, "del --prefix ''");
    asking.expect("[y/N] ");
    asking.press("y\n");
    assert_eq!(asking.end(), 0);
    assert_eq!(run(&server, "get k").ok(), "");
}

#[test]
fn lines_are_edited_and_their_history_is_kept() {
    let server = Server::start(Options::default());
    run(&server, "put w0 before").ok();
    let mut watching = Terminal::start(&server, "watch -i");
    watching.expect("> ");
    // A wrong letter and a backspace.
    watching.press("watch wx\u{7f}0 --rev 2\r");
    watching.expect("before");
    run(&server, "put w0 after").ok();
    watching.expect("after");
    let file = server.home().join("state/kvctl/watch-history");
    let begun = Instant::now();
    while !holds(&file, "watch w0 --rev 2") {
        assert!(begun.elapsed() < LIMIT, "not in {}", file.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(watching);
    // The arrow up brings it back.
    let mut again = Terminal::start(&server, "watch -i");
    again.expect("> ");
    again.press("\u{1b}[A\r");
    again.expect("PUT");
    again.expect("before");
    drop(again);

    let mut txn = Terminal::start(&server, "txn -i");
    for line in ["", "put t 1", "", ""] {
        txn.expect("> ");
        txn.press(&format!("{line}\r"));
    }
    txn.expect("SUCCESS");
    assert_eq!(txn.end(), 0);
    assert_eq!(run(&server, "get t").ok(), "t\n1\n");
}

fn holds(file: &Path, text: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|content| content.contains(text))
}
