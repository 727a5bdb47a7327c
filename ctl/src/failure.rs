//! What went wrong: `Error: <text>` as etcdctl says it, then what was tried where and what to type next.

use std::process::ExitCode;

use kvnode_client::Error;
use kvnode_client::api::Status;

/// etcdctl's exit codes.
pub mod code {
    /// The server said no, time-out, nobody reached, unknown command or flag.
    pub const ERROR: u8 = 1;
    /// No client could be made, the log-in failed; any failure of `lease timetolive`, `list`, `keep-alive`.
    pub const BAD_CONNECTION: u8 = 2;
    /// Bad input on stdin.
    pub const INVALID_INPUT: u8 = 3;
    /// A format or flag value that is not supported.
    pub const BAD_FEATURE: u8 = 4;
    /// The server ended a watch; a snapshot could not be saved.
    pub const INTERRUPTED: u8 = 5;
    /// Wrong number or form of arguments, flags that contradict each other.
    pub const BAD_ARGS: u8 = 128;
}

/// Why a command could not do its work.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
    tried: Vec<String>,
    next: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(code: u8, text: impl Into<String>) -> Failure {
        Failure {
            code,
            text: text.into(),
            tried: Vec::new(),
            next: String::new(),
        }
    }

    /// Wrong arguments; `usage` names the command whose help tells more.
    pub fn usage(text: impl Into<String>, usage: &str) -> Failure {
        Failure::new(code::BAD_ARGS, text).next(format!("kvctl {usage} --help"))
    }

    /// Everything was said already.
    pub fn silent(code: u8) -> Failure {
        Failure::new(code, "")
    }

    /// The command to type next.
    pub fn next(mut self, command: impl Into<String>) -> Failure {
        self.next = command.into();
        self
    }

    pub fn with_code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }

    /// The text inside another one, at the place of `{}`.
    pub fn inside(mut self, frame: &str) -> Failure {
        self.text = frame.replacen("{}", &self.text, 1);
        self
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn report(&self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("Error: {}", self.text);
            for line in &self.tried {
                eprintln!("tried: {line}");
            }
            if !self.next.is_empty() {
                eprintln!("next:  {}", self.next);
            }
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let tried = error.attempts();
        let next = match &error {
            Error::Unreachable { .. } => next_for_attempts(&tried).unwrap_or(
                "systemctl status kvnode   # on the hosts above, or name others by --endpoints",
            ),
            Error::Deadline { .. } => next_for_attempts(&tried)
                .unwrap_or("kvctl endpoint status --cluster --write-out=table"),
            Error::Broken { .. } => "kvctl get KEY   # whether the write took place is not known",
            Error::Compacted { .. } => {
                "kvctl endpoint status --write-out=json   # the revision to begin at"
            }
            Error::TooLarge { .. } => {
                "kvctl --max-request-bytes BYTES ...   # and see kvnode's flag of that name"
            }
            Error::Status { status, .. } => next_for(status),
            _ => "",
        };
        // etcdctl logs in while it makes its client.
        let code = match error.is(&Status::auth_failed()) {
            true => code::BAD_CONNECTION,
            false => code::ERROR,
        };
        Failure {
            code,
            text: text(&error),
            tried,
            next: next.to_owned(),
        }
    }
}

/// What to type where the two sides do not agree about TLS; by the first try that says so.
fn next_for_attempts(tried: &[String]) -> Option<&'static str> {
    const OTHER_NAME: &str =
        "kvctl --endpoints https://NAME:PORT ...   # by a name that the server's certificate has";
    const TABLE: [(&str, &str); 7] = [
        // What a plain client makes of a TLS alert.
        (
            "frame with invalid size",
            "kvctl --endpoints https://HOST:PORT --cacert FILE ...   # the server speaks TLS",
        ),
        (
            "fatal alert: HandshakeFailure",
            "kvctl --endpoints http://HOST:PORT ...   # if the server does not speak TLS",
        ),
        (
            "fatal alert: CertificateRequired",
            "kvctl --cert FILE --key FILE ...   # the server asks for a certificate",
        ),
        (
            "invalid peer certificate: UnknownIssuer",
            "kvctl --cacert FILE ...   # the authority that signed the server's certificate",
        ),
        ("invalid peer certificate: NotValidForName", OTHER_NAME),
        (
            "invalid peer certificate: certificate not valid for name",
            OTHER_NAME,
        ),
        (
            "failed to lookup address",
            "getent hosts HOST   # the name in --endpoints is not known here",
        ),
    ];
    let known = |line: &String| TABLE.iter().find(|(reason, _)| line.contains(reason));
    tried.iter().find_map(known).map(|(_, next)| *next)
}

