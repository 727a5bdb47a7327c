//! Settings from `KVNODE_*` and `ETCD_*` variables.
//!
//! A flag `a-b` is `KVNODE_A_B` or `ETCD_A_B`; an empty variable is an unset one. Variables that
//! look like ours and are not get a warning, never an error: environments are shared.

use super::flags::{self, Kind, Target};
use super::merge::{Given, Notice, Source};
use super::suggest;
use std::ffi::OsString;

/// Our own prefix, then etcd's; the former wins.
pub const PREFIXES: [&str; 2] = ["KVNODE_", "ETCD_"];

/// Variables other programs or container images set for their own purposes.
const FOREIGN: [&str; 4] = ["VERSION", "HELP", "UNSUPPORTED_ARCH", "CHECK_CONFIG"];

/// Reads the settings of both prefixes, in alphabetical order so that messages do not depend on
/// the order of the environment.
pub fn parse(
    env: impl IntoIterator<Item = (OsString, OsString)>,
    notices: &mut Vec<Notice>,
) -> Vec<Given> {
    let mut ours: Vec<(String, OsString)> = env
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| !value.is_empty() && suffix(name).is_some())
        .collect();
    ours.sort();
    let mut given = Vec::new();
    for (variable, value) in ours {
        let Some(name) = suffix(&variable).filter(|name| !is_foreign(name)) else {
            continue;
        };
        let flag = name.to_ascii_lowercase().replace('_', "-");
        match flags::resolve(&flag) {
            Some(Target::Flag(flag)) if flag.kind == Kind::Mode => {}
            Some(target) if name.bytes().all(|b| !b.is_ascii_lowercase()) => {
                match value.into_string() {
                    Ok(text) => {
                        given.push(Given {
                            target,
                            text,
                            source: Source::Env(variable),
                        });
                    }
                    Err(_) => notices.push(Notice::warn(format!(
                        "{variable} is not UTF-8 and is ignored"
                    ))),
                }
            }
            _ => notices.push(Notice::warn(unknown(&variable, &flag))),
        }
    }
    given
}

fn suffix(name: &str) -> Option<&str> {
    PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .filter(|rest| !rest.is_empty())
}

/// Whether this is no misspelt setting: Kubernetes gives every container `<SERVICE>_PORT...` and
/// `<SERVICE>_SERVICE_...` for a service called "etcd" or "kvnode".
fn is_foreign(name: &str) -> bool {
    FOREIGN.contains(&name)
        || name == "PORT"
        || name.starts_with("PORT_")
        || name.starts_with("SERVICE_")
        || name.contains("_SERVICE_")
        || name.contains("_PORT_")
}

fn unknown(variable: &str, flag: &str) -> String {
    let hint = suggest::nearest(flag, flags::all().map(|flag| flag.name))
        .map(|nearest| {
            let prefix = PREFIXES
                .iter()
                .find(|p| variable.starts_with(**p))
                .unwrap_or(&"");
            let nearest = nearest.replace('-', "_").to_ascii_uppercase();
            format!("; did you mean {prefix}{nearest}?")
        })
        .unwrap_or_default();
    format!("variable {variable} is not a setting and is ignored{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)]) -> (Vec<(String, String)>, Vec<String>) {
        let mut notices = Vec::new();
        let env = env
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let given = parse(env, &mut notices);
        (
            given
                .into_iter()
                .map(|g| (g.source.to_string(), g.text))
                .collect(),
            notices.into_iter().map(|notice| notice.text).collect(),
        )
    }

    #[test]
    fn both_prefixes_are_read_and_empty_means_unset() {
        let (given, notices) = read(&[
            ("ETCD_NAME", "a"),
            ("KVNODE_DATA_DIR", "b"),
            ("ETCD_WAL_DIR", ""),
            ("PATH", "/bin"),
            ("ETCDCTL_API", "3"),
            ("ETCD_EXPERIMENTAL_MAX_LEARNERS", "2"),
        ]);
        let expected = [
            ("ETCD_EXPERIMENTAL_MAX_LEARNERS", "2"),
            ("ETCD_NAME", "a"),
            ("KVNODE_DATA_DIR", "b"),
        ];
        assert_eq!(given, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert!(notices.is_empty(), "{notices:?}");
    }

    #[test]
    fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
        let (given, notices) = read(&[("ETCD_DATA_DRI", "x"), ("KVNODE_name", "y")]);
        assert!(given.is_empty());
        assert_eq!(
            notices,
            [
                "variable ETCD_DATA_DRI is not a setting and is ignored; did you mean ETCD_DATA_DIR?",
                "variable KVNODE_name is not a setting and is ignored; did you mean KVNODE_NAME?",
            ]
        );
    }

    #[test]
    fn variables_of_container_images_and_service_links_are_left_alone() {
        let (given, notices) = read(&[
            ("ETCD_VERSION", "v3.5.21"),
            ("ETCD_PORT", "tcp://10.0.0.1:2379"),
            ("ETCD_PORT_2379_TCP_ADDR", "10.0.0.1"),
            ("ETCD_SERVICE_HOST", "10.0.0.1"),
            ("ETCD_CLIENT_SERVICE_PORT_CLIENT", "2379"),
            ("KVNODE_HELP", "true"),
        ]);
        assert!(
            given.is_empty() && notices.is_empty(),
            "{given:?} {notices:?}"
        );
    }
}
