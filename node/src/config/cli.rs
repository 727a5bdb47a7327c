//! The command line, read as Go's flag package reads it.
//!
//! `--name=x`, `--name x` and `-name x` are the same; a boolean alone is true and takes another
//! value only after `=`; the last of several equal flags counts; nothing may follow the flags.

use super::flags::{self, Target};
use super::merge::{Given, Source};
use super::{ConfigError, suggest};
use std::ffi::OsString;

/// Reads all arguments (without the program's name). `--help` ends the reading, so that it works
/// beside anything that comes later.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Vec<Given>, ConfigError> {
    let mut given = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let arg = utf8(arg)?;
        let Some((name, inline)) = split(&arg) else {
            return Err(bare_word(&arg, given.last()));
        };
        let (name, inline) = match name {
            "h" => ("help", inline),
            other => (other, inline),
        };
        let Some(target) = flags::resolve(name) else {
            return Err(unknown(&arg, name));
        };
        let text = match inline {
            Some(text) => text.to_owned(),
            None if stands_alone(&target) => "true".to_owned(),
            None => value_of(name, args.next())?,
        };
        let help = name == "help";
        given.push(Given {
            target,
            text,
            source: Source::Flag(format!("--{name}")),
        });
        if help {
            break;
        }
    }
    Ok(given)
}

/// `(name, value after =)` of `-name`, `--name` and `--name=value`; `None` for a bare word.
fn split(arg: &str) -> Option<(&str, Option<&str>)> {
    let body = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    if body.is_empty() || body.starts_with(['-', '=']) {
        return None;
    }
    Some(match body.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (body, None),
    })
}

fn stands_alone(target: &Target) -> bool {
    match target {
        Target::Flag(flag) | Target::Renamed(flag) => flag.stands_alone(),
        Target::Gate(_) => true,
    }
}

/// The value of a flag that stood without `=`: the next argument, unless that is a flag itself.
/// (Go would take it; a forgotten value would then swallow a setting.)
fn value_of(name: &str, next: Option<OsString>) -> Result<String, ConfigError> {
    let Some(next) = next else {
        return Err(ConfigError::usage(format!("--{name} needs a value"))
            .hint(format!("write --{name}=VALUE")));
    };
    let next = utf8(next)?;
    if next.starts_with("--")
        && split(&next).is_some_and(|(name, _)| flags::resolve(name).is_some())
    {
        return Err(
            ConfigError::usage(format!("--{name} needs a value, but {next:?} follows"))
                .hint(format!("write --{name}={next} if that really is the value")),
        );
    }
    Ok(next)
}

fn utf8(arg: OsString) -> Result<String, ConfigError> {
    arg.into_string().map_err(|arg| {
        ConfigError::usage(format!("argument {arg:?} is not UTF-8"))
            .hint("names and paths given to the server must be UTF-8")
    })
}

fn unknown(arg: &str, name: &str) -> ConfigError {
    let nearest = suggest::nearest(name, flags::all().map(|flag| flag.name));
    let shown = arg.split('=').next().unwrap_or(arg);
    ConfigError::usage(format!("unknown flag {shown}")).hint(match nearest {
        Some(nearest) => format!("did you mean --{nearest}? kvnode --help lists all flags"),
        None => "kvnode --help lists all flags".to_owned(),
    })
}

fn bare_word(arg: &str, before: Option<&Given>) -> ConfigError {
    let error = ConfigError::usage(format!("{arg:?} is not a flag"));
    match before {
        Some(Given {
            target,
            text,
            source: Source::Flag(flag),
        }) if stands_alone(target) && text == "true" => error.hint(format!(
            "a boolean takes its value after an equals sign: {flag}={arg}"
        )),
        _ => error.hint("the server takes flags only; kvnode --help lists them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Vec<(String, String)>, ConfigError> {
        let given = parse(args.iter().map(OsString::from))?;
        Ok(given
            .into_iter()
            .map(|g| (g.source.to_string(), g.text))
            .collect())
    }

    fn one(args: &[&str]) -> (String, String) {
        let mut all = read(args).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn one_or_two_dashes_and_three_ways_to_give_a_value() {
        let expected = ("--name".to_owned(), "x".to_owned());
        assert_eq!(one(&["--name=x"]), expected);
        assert_eq!(one(&["--name", "x"]), expected);
        assert_eq!(one(&["-name", "x"]), expected);
        assert_eq!(one(&["-name=x"]), expected);
        assert_eq!(one(&["--name="]).1, "");
        assert_eq!(one(&["--initial-cluster=a=http://h:1"]).1, "a=http://h:1");
        assert_eq!(one(&["--quota-backend-bytes", "-1"]).1, "-1");
    }

    #[test]
    fn a_boolean_alone_is_true_and_never_eats_the_next_word() {
        assert_eq!(one(&["--pre-vote"]).1, "true");
        assert_eq!(one(&["--pre-vote=f"]).1, "f");
        assert_eq!(one(&["--experimental-initial-corrupt-check"]).1, "true");
        let error = read(&["--pre-vote", "false"]).unwrap_err();
        assert_eq!(error.message, "\"false\" is not a flag");
        assert!(error.hint.unwrap().contains("--pre-vote=false"));
    }

    #[test]
    fn bare_words_and_lone_dashes_are_refused() {
        for args in [&["serve"][..], &["--"], &["-"], &["---name=x"], &["--=x"]] {
            let error = read(args).unwrap_err();
            assert_eq!(error.exit_code, 2);
            assert!(error.message.contains("is not a flag"), "{}", error.message);
        }
    }

    #[test]
    fn an_unknown_flag_names_the_nearest() {
        let error = read(&["--data-dri=x"]).unwrap_err();
        assert_eq!(error.message, "unknown flag --data-dri");
        assert!(error.hint.unwrap().contains("--data-dir"));
        assert_eq!(error.exit_code, 2);
    }

    #[test]
    fn a_forgotten_value_does_not_swallow_the_next_flag() {
        assert!(
            read(&["--name"])
                .unwrap_err()
                .message
                .contains("needs a value")
        );
        let error = read(&["--name", "--data-dir=x"]).unwrap_err();
        assert!(error.message.contains("needs a value"), "{}", error.message);
    }

    #[test]
    fn help_ends_the_reading() {
        for help in ["--help", "-h", "-help"] {
            assert_eq!(one(&[help, "--no-such-flag"]).0, "--help");
        }
    }

    #[cfg(unix)]
    #[test]
    fn an_argument_that_is_not_utf8_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let error = parse([OsString::from_vec(b"--name=\xff".to_vec())]).unwrap_err();
        assert!(error.message.contains("not UTF-8"));
    }
}
