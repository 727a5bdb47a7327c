//! Passwords without echo, lines with editing and history, questions: all on the terminal, if there is one.

use std::io::{self, BufRead as _, IsTerminal, Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// Lines read ahead of the commands they hold.
const LINES_AHEAD: usize = 16;
/// Lines of history kept.
const HISTORY_LINES: usize = 1000;

/// Asks for a password on stderr and reads it from the terminal without showing it.
///
/// # Errors
/// If stdin is no terminal, or the terminal fails.
pub fn password(prompt: &str) -> io::Result<String> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)
        .map_err(|error| io::Error::other(format!("stdin is no terminal ({error})")))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    // What was typed before is dropped with the echo, so the prompt comes after.
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    eprint!("{prompt}");
    let _ = io::stderr().flush();
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    eprintln!();
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks for a new password twice.
pub fn new_password(name: &str) -> Result<String, String> {
    let ask = |prompt: String| {
        password(&prompt).map_err(|error| format!("failed to ask password: {error}"))
    };
    let first = ask(format!("Password of {name}: "))?;
    if first.is_empty() {
        return Err("empty password".to_owned());
    }
    if ask(format!("Type password of {name} again for confirmation: "))? != first {
        return Err("given passwords are different".to_owned());
    }
    Ok(first)
}

/// The first word on stdin.
pub fn first_word() -> String {
    let mut text = String::new();
    let _ = io::stdin().lock().read_line(&mut text);
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// All of stdin.
pub fn everything() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether somebody can be asked.
pub fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks yes or no; anything but `y` or `yes` is no.
pub fn confirm(question: &str) -> bool {
    eprint!("{question} [y/N] ");
    let _ = io::stderr().flush();
    matches!(first_word().to_lowercase().as_str(), "y" | "yes")
}

/// Lines from stdin as they are typed: with editing and a history file (`kind`) on a terminal, plain
/// otherwise. A thread reads them; it waits while [`LINES_AHEAD`] are not taken up. The channel closes
/// at the end of input.
pub fn lines(kind: &'static str, interactive: bool) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        if interactive && is_attended() && edited(kind, &sender).is_ok() {
            return;
        }
        let mut stdin = io::stdin().lock();
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match stdin.read_until(b'\n', &mut bytes) {
                // A last line without its end is not complete, as etcdctl sees it.
                Ok(_) if bytes.last() == Some(&b'\n') => {}
                _ => return,
            }
            bytes.pop();
            let line = String::from_utf8_lossy(&bytes).into_owned();
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Fails only if there is no editor; then the caller reads plainly.
fn edited(kind: &str, sender: &mpsc::Sender<String>) -> rustyline::Result<()> {
    let config = rustyline::Config::builder()
        .max_history_size(HISTORY_LINES)?
        .auto_add_history(true)
        .build();
    let mut editor: rustyline::Editor<(), _> = rustyline::Editor::with_config(config)?;
    let file = history_file(kind);
    if let Some(file) = &file {
        let _ = editor.load_history(file);
    }
    while let Ok(line) = editor.readline("> ") {
        if sender.blocking_send(line).is_err() {
            break;
        }
        if let Some(file) = &file {
            // A history that cannot be kept is no reason to stop.
            let _ = editor.save_history(file);
        }
    }
    Ok(())
}

fn history_file(kind: &str) -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state =
        state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let directory = state.join("kvctl");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join(format!("{kind}-history")))
}

/// Shows on a terminal that something long is under way, and for how long it has been, until dropped. Nothing elsewhere.
pub fn busy(text: String) -> Busy {
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    spinner.set_message(text);
    spinner.enable_steady_tick(Duration::from_millis(200));
    Busy(spinner)
}

/// See [`busy`].
pub struct Busy(ProgressBar);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
