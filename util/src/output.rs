//! Results on stdout, in one of five forms. All but the first are made from the same JSON, so a field that is in one
//! is in all; fields only ever grow in number.

mod ordered;

use std::io::Write as _;

use clap::ValueEnum;
use serde::Serialize;

use ordered::Ordered;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Lines to read
    Simple,
    /// Columns
    Table,
    /// One JSON object with a `schema` field
    Json,
    /// One JSON object per row, or one in all
    Jsonl,
    /// One `"name" : value` per line
    Fields,
}

/// Rows a table is laid out by at a time.
const PAGE_ROWS: usize = 1000;

/// Where results go.
pub struct Output {
    form: Form,
}

impl Output {
    pub fn new(form: Form) -> Self {
        Output { form }
    }

    /// Prints `value`, or what `simple` makes of it.
    pub fn print<T: Serialize>(&self, value: &T, simple: impl FnOnce(&T) -> String) {
        let text = match self.form {
            Form::Simple => simple(value),
            Form::Json => serde_json::to_string_pretty(value).unwrap_or_default(),
            Form::Jsonl => serde_json::to_string(value).unwrap_or_default(),
            Form::Table => Ordered::of(value).table(),
            Form::Fields => Ordered::of(value).fields(),
        };
        say(text.trim_end());
    }

    /// Prints rows as they come. Returns how many.
    pub fn rows<T: Serialize, E>(
        &self,
        schema: &'static str,
        rows: impl Iterator<Item = Result<T, E>>,
        simple: impl Fn(&T) -> String,
    ) -> Result<u64, E> {
        let mut count = 0;
        let mut page = Vec::new();
        if self.form == Form::Json {
            say_part(&format!("{{\n  \"schema\": \"{schema}\",\n  \"rows\": ["));
        }
        for row in rows {
            let row = row?;
            let goes_on = match self.form {
                Form::Simple => say(&simple(&row)),
                Form::Jsonl => say(&serde_json::to_string(&row).unwrap_or_default()),
                Form::Json => {
                    let comma = if count > 0 { "," } else { "" };
                    let row = serde_json::to_string(&row).unwrap_or_default();
                    say_part(&format!("{comma}\n    {row}"))
                }
                Form::Table => {
                    page.push(Ordered::of(&row));
                    page.len() < PAGE_ROWS || say(&ordered::rows(&std::mem::take(&mut page)))
                }
                Form::Fields => say(&format!("{}\n", Ordered::of(&row).fields())),
            };
            count += 1;
            if !goes_on {
                break;
            }
        }
        if !page.is_empty() {
            say(&ordered::rows(&page));
        }
        if self.form == Form::Json {
            say("\n  ]\n}");
        }
        Ok(count)
    }

    pub fn is_table(&self) -> bool {
        self.form == Form::Table
    }

    /// Whether people read it, rather than programs.
    pub fn is_simple(&self) -> bool {
        self.form == Form::Simple
    }
}

/// False once nobody reads any more (a pager, `head`), which is no failure of ours.
pub fn say(text: &str) -> bool {
    writeln!(std::io::stdout(), "{text}").is_ok()
}

fn say_part(text: &str) -> bool {
    write!(std::io::stdout(), "{text}").is_ok()
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

/// A key as text: what is no printable ASCII is escaped.
pub fn show(key: &[u8]) -> String {
    key.escape_ascii().to_string()
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
