//! The workspace's files, read once per test.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories that hold output, not sources.
const OUTPUT: [&str; 5] = [
    "target",
    "node_modules",
    "corpus",
    "artifacts",
    "__pycache__",
];

/// A text file of the workspace.
pub struct File {
    /// Relative to the workspace, with forward slashes.
    pub path: String,
    /// Its content.
    pub text: String,
}

impl File {
    /// Whether the name ends with `.` and one of these.
    pub fn is(&self, extensions: &[&str]) -> bool {
        self.path
            .rsplit_once('.')
            .is_some_and(|(_, extension)| extensions.contains(&extension))
    }

    /// The lines with their numbers from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
    }
}

/// The directory of the workspace, found from this package's own.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("this package lies in the workspace")
        .to_path_buf()
}

/// Every text file, in the order of paths. Files that are not UTF-8 are no text.
pub fn files() -> Vec<File> {
    let mut found = Vec::new();
    collect(&root(), "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        found.iter().any(|file| file.path == "Cargo.toml"),
        "this is no workspace"
    );
    found
}

/// Every Rust file.
pub fn sources() -> Vec<File> {
    files()
        .into_iter()
        .filter(|file| file.is(&["rs"]))
        .collect()
}

/// Every manifest but the workspace's own: (directory, file).
pub fn manifests() -> Vec<(String, File)> {
    files()
        .into_iter()
        .filter_map(|file| {
            let directory = file.path.strip_suffix("/Cargo.toml")?.to_owned();
            Some((directory, file))
        })
        .collect()
}

/// Fails with all findings at once, so that one run shows the whole work.
pub fn none(findings: Vec<String>, rule: &str) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

fn collect(directory: &Path, relative: &str, found: &mut Vec<File>) {
    let entries = fs::read_dir(directory).expect("a directory of the workspace can be read");
    for entry in entries {
        let entry = entry.expect("an entry of the workspace can be read");
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let hidden = name.starts_with('.') && name != ".ci";
        if hidden || OUTPUT.contains(&name.as_str()) || name.ends_with(".etcd") {
            continue;
        }
        let path = match relative {
            "" => name,
            _ => format!("{relative}/{name}"),
        };
        let kind = entry
            .file_type()
            .expect("an entry of the workspace has a type");
        if kind.is_dir() {
            collect(&entry.path(), &path, found);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.push(File { path, text });
        }
    }
}
