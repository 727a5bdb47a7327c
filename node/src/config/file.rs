//! The configuration file: YAML, of which JSON is a part.
//!
//! Every flag is a key of the same name; three nested blocks keep etcd's shape. Values turn into
//! the text their flag would take, so one set of parsers serves all sources. A key nobody knows is
//! an error with its line: etcd would skip it, and a typing slip would silently mean a default.

use super::flags::{self, BLOCKS, Flag, Kind, Target};
use super::merge::{Given, Notice, Source};
use super::{ConfigError, suggest, values};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_yaml_ng::{Mapping, Value};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Reads the settings in `text`, the content of `path` (which serves messages only).
pub fn parse(
    path: &Path,
    text: &str,
    allow_unknown: bool,
    notices: &mut Vec<Notice>,
) -> Result<Vec<Given>, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value: Value = serde_yaml_ng::from_str(text).map_err(|error| {
        ConfigError::usage(format!("cannot read {}: {error}", path.display()))
            .hint("the file must be one YAML or JSON mapping of flag names to values")
    })?;
    let mut reader = Reader {
        path,
        text,
        allow_unknown,
        notices,
        given: Vec::new(),
    };
    match &value {
        Value::Null => {}
        Value::Mapping(mapping) => reader.mapping(&[], mapping)?,
        _ => {
            return Err(ConfigError::usage(format!(
                "{} is not a mapping of flag names to values",
                path.display()
            )));
        }
    }
    Ok(reader.given)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    allow_unknown: bool,
    notices: &'a mut Vec<Notice>,
    given: Vec<Given>,
}

impl Reader<'_> {
    /// One level: `blocks` are the names of the blocks around it, outermost first.
    fn mapping(&mut self, blocks: &[&str], mapping: &Mapping) -> Result<(), ConfigError> {
        for (key, value) in mapping {
            let Some(key) = key.as_str() else {
                return Err(ConfigError::usage(format!(
                    "{} has a key that is not text: {key:?}",
                    self.path.display()
                )));
            };
            let mut at = blocks.to_vec();
            at.push(key);
            if is_block(&at) {
                match value {
                    Value::Null => {}
                    Value::Mapping(inner) => self.mapping(&at, inner)?,
                    _ => return Err(self.wrong(&at, "expected a block of settings")),
                }
                continue;
            }
            match self.target(&at) {
                Some(target) => self.setting(&at, target, value)?,
                None => self.unknown(&at)?,
            }
        }
        Ok(())
    }

    fn target(&self, at: &[&str]) -> Option<Target> {
        match at {
            [key] => flags::resolve(key),
            [blocks @ .., key] => {
                let block = blocks.join(".");
                let (_, _, flag) = BLOCKS.iter().find(|(b, k, _)| *b == block && k == key)?;
                flags::find(flag).map(Target::Flag)
            }
            [] => None,
        }
    }

    fn setting(&mut self, at: &[&str], target: Target, value: &Value) -> Result<(), ConfigError> {
        if let Target::Flag(flag) = target
            && (flag.kind == Kind::Mode || flag.name.starts_with("config-"))
        {
            return Err(self.wrong(at, "it has a meaning on the command line only"));
        }
        let kind = match target {
            Target::Flag(flag) | Target::Renamed(flag) => flag.kind,
            Target::Gate(_) => Kind::Bool,
        };
        let text = match scalar(kind, value) {
            Ok(text) if text.is_empty() => return Ok(()),
            Ok(text) => text,
            Err(expected) => return Err(self.wrong(at, &expected)),
        };
        // etcd's files hold durations as bare nanoseconds.
        let text = match (kind, text.parse::<u64>()) {
            (Kind::Duration, Ok(nanos)) if nanos > 0 => {
                let read = values::format_duration(Duration::from_nanos(nanos));
                self.notices.push(Notice::warn(format!(
                    "{}: {} is read as nanoseconds ({read}); write it with a unit",
                    self.place(at),
                    at.join("."),
                )));
                read
            }
            _ => text,
        };
        let source = Source::File {
            path: self.path.to_owned(),
            line: locate(self.text, at),
            key: at.join("."),
        };
        self.given.push(Given {
            target,
            text,
            source,
        });
        Ok(())
    }

    fn unknown(&mut self, at: &[&str]) -> Result<(), ConfigError> {
        let key = at.last().copied().unwrap_or_default();
        let block = at[..at.len() - 1].join(".");
        let known = known_keys(&block);
        let nearest = suggest::nearest(key, known.iter().copied());
        let message = format!("{}: unknown key {:?}", self.place(at), at.join("."));
        let hint = nearest.map(|nearest| format!("did you mean {nearest:?}?"));
        if self.allow_unknown {
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            self.notices
                .push(Notice::warn(format!("{message} is ignored{hint}")));
            return Ok(());
        }
        Err(ConfigError::usage(message).hint(match hint {
            Some(hint) => hint,
            None => {
                "kvnode --help lists the keys; --config-allow-unknown skips this one".to_owned()
            }
        }))
    }

    fn wrong(&self, at: &[&str], expected: &str) -> ConfigError {
        ConfigError::usage(format!(
            "{}: bad {:?}: {expected}",
            self.place(at),
            at.join(".")
        ))
    }

    /// `file line 3`, or the file alone where the line cannot be told.
    fn place(&self, at: &[&str]) -> String {
        place(self.path, locate(self.text, at))
    }
}

