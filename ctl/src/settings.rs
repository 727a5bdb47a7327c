//! Global flags and their variables: flag, else `KVCTL_<FLAG>`, else `ETCDCTL_<FLAG>`, else default.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use kvnode_client::{Config, Credentials, Tls};

use crate::discovery;
use crate::failure::{Failure, Result, code};
use crate::golang;
use crate::output::{Bytes, Format, Style};
use crate::terminal;

/// Pings etcdctl's defaults ask for; servers forbid more than one in ten seconds.
const RECEIVE_BYTES_MAX: usize = i32::MAX as usize;
const SEND_BYTES_MAX: usize = 2 << 20;

/// What the global flags say.
#[derive(Clone)]
pub struct Settings {
    pub endpoints: Vec<String>,
    pub format: Format,
    pub hex: bool,
    pub command_timeout: Duration,
    /// `--command-timeout` was given, not assumed.
    pub command_timeout_given: bool,
    config: Config,
    user: String,
    password: String,
    token: String,
}

impl Settings {
    /// `matches` are those of the innermost command, which knows the global flags too.
    pub fn of(matches: &ArgMatches) -> Result<Settings> {
        let get = |name: &str| value(matches, name);
        let (endpoints, _) = get("endpoints");
        let mut endpoints: Vec<String> = endpoints
            .split(',')
            .map(|endpoint| endpoint.trim().to_owned())
            .filter(|endpoint| !endpoint.is_empty())
            .collect();
        let format = Format::parse(&get("write-out").0)?;
        style(&get("json-ids").0, &get("encoding").0)?.choose();
        let (command_timeout, source) = duration(matches, "command-timeout")?;
        let mut tls = tls(matches)?;
        let secure = !boolean(matches, "insecure-transport")?;
        let domain = get("discovery-srv").0;
        if !domain.is_empty() {
            let plain_too = boolean(matches, "insecure-discovery")?;
            let servers = discovery::servers(&get("discovery-dns").0)?;
            let name = get("discovery-srv-name").0;
            endpoints = discovery::endpoints(&domain, &name, plain_too, |name| {
                kvnode_dns::services(&servers, name)
            })?;
            if !plain_too {
                // Whoever answers must be of that domain: the records may be forged.
                tls.server_name = Some(domain);
            }
        }
        if boolean(matches, "debug")? {
            for name in crate::cli::global_names() {
                let secret = matches!(name.as_str(), "password" | "auth-jwt-token" | "user");
                let shown = if secret && !get(&name).0.is_empty() {
                    "***".to_owned()
                } else {
                    get(&name).0
                };
                eprintln!("{}={shown}", variable("ETCDCTL", &name));
            }
        }
        let mut config = Config::new(endpoints.clone());
        config.connect_timeout = duration(matches, "dial-timeout")?.0;
        config.call_timeout = Some(command_timeout);
        config.keepalive_time = duration(matches, "keepalive-time")?.0;
        config.keepalive_timeout = duration(matches, "keepalive-timeout")?.0;
        config.send_bytes_max = bytes(matches, "max-request-bytes", SEND_BYTES_MAX)?;
        config.receive_bytes_max = bytes(matches, "max-recv-bytes", RECEIVE_BYTES_MAX)?;
        config.bare_endpoints_use_tls = secure || tls != Tls::default();
        config.tls = Some(tls);
        Ok(Settings {
            endpoints,
            format,
            hex: boolean(matches, "hex")?,
            command_timeout,
            command_timeout_given: source,
            config,
            user: get("user").0,
            password: get("password").0,
            token: get("auth-jwt-token").0,
        })
    }

    /// How to reach the servers. Asks for a password if there must be one.
    pub fn config(&self) -> Result<Config> {
        let mut config = self.config.clone();
        if !self.token.is_empty() {
            config.credentials = Some(Credentials::Token(self.token.clone()));
        } else if !self.user.is_empty() {
            config.credentials = Some(credentials(&self.user, &self.password, "Password: ")?);
        }
        Ok(config)
    }
}

