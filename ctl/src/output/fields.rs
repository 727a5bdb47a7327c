//! `"Name" : value`, one per line; strings quoted as Go quotes them.

use std::fmt::Display;

use kvnode_client::api;

use super::simple;
use crate::golang;

pub(super) struct Fields {
    out: String,
    hex: bool,
}

impl Fields {
    pub fn new(hex: bool) -> Fields {
        Fields {
            out: String::new(),
            hex,
        }
    }

    pub fn text(self) -> String {
        self.out
    }

    pub fn plain(&mut self, name: &str, value: impl Display) {
        self.out.push_str(&format!("\"{name}\" : {value}\n"));
    }

    pub fn quoted(&mut self, name: &str, bytes: &[u8]) {
        self.plain(name, golang::quote(bytes));
    }

    pub fn blank(&mut self) {
        self.out.push('\n');
    }

    /// Ids of members and clusters.
    pub fn id(&mut self, name: &str, id: u64) {
        match self.hex {
            true => self.plain(name, format_args!("{id:x}")),
            false => self.plain(name, id),
        }
    }

    pub fn lease(&mut self, name: &str, id: i64) {
        match self.hex {
            true => self.plain(name, format_args!("{id:016x}")),
            false => self.plain(name, id),
        }
    }

    pub fn names(&mut self, name: &str, names: &[String]) {
        let names: String = names
            .iter()
            .map(|name| format!(" {}", golang::quote(name.as_bytes())))
            .collect();
        self.out.push_str(&format!("\"{name}\" :{names}\n"));
    }

    pub fn header(&mut self, header: Option<&api::ResponseHeader>) {
        let header = header.copied().unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        // Answers that know no revision do not show one.
        if header.revision > 0 {
            self.plain("Revision", header.revision);
        }
        self.plain("RaftTerm", header.raft_term);
    }

    fn pair(&mut self, prefix: &str, kv: &api::KeyValue) {
        self.quoted(&format!("{prefix}Key"), &kv.key);
        self.plain(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.plain(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.plain(&format!("{prefix}Version"), kv.version);
        self.quoted(&format!("{prefix}Value"), &kv.value);
        self.lease(&format!("{prefix}Lease"), kv.lease);
    }

    pub fn range(&mut self, answer: &api::RangeResponse) {
        self.header(answer.header.as_ref());
        answer.kvs.iter().for_each(|kv| self.pair("", kv));
        self.plain("More", answer.more);
        self.plain("Count", answer.count);
    }

    pub fn put(&mut self, answer: &api::PutResponse) {
        self.header(answer.header.as_ref());
        answer.prev_kv.iter().for_each(|kv| self.pair("Prev", kv));
    }

    pub fn delete(&mut self, answer: &api::DeleteRangeResponse) {
        self.header(answer.header.as_ref());
        self.plain("Deleted", answer.deleted);
        answer.prev_kvs.iter().for_each(|kv| self.pair("Prev", kv));
    }

    pub fn txn(&mut self, answer: &api::TxnResponse) {
        use api::response_op::Response;
        self.header(answer.header.as_ref());
        self.plain("Succeeded", answer.succeeded);
        for response in &answer.responses {
            match &response.response {
                Some(Response::ResponseRange(range)) => self.range(range),
                Some(Response::ResponsePut(put)) => self.put(put),
                Some(Response::ResponseDeleteRange(delete)) => self.delete(delete),
                Some(Response::ResponseTxn(txn)) => self.txn(txn),
                None => self.quoted("Unknown", b"<nil>"),
            }
        }
    }

    pub fn watch(&mut self, answer: &api::WatchResponse) {
        self.header(answer.header.as_ref());
        for event in &answer.events {
            self.plain("Type", simple::kind(event));
            event.prev_kv.iter().for_each(|kv| self.pair("Prev", kv));
            self.pair("", &event.kv.clone().unwrap_or_default());
        }
    }

    pub fn alarms(&mut self, answer: &api::AlarmResponse) {
        self.header(answer.header.as_ref());
        for alarm in &answer.alarms {
            self.id("MemberID", alarm.member_id);
            self.plain("AlarmType", simple::alarm_name(alarm.alarm));
            self.blank();
        }
    }

    pub fn members(&mut self, answer: &api::MemberListResponse) {
        self.header(answer.header.as_ref());
        for member in &answer.members {
            self.id("ID", member.id);
            self.quoted("Name", member.name.as_bytes());
            member
                .peer_urls
                .iter()
                .for_each(|url| self.quoted("PeerURL", url.as_bytes()));
            member
                .client_urls
                .iter()
                .for_each(|url| self.quoted("ClientURL", url.as_bytes()));
            self.plain("IsLearner", member.is_learner);
            self.blank();
        }
    }

    pub fn role(&mut self, answer: &api::AuthRoleGetResponse) {
        use api::permission::Type;
        self.header(answer.header.as_ref());
        for permission in &answer.perm {
            let name = match Type::try_from(permission.perm_type) {
                Ok(Type::Read) => "READ",
                Ok(Type::Write) => "WRITE",
                Ok(Type::Readwrite) => "READWRITE",
                Err(_) => "UNKNOWN",
            };
            // Two blanks, as ever.
            self.plain("PermType", format_args!(" {name}"));
            self.quoted("Key", &permission.key);
            self.quoted("RangeEnd", &permission.range_end);
        }
    }
}
