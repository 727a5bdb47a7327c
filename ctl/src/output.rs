//! Results on stdout in etcdctl's five forms.
//!
//! `simple` is for people and scripts of old, `fields` names every field, `json` is what Go makes of the
//! messages (bytes in base64, numbers bare, zero values left out), `protobuf` is the message itself, `table`
//! has borders. Which command knows which form is decided by the command, before it asks a server.

mod fields;
mod json;
mod lists;
mod simple;
mod table;

use std::io::{self, Write as _};

use kvnode_client::api;
use kvnode_client::api::Message;

use crate::failure::{Failure, Result, code};

pub use json::{Bytes, Object, Style, kind as event_kind};
pub use lists::{Hash, Health, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Simple,
    Fields,
    Json,
    /// An object for each pair or event, one per line.
    Lines,
    Protobuf,
    Table,
}

/// All that etcdctl has but the table.
pub const ALL: &[Format] = &[
    Format::Simple,
    Format::Fields,
    Format::Json,
    Format::Protobuf,
];
/// For answers that are a list of pairs or events.
pub const WITH_LINES: &[Format] = &[
    Format::Simple,
    Format::Fields,
    Format::Json,
    Format::Lines,
    Format::Protobuf,
];
/// For what etcdctl never gave fields.
pub const NO_FIELDS: &[Format] = &[Format::Simple, Format::Json, Format::Protobuf];
/// For answers that are no single message.
pub const NO_PROTOBUF: &[Format] = &[Format::Simple, Format::Fields, Format::Json];
/// For lists of endpoints.
pub const LISTS: &[Format] = &[Format::Simple, Format::Fields, Format::Json, Format::Table];
/// Everything that etcdctl has.
pub const WITH_TABLE: &[Format] = &[
    Format::Simple,
    Format::Fields,
    Format::Json,
    Format::Protobuf,
    Format::Table,
];

impl Format {
    pub fn parse(name: &str) -> Result<Format> {
        let all = WITH_TABLE.iter().chain(&[Format::Lines]);
        all.copied()
            .find(|format| format.name() == name)
            .ok_or_else(|| {
                Failure::new(code::BAD_FEATURE, "unsupported output format")
                    .next("--write-out=simple|fields|json|jsonl|protobuf|table")
            })
    }

    pub fn name(self) -> &'static str {
        match self {
            Format::Simple => "simple",
            Format::Fields => "fields",
            Format::Json => "json",
            Format::Lines => "jsonl",
            Format::Protobuf => "protobuf",
            Format::Table => "table",
        }
    }
}

/// Prints answers.
#[derive(Clone)]
pub struct Printer {
    format: Format,
    hex: bool,
    /// Values without their keys.
    pub values_only: bool,
    /// Of a range, only the number of keys.
    pub count_only: bool,
}

impl Printer {
    pub fn new(format: Format, hex: bool) -> Printer {
        Printer {
            format,
            hex,
            values_only: false,
            count_only: false,
        }
    }

    pub fn is_simple(&self) -> bool {
        self.format == Format::Simple
    }

    /// The form shows pairs and nothing of the answer around them, so that pages of one range can be shown as they come.
    pub fn shows_pairs_alone(&self) -> bool {
        matches!(self.format, Format::Simple | Format::Lines)
    }

    pub fn range(&self, answer: &api::RangeResponse) -> Result<()> {
        if self.format == Format::Lines && !self.count_only {
            return say(json::lines(answer.kvs.iter().map(json::pair)));
        }
        self.show(
            answer,
            || self.simple_range(answer),
            |f| f.range(answer),
            || json::range(answer),
        )
    }

    pub fn put(&self, answer: &api::PutResponse) -> Result<()> {
        self.show(
            answer,
            || self.simple_put(answer),
            |f| f.put(answer),
            || json::put(answer),
        )
    }

    pub fn delete(&self, answer: &api::DeleteRangeResponse) -> Result<()> {
        self.show(
            answer,
            || self.simple_delete(answer),
            |f| f.delete(answer),
            || json::delete(answer),
        )
    }

    pub fn txn(&self, answer: &api::TxnResponse) -> Result<()> {
        self.show(
            answer,
            || self.simple_txn(answer),
            |f| f.txn(answer),
            || json::txn(answer),
        )
    }

    /// How far a watch is; not an event, so it is no object among them.
    pub fn progress(&self, revision: i64) -> Result<()> {
        match self.format {
            Format::Lines => {
                eprintln!("progress notify: {revision}");
                Ok(())
            }
            _ => say_line(&format!("progress notify: {revision}")),
        }
    }

    /// A response of a watch, or how it ended.
    pub fn watch(&self, answer: &api::WatchResponse) -> Result<()> {
        if self.format == Format::Lines && !answer.canceled {
            return say(json::lines(answer.events.iter().map(json::event)));
        }
        // What Go's client hands on of it.
        let message = api::WatchResponse {
            watch_id: 0,
            cancel_reason: String::new(),
            fragment: false,
            ..answer.clone()
        };
        self.show(
            &message,
            || self.simple_watch(answer),
            |f| f.watch(answer),
            || json::watch(answer),
        )
    }

