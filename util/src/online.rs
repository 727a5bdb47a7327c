//! A running cluster asked over the network, through the client library: which of the members named is to give its state, and the
//! bytes it sends.

use std::path::PathBuf;
use std::time::Duration;

use kvnode_client::blocking::{Client, Snapshot};
use kvnode_client::{Config, Credentials, Error, Tls, cluster_of, snapshot_source};

use crate::failure::{Code, Failure, Result};
use crate::shell::Shell;

/// Whom to ask, and who asks; names and meanings are kvctl's.
#[derive(Debug, clap::Args)]
pub struct Members {
    /// Ask running members instead of a directory, and save what the best of them sends: HOST:PORT, http://, https://,
    /// unix://, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["data_dir", "live", "wal_dir", "no_log"])]
    pub endpoints: Vec<String>,
    /// Roots to trust (PEM), instead of the system's
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    cacert: Option<PathBuf>,
    /// Certificate to show (PEM)
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    key: Option<PathBuf>,
    /// Take any certificate (for tests only)
    #[arg(long, requires = "endpoints")]
    insecure_skip_tls_verify: bool,
    /// Who asks; without a password here or in --password the variable KVCTL_PASSWORD or ETCDCTL_PASSWORD has it
    #[arg(long, value_name = "NAME[:PASSWORD]", requires = "endpoints")]
    user: Option<String>,
    /// Password of --user
    #[arg(long, requires = "user")]
    password: Option<String>,
    /// Seconds to find out whether an endpoint answers
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    dial_timeout: u64,
}

/// One that was asked.
struct Seen {
    endpoint: String,
    client: Client,
    status: kvnode_api::StatusResponse,
}

