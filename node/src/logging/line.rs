//! The form of one log line. One record is one line: control characters are escaped in both forms.

use super::Format;
use log::{Level, Record};
use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends the record with its newline.
pub(super) fn write_line(line: &mut String, format: Format, now: SystemTime, record: &Record<'_>) {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let caller = Caller(record.file(), record.line());
    let time = Timestamp(now);
    // Writing to a String cannot fail; a message whose Display fails is cut there.
    let _ = match format {
        Format::Json => {
            let _ = write!(
                line,
                "{{\"level\":\"{level}\",\"ts\":\"{time}\",\"caller\":\""
            );
            let _ = write!(Escape { line, quotes: true }, "{caller}");
            line.push_str("\",\"msg\":\"");
            let _ = write!(Escape { line, quotes: true }, "{}", record.args());
            line.write_str("\"}\n")
        }
        Format::Console => {
            let _ = write!(line, "{time}\t{level}\t{caller}\t");
            let _ = write!(
                Escape {
                    line,
                    quotes: false
                },
                "{}",
                record.args()
            );
            line.write_str("\n")
        }
    };
}

/// `dir/file.rs:12`: enough to find the place, without the directories of the build machine.
struct Caller<'a>(Option<&'a str>, Option<u32>);

impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.unwrap_or("unknown");
        let short = path
            .rmatch_indices('/')
            .nth(1)
            .map_or(path, |(at, _)| &path[at + 1..]);
        write!(f, "{short}:{}", self.1.unwrap_or(0))
    }
}

/// Escapes as JSON does; without `quotes` only what would break the line.
struct Escape<'a> {
    line: &'a mut String,
    quotes: bool,
}

impl fmt::Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        let special = |c: char| c.is_control() || (self.quotes && matches!(c, '"' | '\\'));
        while let Some(at) = rest.find(special) {
            self.line.push_str(&rest[..at]);
            let found = rest[at..].chars().next().unwrap_or_default();
            match found {
                '"' => self.line.push_str("\\\""),
                '\\' => self.line.push_str("\\\\"),
                '\n' => self.line.push_str("\\n"),
                '\t' => self.line.push_str("\\t"),
                other => write!(self.line, "\\u{:04x}", u32::from(other))?,
            }
            rest = &rest[at + found.len_utf8()..];
        }
        self.line.push_str(rest);
        Ok(())
    }
}

/// UTC with milliseconds as it may stand in a file's name: `2026-01-31T12-00-00.000`.
pub(super) fn utc_parts(now: SystemTime) -> String {
    let text = Timestamp(now).to_string().replace(':', "-");
    text.get(..23).unwrap_or(&text).to_owned()
}

/// UTC with microseconds: `2026-01-31T12:00:00.000000Z`.
struct Timestamp(SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A clock before 1970 is shown as 1970: the line matters more than its time.
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_micros()
        )
    }
}

/// The date `days` after 1970-01-01, by whole 400-year cycles of a year that starts in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line(format: Format, message: &str) -> String {
        let mut line = String::new();
        let now = UNIX_EPOCH + Duration::from_micros(1_769_860_800_000_042);
        let args = format_args!("{message}");
        let record = Record::builder()
            .level(Level::Warn)
            .target("kvnode")
            .file(Some("node/src/disk.rs"))
            .line(Some(7))
            .args(args)
            .build();
        write_line(&mut line, format, now, &record);
        line
    }

    #[test]
    fn a_json_line_has_etcds_fields_and_reads_back_whatever_the_message() {
        let message = "quote \" backslash \\ newline \n tab \t bell \u{7} del \u{7f} \u{e9}";
        let text = line(Format::Json, message);
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "warn");
        assert_eq!(value["ts"], "2026-01-31T12:00:00.000042Z");
        assert_eq!(value["caller"], "src/disk.rs:7");
        assert_eq!(value["msg"], message);
    }

    #[test]
    fn a_console_line_stays_one_line() {
        assert_eq!(
            line(Format::Console, "a \"b\"\nc"),
            "2026-01-31T12:00:00.000042Z\twarn\tsrc/disk.rs:7\ta \"b\"\\nc\n"
        );
    }

    #[test]
    fn dates_are_right_around_leap_days_and_centuries() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (19_782, (2024, 2, 29)),
            (20_453, (2025, 12, 31)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
        let early = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(Timestamp(early).to_string(), "1970-01-01T00:00:00.000000Z");
    }
}
