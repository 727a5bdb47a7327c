//! Progress of long work, on stderr: a bar with rate and time left on a terminal, or JSON lines.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A bar if stderr is a terminal
    Auto,
    /// A bar in any case
    Always,
    /// Nothing
    Never,
    /// One JSON object per second and one at the end
    Json,
}

/// Pause between two JSON lines.
const JSON_PAUSE: Duration = Duration::from_secs(1);

/// One piece of work under way.
pub struct Progress {
    what: &'static str,
    unit: &'static str,
    bar: Option<ProgressBar>,
    json: Option<Instant>,
    started: Instant,
    done: u64,
    total: u64,
}

impl Mode {
    /// Work of `total` bytes; 0 if nobody knows.
    pub fn bytes(self, what: &'static str, total: u64) -> Progress {
        self.start(
            what,
            "bytes",
            total,
            "{msg:10} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
        )
    }

    /// Work of `total` things; 0 if nobody knows.
    pub fn count(self, what: &'static str, total: u64) -> Progress {
        let template = match total {
            0 => "{msg:10} {spinner} {pos} {per_sec}",
            _ => "{msg:10} {bar:40} {pos}/{len} {per_sec} eta {eta}",
        };
        self.start(what, "records", total, template)
    }

    fn start(self, what: &'static str, unit: &'static str, total: u64, template: &str) -> Progress {
        let bar = match self {
            Mode::Auto => Some(ProgressDrawTarget::stderr_with_hz(5)),
            Mode::Always => Some(ProgressDrawTarget::term_like_with_hz(Box::new(Lines), 5)),
            Mode::Never | Mode::Json => None,
        };
        let bar = bar.map(|target| {
            let bar = ProgressBar::with_draw_target(Some(total), target);
            let style = ProgressStyle::with_template(template);
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(what)
        });
        let now = Instant::now();
        Progress {
            what,
            unit,
            bar,
            json: (self == Mode::Json).then_some(now),
            started: now,
            done: 0,
            total,
        }
    }
}

impl Progress {
    /// So much it will be.
    pub fn expect(&mut self, total: u64) {
        self.total = total;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    pub fn add(&mut self, more: u64) {
        self.set(self.done + more);
    }

    pub fn set(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        if let Some(last) = self.json.filter(|last| last.elapsed() >= JSON_PAUSE) {
            self.json = Some(last + last.elapsed());
            self.line(false);
        }
    }

    fn line(&self, finished: bool) {
        let seconds = self.started.elapsed().as_secs_f64();
        eprintln!(
            "{{\"schema\":\"kvutil.progress.1\",\"what\":\"{}\",\"unit\":\"{}\",\"done\":{},\"total\":{},\"seconds\":{seconds:.3},\"finished\":{finished}}}",
            self.what, self.unit, self.done, self.total
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.json.is_some() {
            self.line(true);
        }
    }
}

/// stderr taken for a terminal of 80 columns.
#[derive(Debug)]
struct Lines;

impl indicatif::TermLike for Lines {
    fn width(&self) -> u16 {
        80
    }

    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> std::io::Result<()> {
        let text = text.trim();
        if !text.is_empty() {
            eprintln!("{text}");
        }
        Ok(())
    }

    fn clear_line(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}
