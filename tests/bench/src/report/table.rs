//! A table, and numbers as they stand in one.

use std::fmt::Write as _;

/// A table and where its columns of text end; the rest are numbers.
pub struct Table {
    pub heads: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    pub text_columns: usize,
}

impl Table {
    /// For the terminal.
    pub fn aligned(&self) -> String {
        let widths: Vec<usize> = (0..self.heads.len())
            .map(|at| {
                let cells = self.rows.iter().map(|row| row[at].len());
                cells.chain([self.heads[at].len()]).max().unwrap_or(0)
            })
            .collect();
        let heads: Vec<String> = self.heads.iter().map(|head| (*head).to_owned()).collect();
        let mut out = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match at < self.text_columns {
                    true => write!(line, "{cell:width$}  "),
                    false => write!(line, "{cell:>width$}  "),
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!("| {} |\n|", self.heads.join(" | "));
        for at in 0..self.heads.len() {
            out.push_str(if at < self.text_columns {
                " --- |"
            } else {
                " ---: |"
            });
        }
        out.push('\n');
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        out
    }
}

/// A whole number in groups of three digits.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let left = digits.len() - at;
        if at > 0 && left.is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// As a table shows it.
pub fn cpu(micros: f64) -> String {
    if micros >= 1000.0 {
        grouped(micros)
    } else {
        format!("{micros:.1}")
    }
}

/// As a table shows it.
pub fn seconds(seconds: f64) -> String {
    format!("{seconds:.2}")
}

/// As a table shows it.
pub fn times(ratio: f64) -> String {
    if ratio < 0.01 {
        format!("{ratio:.4}x")
    } else if ratio >= 10.0 {
        format!("{ratio:.0}x")
    } else {
        format!("{ratio:.2}x")
    }
}

/// Bytes in MiB.
pub fn mebibytes(bytes: u64) -> String {
    grouped(bytes as f64 / f64::from(1 << 20))
}