impl Members {
    /// The member to take the state of, and its endpoint. The others are told on stderr, with the reason if one is unfit.
    ///
    /// # Errors
    /// `Usage` for flags that cannot be used; `Refused` if the endpoints are of two clusters or no member is fit; `Failed` if none answers.
    pub fn choose(&self, shell: &Shell) -> Result<(Client, String)> {
        let client = Client::new(self.config()?).map_err(|error| self.failure(&error))?;
        let mut seen = Vec::new();
        let mut last = None;
        for endpoint in &self.endpoints {
            let one = client.only(endpoint);
            match one.and_then(|client| Ok((client.status()?, client))) {
                Ok((status, client)) => seen.push(Seen {
                    endpoint: endpoint.clone(),
                    client,
                    status,
                }),
                Err(error @ Error::Config(_)) => return Err(self.failure(&error)),
                Err(error) => {
                    shell.note(&format!("{endpoint}  {}", words(&error)));
                    last = Some(error);
                }
            }
        }
        if let (Some(first), Some(other)) = (seen.first(), two_clusters(&seen)) {
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "{} is of cluster {:x}, {} of cluster {:x}: a snapshot is of one",
                    first.endpoint,
                    cluster_of(&first.status),
                    other.endpoint,
                    cluster_of(&other.status)
                ),
                format!("kvctl --endpoints {} member list", first.endpoint),
            )
            .hint("name members of one cluster only"));
        }
        let statuses: Vec<_> = seen.iter().map(|seen| seen.status.clone()).collect();
        let (best, unfit) = snapshot_source(&statuses);
        for (at, (seen, unfit)) in seen.iter().zip(&unfit).enumerate() {
            let word = match unfit {
                Some(unfit) => format!("not taken: it {unfit}"),
                None if Some(at) == best => "<- taken".to_owned(),
                None => String::new(),
            };
            shell.note(format!("{}  {}  {word}", seen.endpoint, state(&seen.status)).trim_end());
        }
        let next = format!(
            "kvctl --endpoints {} endpoint status --write-out=table",
            self.endpoints.join(",")
        );
        match (best, seen.len(), last) {
            (Some(best), ..) => {
                let Seen {
                    client, endpoint, ..
                } = seen.swap_remove(best);
                Ok((client, endpoint))
            }
            (None, 0, Some(error)) => Err(self.failure(&error)),
            _ => {
                let why: Vec<String> = seen
                    .iter()
                    .zip(&unfit)
                    .filter_map(|(seen, unfit)| Some(format!("{} {}", seen.endpoint, (*unfit)?)))
                    .collect();
                Err(Failure::new(
                    Code::Refused,
                    format!("no member is fit to give a snapshot: {}", why.join("; ")),
                    next,
                )
                .hint("name voting members with --endpoints"))
            }
        }
    }

    /// Begins the stream.
    pub fn snapshot(&self, client: &Client) -> Result<Snapshot> {
        client.snapshot().map_err(|error| self.failure(&error))
    }

    /// What a call's error means to the operator.
    pub fn failure(&self, error: &Error) -> Failure {
        let endpoints = self.endpoints.join(",");
        match error {
            Error::Config(text) => {
                Failure::new(Code::Usage, text.clone(), "kvutil snapshot save --help")
            }
            Error::Status { status, endpoint } => Failure::new(
                Code::Failed,
                format!("{endpoint}: {}", status.message),
                format!("kvctl --endpoints {endpoints} auth status"),
            )
            .hint(match self.user {
                None => "with authentication on, --user must be one with the role root",
                Some(_) => "the user must have the role root",
            }),
            _ => Failure::new(
                Code::Failed,
                words(error),
                format!("kvctl --endpoints {endpoints} endpoint health"),
            )
            .hint("nothing was saved"),
        }
    }

    fn config(&self) -> Result<Config> {
        let tls = Tls {
            ca_file: self.cacert.clone(),
            cert_file: self.cert.clone(),
            key_file: self.key.clone(),
            server_name: None,
            skip_verify: self.insecure_skip_tls_verify,
        };
        let mut config = Config::new(self.endpoints.iter().map(|endpoint| endpoint.trim()));
        config.connect_timeout = Duration::from_secs(self.dial_timeout);
        config.bare_endpoints_use_tls = tls != Tls::default();
        config.tls = Some(tls);
        config.credentials = self.credentials()?;
        Ok(config)
    }

    fn credentials(&self) -> Result<Option<Credentials>> {
        let Some(user) = &self.user else {
            return Ok(None);
        };
        let variable = || {
            ["KVCTL_PASSWORD", "ETCDCTL_PASSWORD"]
                .iter()
                .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
        };
        let (name, password) = match (&self.password, user.split_once(':')) {
            (Some(password), _) => (user.as_str(), Some(password.clone())),
            (None, Some((name, password))) => (name, Some(password.to_owned())),
            (None, None) => (user.as_str(), variable()),
        };
        let Some(password) = password else {
            return Err(Failure::new(
                Code::Usage,
                format!("--user {name}: the password is missing"),
                "export KVCTL_PASSWORD   # or --user NAME:PASSWORD",
            ));
        };
        Ok(Some(Credentials::Password {
            name: name.to_owned(),
            password,
        }))
    }
}

fn two_clusters(seen: &[Seen]) -> Option<&Seen> {
    let first = cluster_of(&seen.first()?.status);
    seen.iter().find(|seen| cluster_of(&seen.status) != first)
}

fn state(status: &kvnode_api::StatusResponse) -> String {
    let header = status.header.unwrap_or_default();
    let role = match status.leader {
        _ if status.is_learner => "learner",
        0 => "without leader",
        leader if leader == header.member_id => "leader",
        _ => "follower",
    };
    format!(
        "member {:x}  {role}  revision {}  term {}",
        header.member_id, header.revision, status.raft_term
    )
}

/// An error with what was tried.
fn words(error: &Error) -> String {
    match error {
        Error::Status { status, .. } => status.message.to_string(),
        other => match other.attempts().first() {
            Some(attempt) => format!("{other}: {attempt}"),
            None => other.to_string(),
        },
    }
}