    pub fn lease_granted(&self, answer: &api::LeaseGrantResponse) -> Result<()> {
        let simple = || {
            format!(
                "lease {:016x} granted with TTL({}s)\n",
                answer.id, answer.ttl
            )
        };
        let fields = |f: &mut fields::Fields| {
            f.header(answer.header.as_ref());
            f.lease("ID", answer.id);
            f.plain("TTL", answer.ttl);
        };
        let json = || {
            let object = json::inline_header(answer.header.as_ref());
            object
                .number("ID", answer.id)
                .number("TTL", answer.ttl)
                .text("Error", &answer.error)
        };
        self.show_header(answer.header, simple, fields, json)
    }

    pub fn lease_revoked(&self, id: i64, answer: &api::LeaseRevokeResponse) -> Result<()> {
        self.done(answer, answer.header, format!("lease {id:016x} revoked"))
    }

    pub fn lease_renewed(&self, answer: &api::LeaseKeepAliveResponse) -> Result<()> {
        let simple = || {
            format!(
                "lease {:016x} keepalived with TTL({})\n",
                answer.id, answer.ttl
            )
        };
        let fields = |f: &mut fields::Fields| {
            f.header(answer.header.as_ref());
            f.lease("ID", answer.id);
            f.plain("TTL", answer.ttl);
        };
        let json = || {
            let object = json::inline_header(answer.header.as_ref());
            object.number("ID", answer.id).number("TTL", answer.ttl)
        };
        self.show_header(answer.header, simple, fields, json)
    }

    pub fn lease_time_to_live(
        &self,
        answer: &api::LeaseTimeToLiveResponse,
        keys: bool,
    ) -> Result<()> {
        let simple = || simple::time_to_live(answer, keys);
        let fields = |f: &mut fields::Fields| {
            f.header(answer.header.as_ref());
            f.lease("ID", answer.id);
            f.plain("TTL", answer.ttl);
            f.plain("GrantedTTL", answer.granted_ttl);
            answer.keys.iter().for_each(|key| f.quoted("Key", key));
        };
        let json = || {
            let keys = match answer.keys.is_empty() {
                true => "null".to_owned(),
                false => json::array(answer.keys.iter().map(|key| json::bytes(key))),
            };
            json::inline_header(answer.header.as_ref())
                .number("id", answer.id)
                .number("ttl", answer.ttl)
                .number("granted-ttl", answer.granted_ttl)
                .raw("keys", &keys)
        };
        self.show_header(answer.header, simple, fields, json)
    }

    pub fn leases(&self, answer: &api::LeaseLeasesResponse) -> Result<()> {
        let simple = || {
            let mut out = format!("found {} leases\n", answer.leases.len());
            answer
                .leases
                .iter()
                .for_each(|lease| out.push_str(&format!("{:016x}\n", lease.id)));
            out
        };
        let fields = |f: &mut fields::Fields| {
            f.header(answer.header.as_ref());
            answer
                .leases
                .iter()
                .for_each(|lease| f.lease("ID", lease.id));
        };
        let json = || {
            let list = answer
                .leases
                .iter()
                .map(|lease| Object::new().number("id", lease.id).end());
            json::inline_header(answer.header.as_ref()).raw("leases", json::array(list))
        };
        self.show_header(answer.header, simple, fields, json)
    }

    pub fn alarms(&self, answer: &api::AlarmResponse) -> Result<()> {
        self.show(
            answer,
            || simple::alarms(answer),
            |f| f.alarms(answer),
            || json::alarms(answer),
        )
    }

    pub fn member_added(&self, answer: &api::MemberAddResponse) -> Result<()> {
        let member = answer.member.clone().unwrap_or_default();
        let kind = if member.is_learner {
            " as learner "
        } else {
            " "
        };
        let cluster = answer.header.map_or(0, |header| header.cluster_id);
        let simple = || {
            format!(
                "Member {:16x} added{kind}to cluster {cluster:16x}\n",
                member.id
            )
        };
        let json = || {
            json::members(
                answer.header.as_ref(),
                Some(&member),
                &answer.members,
                self.hex,
            )
        };
        self.show(answer, simple, |_| (), json)
    }

    /// What became of a member: `what` is `removed from`, `updated in` or `promoted in`.
    pub fn member_changed(
        &self,
        id: u64,
        what: &str,
        answer: &impl Message,
        header: Option<api::ResponseHeader>,
        members: &[api::Member],
    ) -> Result<()> {
        let cluster = header.map_or(0, |header| header.cluster_id);
        let simple = || format!("Member {id:16x} {what} cluster {cluster:16x}\n");
        self.show(
            answer,
            simple,
            |_| (),
            || json::members(header.as_ref(), None, members, self.hex),
        )
    }

    pub fn member_list(&self, answer: &api::MemberListResponse) -> Result<()> {
        if self.format == Format::Table {
            return say(lists::member_table(answer));
        }
        let json = || json::members(answer.header.as_ref(), None, &answer.members, self.hex);
        self.show(
            answer,
            || lists::member_lines(answer),
            |f| f.members(answer),
            json,
        )
    }