/// `NAME:PASSWORD`, or a name whose password is given apart or asked for.
pub fn credentials(user: &str, password: &str, prompt: &str) -> Result<Credentials> {
    let (name, password) = match (password, user.split_once(':')) {
        ("", Some((name, password))) => (name.to_owned(), password.to_owned()),
        ("", None) => {
            let asked = terminal::password(prompt);
            let asked = asked.map_err(|error| {
                Failure::new(code::ERROR, format!("cannot ask for the password: {error}"))
                    .next("kvctl --user NAME:PASSWORD ...")
            })?;
            (user.to_owned(), asked)
        }
        (password, _) => (user.to_owned(), password.to_owned()),
    };
    Ok(Credentials::Password { name, password })
}

fn style(numbers: &str, bytes: &str) -> Result<Style> {
    let bad = |flag: &str, value: &str, known: &str| {
        Err(
            Failure::new(code::BAD_FEATURE, format!("unknown {flag} {value:?}"))
                .next(format!("--{flag}={known}")),
        )
    };
    Ok(Style {
        bytes: match bytes {
            "base64" => Bytes::Base64,
            "utf8" => Bytes::Text,
            "hex" => Bytes::Hex,
            other => return bad("encoding", other, "base64|utf8|hex"),
        },
        numbers_as_strings: match numbers {
            "number" => false,
            "string" => true,
            other => return bad("json-ids", other, "number|string"),
        },
    })
}

/// A flag's value as text, and whether the caller gave it.
fn value(matches: &ArgMatches, name: &str) -> (String, bool) {
    let given = matches.value_source(name) == Some(ValueSource::CommandLine);
    if !given {
        for program in ["KVCTL", "ETCDCTL"] {
            if let Some(value) =
                std::env::var_os(variable(program, name)).filter(|value| !value.is_empty())
            {
                return (value.to_string_lossy().into_owned(), true);
            }
        }
    }
    let text = if let Ok(Some(all)) = matches.try_get_many::<OsString>(name) {
        let all: Vec<_> = all
            .map(|text| text.to_string_lossy().into_owned())
            .collect();
        all.join(",")
    } else if let Ok(Some(value)) = matches.try_get_one::<bool>(name) {
        value.to_string()
    } else if let Ok(Some(value)) = matches.try_get_one::<i64>(name) {
        value.to_string()
    } else {
        String::new()
    };
    (text, given)
}

fn variable(program: &str, name: &str) -> String {
    format!("{program}_{}", name.replace('-', "_").to_uppercase())
}

fn boolean(matches: &ArgMatches, name: &str) -> Result<bool> {
    match value(matches, name).0.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(Failure::new(
            code::ERROR,
            format!("invalid value {other:?} for --{name}, expected true or false"),
        )),
    }
}

fn duration(matches: &ArgMatches, name: &str) -> Result<(Duration, bool)> {
    let (text, given) = value(matches, name);
    let time = golang::parse_duration(&text).map_err(|error| {
        Failure::new(
            code::ERROR,
            format!("invalid argument {text:?} for --{name}: {error}"),
        )
    })?;
    Ok((time, given))
}

fn bytes(matches: &ArgMatches, name: &str, default: usize) -> Result<usize> {
    let text = value(matches, name).0;
    match text.parse::<usize>() {
        Ok(0) => Ok(default),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(Failure::new(
            code::ERROR,
            format!("invalid argument {text:?} for --{name}, expected bytes"),
        )),
    }
}

fn tls(matches: &ArgMatches) -> Result<Tls> {
    let file = |name: &str| {
        let (path, given) = value(matches, name);
        match (path.as_str(), given) {
            ("", true) => Err(Failure::new(
                code::BAD_ARGS,
                format!("empty string is passed to --{name} option"),
            )),
            ("", false) => Ok(None),
            (path, _) => Ok(Some(PathBuf::from(path))),
        }
    };
    Ok(Tls {
        cert_file: file("cert")?,
        key_file: file("key")?,
        ca_file: file("cacert")?,
        server_name: None,
        skip_verify: boolean(matches, "insecure-skip-tls-verify")?,
    })
}
