//! Results on stdout, in one of the forms.

use std::io::Write as _;

use serde::Serialize;

use crate::cli::Form;

/// Where results go.
pub struct Output {
    form: Form,
}

impl Output {
    pub fn new(form: Form) -> Self {
        Output { form }
    }

    /// Prints `value` as JSON, or what `simple` makes of it.
    pub fn print<T: Serialize>(&self, value: &T, simple: impl FnOnce(&T) -> String) {
        let text = match self.form {
            Form::Json => serde_json::to_string_pretty(value)
                .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}")),
            Form::Simple => simple(value),
        };
        // A reader that went away (a pager, `head`) is no failure of ours.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    }
}

/// Bytes as an operator reads them.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn bytes_are_shown_in_the_largest_whole_unit() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(64 << 20), "64.0 MiB");
    }
}