/// As etcdctl prints it: the server's own text if it is one of the protocol's, else the whole gRPC error.
pub fn text(error: &Error) -> String {
    match error.status() {
        Some(status) if !is_protocol_text(&status.message) => status.to_cancel_reason(),
        _ => error.to_string(),
    }
}

fn is_protocol_text(text: &str) -> bool {
    text.starts_with("etcdserver: ") || Status::ALL.iter().any(|(_, known)| known.message == text)
}

/// What bounds a request.
const REQUEST_BYTES: &str = "kvnode --help   # --max-request-bytes";

fn next_for(status: &Status) -> &'static str {
    let table: [(Status, &str); 23] = [
        (
            Status::no_space(),
            "kvctl alarm list   # then compact, defrag, and: kvctl alarm disarm",
        ),
        (Status::corrupt(), "kvctl alarm list"),
        (
            Status::compacted(),
            "kvctl endpoint status --write-out=json   # newer revisions can be read",
        ),
        (
            Status::future_revision(),
            "kvctl endpoint status --write-out=json   # the revision now",
        ),
        (Status::lease_not_found(), "kvctl lease list"),
        (Status::lease_exists(), "kvctl lease list"),
        (Status::member_not_found(), "kvctl member list"),
        (Status::member_exists(), "kvctl member list"),
        (Status::bad_leader_transferee(), "kvctl member list"),
        (Status::peer_urls_exist(), "kvctl member list"),
        (
            Status::learner_not_ready(),
            "kvctl endpoint status --cluster --write-out=table",
        ),
        (Status::not_enough_started_members(), "kvctl member list"),
        (
            Status::unhealthy_cluster(),
            "kvctl endpoint health --cluster",
        ),
        (Status::user_not_found(), "kvctl user list"),
        (Status::user_exists(), "kvctl user list"),
        (Status::role_not_found(), "kvctl role list"),
        (Status::role_exists(), "kvctl role list"),
        (
            Status::user_empty(),
            "kvctl --user NAME ...   # authentication is on",
        ),
        (Status::auth_failed(), "kvctl --user NAME:PASSWORD ..."),
        (
            Status::permission_denied(),
            "kvctl --user root user get NAME --detail",
        ),
        (Status::root_user_missing(), "kvctl user add root"),
        (
            Status::no_leader(),
            "kvctl endpoint status --cluster --write-out=table",
        ),
        (Status::request_too_large(), REQUEST_BYTES),
    ];
    let known = table
        .iter()
        .find(|(known, _)| known.message == status.message);
    match known {
        Some((_, next)) => next,
        None if status.message.contains("timed out") => {
            "kvctl endpoint status --cluster --write-out=table"
        }
        // Refused for its size before the protocol's own check saw it.
        None if status.message.contains("received message larger than max") => REQUEST_BYTES,
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_disagrees_about_tls_is_told_what_to_say() {
        let next = |reason: &str| {
            let tried = [
                "a:1: refused".to_owned(),
                format!("b:2: {reason} (7 times)"),
            ];
            next_for_attempts(&tried)
        };
        let told = [
            (
                "connection error detected: frame with invalid size",
                "https://",
            ),
            ("received fatal alert: HandshakeFailure", "http://"),
            ("received fatal alert: CertificateRequired", "--cert "),
            ("invalid peer certificate: UnknownIssuer", "--cacert"),
            ("invalid peer certificate: NotValidForName", "https://NAME"),
        ];
        for (reason, word) in told {
            assert!(
                next(reason).is_some_and(|next| next.contains(word)),
                "{reason}"
            );
        }
        assert_eq!(next("Connection refused (os error 111)"), None);
    }

    #[test]
    fn a_request_that_is_too_long_names_the_bound_whoever_refuses_it() {
        let (bytes, limit) = (3 << 20, 2 << 20);
        let here = Failure::from(Error::TooLarge { bytes, limit });
        assert!(here.next.contains("--max-request-bytes"), "{}", here.next);
        for there in [
            Status::request_too_large(),
            Status::message_too_large(3 << 20, limit),
        ] {
            assert_eq!(next_for(&there), REQUEST_BYTES);
        }
    }
}
