//! Prometheus' text form, version 0.0.4.

use std::fmt::Write as _;

/// The text under construction.
#[derive(Default)]
pub struct Text(String);

impl Text {
    pub fn with_capacity(bytes: usize) -> Text {
        Text(String::with_capacity(bytes))
    }

    pub fn into_string(self) -> String {
        self.0
    }

    /// Begins a family; its samples follow at once.
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// A family of one gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: i64) {
        self.head(name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }

    /// A family of one counter.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(format_args!("{name} {value}"));
    }

    /// A family of one sample that is always 1 and says what it has to say in its label.
    pub fn info(&mut self, name: &str, help: &str, label: &str, value: &str) {
        self.head(name, "gauge", help);
        let value = escaped(value);
        self.line(format_args!("{name}{{{label}=\"{value}\"}} 1"));
    }

    /// A family with one sample per value of a label.
    pub fn labelled<'a>(
        &mut self,
        (name, kind): (&str, &str),
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (&'a str, i64)>,
    ) {
        self.head(name, kind, help);
        for (value, sample) in samples {
            let value = escaped(value);
            self.line(format_args!("{name}{{{label}=\"{value}\"}} {sample}"));
        }
    }

    pub fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }
}

/// A label's value as it stands between quotes.
pub fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_label_is_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
