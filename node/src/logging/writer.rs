//! The thread that may block: it alone touches the outputs.

use super::line::write_line;
use super::queue::{Batch, Queue};
use super::{Error, Format, Output, Rotation};
use log::{Level, Record};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The back: the thread that may block.
pub(super) struct Writer {
    pub(super) sinks: Vec<Sink>,
    pub(super) format: Format,
}

impl Writer {
    pub(super) fn run(mut self, queue: &Queue) {
        let mut spare = Vec::new();
        loop {
            let mut batch = queue.take(spare);
            self.write(&mut batch);
            queue.done(batch.upto);
            batch.lines.clear();
            spare = batch.lines;
        }
    }

    fn write(&mut self, batch: &mut Batch) {
        let mut troubles = Vec::new();
        if batch.reopen {
            troubles.extend(self.sinks.iter_mut().filter_map(Sink::reopen));
        }
        if batch.dropped > 0 {
            troubles.push(format!(
                "{} log lines are missing: they came faster than they could be written",
                batch.dropped
            ));
        }
        for sink in &mut self.sinks {
            troubles.extend(sink.write(&batch.lines));
        }
        for trouble in troubles {
            let mut line = String::new();
            let args = format_args!("{trouble}");
            let record = Record::builder()
                .level(Level::Warn)
                .target(module_path!())
                .file(Some(file!()))
                .line(Some(line!()))
                .args(args)
                .build();
            write_line(&mut line, self.format, SystemTime::now(), &record);
            for sink in &mut self.sinks {
                // Its own failure was just the trouble, or will be with the next batch.
                let _ = sink.write(line.as_bytes());
            }
        }
    }
}

pub(super) struct Sink {
    name: String,
    to: To,
    failing: bool,
    rotation: Option<Rotation>,
}

enum To {
    Stderr,
    Stdout,
    File(File, PathBuf),
    #[cfg(test)]
    Other(Box<dyn Write + Send>),
}

impl Sink {
    pub(super) fn open(output: &Output, rotation: Option<Rotation>) -> Result<Sink, Error> {
        let (name, to) = match output {
            Output::Stderr => ("standard error".to_owned(), To::Stderr),
            Output::Stdout => ("standard output".to_owned(), To::Stdout),
            Output::File(path) => {
                let file = open_file(path).map_err(|error| Error::Open {
                    path: path.clone(),
                    error,
                })?;
                (path.display().to_string(), To::File(file, path.clone()))
            }
        };
        Ok(Sink {
            name,
            to,
            failing: false,
            rotation,
        })
    }

    /// Says what went wrong when the sink starts to fail, and nothing while it goes on failing.
    fn write(&mut self, lines: &[u8]) -> Option<String> {
        if let (Some(rotation), To::File(file, path)) = (self.rotation, &mut self.to)
            && let Err(error) = rotation.before_write(file, path, lines.len(), SystemTime::now())
        {
            // Going on with the old file beats losing lines. It is tried again when the file has grown by as much again.
            self.rotation = rotation.later();
            let trouble = format!("cannot rotate log file {}: {error}", self.name);
            return Some(self.write(lines).unwrap_or(trouble));
        }
        let result = match &mut self.to {
            To::Stderr => io::stderr().lock().write_all(lines),
            To::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines).and_then(|()| out.flush())
            }
            To::File(file, _) => file.write_all(lines),
            #[cfg(test)]
            To::Other(other) => other.write_all(lines),
        };
        let failed_before = std::mem::replace(&mut self.failing, result.is_err());
        match result {
            Err(error) if !failed_before => Some(format!(
                "log output {} fails, its lines are lost: {error}",
                self.name
            )),
            _ => None,
        }
    }

    /// A file that cannot be opened anew keeps its old handle.
    fn reopen(&mut self) -> Option<String> {
        let To::File(file, path) = &mut self.to else {
            return None;
        };
        match open_file(path) {
            Ok(new) => {
                *file = new;
                None
            }
            Err(error) => Some(format!("cannot reopen log file {}: {error}", self.name)),
        }
    }
}

pub(super) fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Broken(Arc<Mutex<u32>>);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            *self.0.lock().unwrap() += 1;
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_told_once_to_the_other_outputs_and_tried_again() {
        let (kept, tries) = (Kept::default(), Arc::new(Mutex::new(0)));
        let sink = |name: &str, to| Sink {
            name: name.to_owned(),
            to,
            failing: false,
            rotation: None,
        };
        let mut writer = Writer {
            sinks: vec![
                sink("pipe", To::Other(Box::new(Broken(Arc::clone(&tries))))),
                sink("kept", To::Other(Box::new(kept.clone()))),
            ],
            format: Format::Console,
        };
        for upto in 1..=3 {
            let lines = b"line\n".to_vec();
            writer.write(&mut Batch {
                lines,
                dropped: 0,
                reopen: false,
                upto,
            });
        }
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("line\n").count(), 3);
        assert_eq!(text.matches("log output pipe fails").count(), 1);
        assert!(*tries.lock().unwrap() >= 3);
    }

    #[test]
    fn a_renamed_file_is_left_behind_after_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut writer = Writer {
            sinks: vec![Sink::open(&Output::File(path.clone()), None).unwrap()],
            format: Format::Json,
        };
        let mut write = |line: &str, reopen| {
            let lines = line.as_bytes().to_vec();
            writer.write(&mut Batch {
                lines,
                dropped: 0,
                reopen,
                upto: 1,
            });
        };
        write("one\n", false);
        std::fs::rename(&path, &old).unwrap();
        write("two\n", false);
        write("three\n", true);
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn an_unopenable_file_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("log");
        let error = Sink::open(&Output::File(path.clone()), None).err().unwrap();
        assert!(error.to_string().contains(&path.display().to_string()));
    }
}
