//! Rotation of the log file by its size, under the names and with the settings of etcd's.
//!
//! When the next lines would make the file longer than the bound it is renamed to `name-<time>.ext` beside itself and begun
//! anew; then the oldest such files beyond the count, and those beyond the age, are removed. Only the log's thread runs this.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::line::utc_parts;
use super::writer::open_file;

const DAY: Duration = Duration::from_secs(86_400);
/// Of another time zone nothing is known here.
const LOCAL_TIME: &str = "localtime is not supported: names carry UTC";
const COMPRESS: &str =
    "compress is not supported: leave it false, and compress rotated files by another program";

/// When to rotate and what to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes.
    size_max: u64,
    /// Zero keeps files of any age.
    age_max: Duration,
    /// Zero keeps any number of files.
    backups_max: usize,
}

impl Rotation {
    /// Reads etcd's JSON: `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`, each key
    /// optional.
    ///
    /// # Errors
    /// What is wrong, for "invalid value ...: ".
    pub fn parse(text: &str) -> Result<Rotation, String> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}"))?;
        let object = value.as_object().ok_or("expected a JSON object")?;
        let known = ["maxsize", "maxage", "maxbackups", "localtime", "compress"];
        if let Some(unknown) = object.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!(
                "unknown key {unknown:?}; there are {}",
                known.join(", ")
            ));
        }
        let number = |key: &str, default: u64| match object.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .ok_or_else(|| format!("{key} is no whole number")),
        };
        let flag = |key: &str| match object.get(key) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| format!("{key} is neither true nor false")),
        };
        if flag("localtime")? {
            return Err(LOCAL_TIME.to_owned());
        }
        if flag("compress")? {
            return Err(COMPRESS.to_owned());
        }
        let megabytes = match number("maxsize", 100)? {
            0 => 100,
            megabytes => megabytes,
        };
        let days = u32::try_from(number("maxage", 0)?).map_err(|_| "maxage is too large")?;
        Ok(Rotation {
            size_max: megabytes
                .checked_mul(1 << 20)
                .ok_or("maxsize is too large")?,
            age_max: DAY * days,
            backups_max: usize::try_from(number("maxbackups", 0)?).unwrap_or(usize::MAX),
        })
    }

    /// To be called before `bytes` more are written to `file`, which is open at `path`.
    ///
    /// # Errors
    /// The file could not be renamed or begun anew; it is open as it was.
    pub(super) fn before_write(
        &self,
        file: &mut File,
        path: &Path,
        bytes: usize,
        now: SystemTime,
    ) -> io::Result<()> {
        let length = file.metadata()?.len();
        if length == 0 || length + bytes as u64 <= self.size_max {
            return Ok(());
        }
        let to = self.free_name(path, now);
        fs::rename(path, &to)?;
        match open_file(path) {
            Ok(new) => *file = new,
            Err(error) => {
                // As before, then.
                fs::rename(&to, path)?;
                return Err(error);
            }
        }
        self.prune(path, now)
    }

    /// The same, to be tried at double the size: an error that stays is told seldom.
    pub(super) fn later(mut self) -> Option<Rotation> {
        self.size_max = self.size_max.checked_mul(2)?;
        Some(self)
    }

    fn free_name(&self, path: &Path, now: SystemTime) -> PathBuf {
        let (stem, extension) = parts(path);
        let time = utc_parts(now);
        let name = |more: &str| path.with_file_name(format!("{stem}-{time}{more}{extension}"));
        let first = name("");
        if !first.exists() {
            return first;
        }
        (1..)
            .map(|number| name(&format!("-{number}")))
            .find(|name| !name.exists())
            .unwrap_or(first)
    }

    fn prune(&self, path: &Path, now: SystemTime) -> io::Result<()> {
        if self.backups_max == 0 && self.age_max.is_zero() {
            return Ok(());
        }
        let (stem, extension) = parts(path);
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut rotated = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let time = name
                .strip_prefix(&format!("{stem}-"))
                .and_then(|rest| rest.strip_suffix(&extension));
            // A time as this writes it, and nothing else that happens to begin alike.
            if time.is_some_and(|time| {
                time.starts_with(|c: char| c.is_ascii_digit()) && time.contains('T')
            }) {
                rotated.push((name, entry.path(), entry.metadata()?.modified()?));
            }
        }
        rotated.sort();
        let surplus = match self.backups_max {
            0 => 0,
            most => rotated.len().saturating_sub(most),
        };
        for (at, (_, path, modified)) in rotated.iter().enumerate() {
            let age = now.duration_since(*modified).unwrap_or_default();
            if at < surplus || (!self.age_max.is_zero() && age > self.age_max) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// `kvnode` and `.log` of `/var/log/kvnode.log`.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let extension = match text(path.extension()) {
        extension if extension.is_empty() => extension,
        extension => format!(".{extension}"),
    };
    (text(path.file_stem()), extension)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn settings_are_etcds_and_what_is_not_supported_is_refused() {
        let all = r#"{"maxsize": 2, "maxage": 3, "maxbackups": 4, "localtime": false, "compress": false}"#;
        let rotation = Rotation::parse(all).unwrap();
        assert_eq!(
            (rotation.size_max, rotation.age_max, rotation.backups_max),
            (2 << 20, 3 * DAY, 4)
        );
        assert_eq!(Rotation::parse("{}").unwrap().size_max, 100 << 20);
        for (wrong, part) in [
            ("", "JSON"),
            ("[]", "object"),
            (r#"{"maxsize": -1}"#, "maxsize"),
            (r#"{"maxsizes": 1}"#, "unknown key"),
            (r#"{"compress": true}"#, "compress"),
            (r#"{"localtime": true}"#, "UTC"),
        ] {
            let error = Rotation::parse(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_of_too_many_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kv.log");
        fs::write(dir.path().join("kv-other.log"), "somebody else's").unwrap();
        let rotation = Rotation {
            size_max: 10,
            age_max: Duration::ZERO,
            backups_max: 2,
        };
        let mut file = open_file(&path).unwrap();
        let begin = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        for second in 0..5 {
            let now = begin + Duration::from_secs(second);
            rotation.before_write(&mut file, &path, 8, now).unwrap();
            write!(file, "line {second}\n\n").unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names.contains(&"kv.log".to_owned()) && names.contains(&"kv-other.log".to_owned()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 4\n\n");
        let kept = fs::read_to_string(dir.path().join(&names[0])).unwrap();
        assert_eq!(kept, "line 2\n\n", "{names:?}");
    }

    #[test]
    fn a_file_that_cannot_be_renamed_goes_on_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kv.log");
        let mut file = open_file(&path).unwrap();
        file.write_all(&[b'x'; 20]).unwrap();
        fs::remove_file(&path).unwrap();
        let rotation = Rotation {
            size_max: 10,
            age_max: Duration::ZERO,
            backups_max: 0,
        };
        assert!(
            rotation
                .before_write(&mut file, &path, 1, SystemTime::now())
                .is_err()
        );
        file.write_all(b"y").unwrap();
    }
}