    pub fn role(&self, name: &str, answer: &api::AuthRoleGetResponse) -> Result<()> {
        self.show(
            answer,
            || simple::role(name, answer),
            |f| f.role(answer),
            || json::role(answer),
        )
    }

    /// Names, one per line.
    pub fn names(
        &self,
        answer: &impl Message,
        header: Option<api::ResponseHeader>,
        kind: &'static str,
        names: &[String],
    ) -> Result<()> {
        let simple = || {
            names
                .iter()
                .map(|name| format!("{name}\n"))
                .collect::<String>()
        };
        let fields = |f: &mut fields::Fields| {
            f.header(header.as_ref());
            f.names("Roles", names);
        };
        self.show(answer, simple, fields, || {
            json::names(header.as_ref(), kind, names)
        })
    }

    pub fn user(&self, name: &str, answer: &api::AuthUserGetResponse) -> Result<()> {
        let simple = || {
            let roles: String = answer.roles.iter().map(|role| format!(" {role}")).collect();
            format!("User: {name}\nRoles:{roles}\n")
        };
        let json = || json::names(answer.header.as_ref(), "roles", &answer.roles);
        self.show(answer, simple, |_| (), json)
    }

    pub fn auth_status(&self, answer: &api::AuthStatusResponse) -> Result<()> {
        let simple = || {
            format!(
                "Authentication Status: {}\nAuthRevision: {}\n",
                answer.enabled, answer.auth_revision
            )
        };
        let json = || {
            let object = Object::new()
                .header(answer.header.as_ref())
                .flag("enabled", answer.enabled);
            object.number_if("authRevision", answer.auth_revision)
        };
        self.show(answer, simple, |_| (), json)
    }

    pub fn downgrade(&self, what: &str, answer: &api::DowngradeResponse) -> Result<()> {
        let simple = || {
            format!(
                "Downgrade {what} success, cluster version {}\n",
                answer.version
            )
        };
        let json = || {
            Object::new()
                .header(answer.header.as_ref())
                .text_if("version", &answer.version)
        };
        self.show(answer, simple, |_| (), json)
    }

    /// An answer that says nothing but that it was done.
    pub fn done(
        &self,
        answer: &impl Message,
        header: Option<api::ResponseHeader>,
        simple: String,
    ) -> Result<()> {
        let json = || Object::new().header(header.as_ref());
        self.show(
            answer,
            || format!("{simple}\n"),
            |f| f.header(header.as_ref()),
            json,
        )
    }

    pub fn health(&self, list: &[Health]) -> Result<()> {
        match self.format {
            Format::Table => say(lists::health_table(list)),
            Format::Json => say_line(&lists::health_json(list)),
            Format::Fields => say(lists::health_fields(list)),
            _ => {
                list.iter()
                    .filter_map(Health::complaint)
                    .for_each(|line| eprintln!("{line}"));
                say(list
                    .iter()
                    .filter_map(Health::praise)
                    .map(|line| line + "\n")
                    .collect::<String>())
            }
        }
    }

    pub fn states(&self, list: &[State]) -> Result<()> {
        match self.format {
            Format::Table => say(lists::state_table(list)),
            Format::Json => say_line(&lists::state_json(list)),
            Format::Fields => say(lists::state_fields(list, self.hex)),
            _ => say(lists::state_lines(list)),
        }
    }

    pub fn hashes(&self, list: &[Hash]) -> Result<()> {
        match self.format {
            Format::Table => say(lists::hash_table(list)),
            Format::Json => say_line(&lists::hash_json(list)),
            Format::Fields => say(lists::hash_fields(list, self.hex)),
            _ => say(lists::hash_lines(list)),
        }
    }

    fn show<S: AsRef<[u8]>>(
        &self,
        message: &impl Message,
        simple: impl FnOnce() -> S,
        fields: impl FnOnce(&mut fields::Fields),
        json: impl FnOnce() -> Object,
    ) -> Result<()> {
        match self.format {
            Format::Simple => say(simple().as_ref()),
            Format::Json | Format::Lines => say_line(&json().end()),
            Format::Protobuf => say(message.encode_to_vec()),
            Format::Fields | Format::Table => {
                let mut all = fields::Fields::new(self.hex);
                fields(&mut all);
                say(all.text())
            }
        }
    }

    /// Lease answers: their protobuf form has only ever been the header.
    fn show_header<S: AsRef<[u8]>>(
        &self,
        header: Option<api::ResponseHeader>,
        simple: impl FnOnce() -> S,
        fields: impl FnOnce(&mut fields::Fields),
        json: impl FnOnce() -> Object,
    ) -> Result<()> {
        self.show(&header.unwrap_or_default(), simple, fields, json)
    }
}

/// Writes to stdout.
///
/// # Errors
/// If nobody reads any more, a failure without text: there is no one to tell.
pub fn say(bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(bytes.as_ref())
        .and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(code::ERROR),
        _ => Failure::new(code::ERROR, format!("cannot write to stdout: {error}")).next("df -h"),
    })
}

/// Writes a line to stdout.
pub fn say_line(text: &str) -> Result<()> {
    say(format!("{text}\n"))
}