/// How a spot in a file is called in messages.
pub fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{} line {line}", path.display()),
        None => path.display().to_string(),
    }
}

fn is_block(at: &[&str]) -> bool {
    let name = at.join(".");
    BLOCKS.iter().any(|(block, _, _)| {
        *block == name
            || block
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
    })
}

fn known_keys(block: &str) -> Vec<&'static str> {
    if block.is_empty() {
        let blocks = BLOCKS
            .iter()
            .filter_map(|(block, _, _)| block.split('.').next());
        return flags::all()
            .map(|flag: &Flag| flag.name)
            .chain(blocks)
            .collect();
    }
    BLOCKS
        .iter()
        .filter(|(name, _, _)| *name == block)
        .map(|(_, key, _)| *key)
        .collect()
}

/// A value as its flag would be written; lists become comma lists, null becomes "".
fn scalar(kind: Kind, value: &Value) -> Result<String, String> {
    match (kind, value) {
        (_, Value::Null) => Ok(String::new()),
        (_, Value::String(text)) => Ok(text.trim().to_owned()),
        (Kind::Bool | Kind::OptionalText, Value::Bool(value)) => Ok(value.to_string()),
        (Kind::Bool, _) => Err("expected true or false".to_owned()),
        (_, Value::Bool(value)) => Err(format!(
            "expected text or a number; put {value} into quotes if it is text"
        )),
        (_, Value::Number(number)) => Ok(number.to_string()),
        (Kind::Urls | Kind::List, Value::Sequence(items)) => {
            let items: Result<Vec<String>, String> = items
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.trim().to_owned()),
                    Value::Number(number) => Ok(number.to_string()),
                    _ => Err("expected a list of texts".to_owned()),
                })
                .collect();
            Ok(items?.join(","))
        }
        (_, Value::Sequence(_)) => Err("expected one value, not a list".to_owned()),
        (_, Value::Mapping(_)) => Err("expected one value, not a block".to_owned()),
        (_, Value::Tagged(_)) => Err("expected a plain value without a tag".to_owned()),
    }
}

/// The line (from 1) on which the key path `at` stands.
///
/// The parser keeps no places beside its values, but an error raised while it hands out a key
/// carries that key's place. So the document is walked once more and stopped at the key.
fn locate(text: &str, at: &[&str]) -> Option<usize> {
    let error = Walk { at }
        .deserialize(serde_yaml_ng::Deserializer::from_str(text))
        .err()?;
    error.location().map(|location| location.line())
}

struct Walk<'a> {
    at: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let [first, rest @ ..] = self.at else {
            return Ok(());
        };
        while let Some(matches) = map.next_key_seed(Key {
            name: first,
            stop: rest.is_empty(),
        })? {
            match matches {
                true => map.next_value_seed(Walk { at: rest })?,
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Key<'a> {
    name: &'a str,
    stop: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        if key == self.name && self.stop {
            return Err(E::custom("found"));
        }
        Ok(key == self.name)
    }
}
