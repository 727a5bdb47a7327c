//! The whole way from sources to a configuration.

mod files;
mod manual;
mod packaged;
mod rules;
mod security;
mod sources;

use super::*;
use log::Level;

fn load_all(
    args: &[&str],
    env: &[(&str, &str)],
    file: Option<&str>,
) -> Result<Loaded, ConfigError> {
    Config::load(args, env.iter().copied(), |path| {
        assert_eq!(path, Path::new("conf.yaml"));
        file.map(str::to_owned)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    })
}

fn load(args: &[&str]) -> Result<Loaded, ConfigError> {
    load_all(args, &[], None)
}

fn from_file(text: &str) -> Result<Loaded, ConfigError> {
    load_all(&["--config-file=conf.yaml"], &[], Some(text))
}

fn texts(loaded: &Loaded, level: Level) -> Vec<&str> {
    loaded
        .notices
        .iter()
        .filter(|n| n.level == level)
        .map(|n| n.text.as_str())
        .collect()
}

/// Asserts exit code 2 and that message and hint contain these parts.
fn refused(result: Result<Loaded, ConfigError>, message: &str, hint: &str) {
    let error = result.map(|loaded| loaded.config).expect_err(message);
    assert_eq!(error.exit_code, 2);
    assert!(
        error.message.contains(message),
        "{:?} lacks {message:?}",
        error.message
    );
    let given = error.hint.unwrap_or_default();
    assert!(given.contains(hint), "hint {given:?} lacks {hint:?}");
    assert!(!error.message.contains('\n') && !given.contains('\n'));
}

/// Accepted, but good for an existing data directory only.
fn founds_nothing(result: Result<Loaded, ConfigError>, message: &str, hint: &str) {
    let config = result.expect(message).config;
    refused(
        config.founding_error.map_or(Ok(default()), Err),
        message,
        hint,
    );
}

fn default() -> Loaded {
    load(&[]).unwrap()
}
