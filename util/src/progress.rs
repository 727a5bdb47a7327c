//! Progress of long work, on stderr and only on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `bytes`; invisible where stderr is no terminal.
pub fn bytes(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style =
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
