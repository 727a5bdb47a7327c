//! Go's JSON of the API's messages: fields in their order, zero values left out, bytes in base64, numbers
//! bare (ids may be above 2^53).

use std::fmt::Display;
use std::sync::OnceLock;

use kvnode_client::api;

use super::simple;
use crate::golang;

/// How keys and values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bytes {
    #[default]
    Base64,
    /// As text; what is no UTF-8 becomes U+FFFD.
    Text,
    Hex,
}

/// What of the form can be chosen; the default is Go's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub bytes: Bytes,
    /// 64-bit numbers are strings, for readers whose numbers are floating.
    pub numbers_as_strings: bool,
}

static STYLE: OnceLock<Style> = OnceLock::new();

impl Style {
    /// For everything this process prints; the first call counts.
    pub fn choose(self) {
        let _ = STYLE.set(self);
    }

    fn chosen() -> Style {
        STYLE.get().copied().unwrap_or_default()
    }

    fn bytes(self, value: &[u8]) -> String {
        match self.bytes {
            Bytes::Base64 => format!("\"{}\"", golang::base64(value)),
            Bytes::Text => string(&String::from_utf8_lossy(value)),
            Bytes::Hex => {
                let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("\"{digits}\"")
            }
        }
    }

    fn number<N: Display>(self, value: N) -> String {
        match self.numbers_as_strings && size_of::<N>() == size_of::<u64>() {
            true => format!("\"{value}\""),
            false => value.to_string(),
        }
    }
}

/// An object being written.
pub struct Object {
    out: String,
}

impl Object {
    pub fn new() -> Object {
        Object {
            out: "{".to_owned(),
        }
    }

    /// A value that is JSON already.
    pub fn raw(mut self, name: &str, value: impl Display) -> Object {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        self.out.push_str(&format!("\"{name}\":{value}"));
        self
    }

    /// A number by value: its size decides whether [`Style::numbers_as_strings`] means it.
    pub fn number(self, name: &str, value: impl Display + Copy) -> Object {
        self.raw(name, Style::chosen().number(value))
    }

    /// A number that is left out if it is 0.
    pub fn number_if<N: Display + Copy + Default + PartialEq>(
        self,
        name: &str,
        value: N,
    ) -> Object {
        if value == N::default() {
            self
        } else {
            self.number(name, value)
        }
    }

    pub fn text(self, name: &str, value: &str) -> Object {
        self.raw(name, string(value))
    }

    /// A text that is left out if it is empty.
    pub fn text_if(self, name: &str, value: &str) -> Object {
        if value.is_empty() {
            self
        } else {
            self.text(name, value)
        }
    }

    /// `true`, or left out.
    pub fn flag(self, name: &str, value: bool) -> Object {
        if value { self.raw(name, "true") } else { self }
    }

    pub fn bytes_if(self, name: &str, value: &[u8]) -> Object {
        if value.is_empty() {
            self
        } else {
            self.raw(name, bytes(value))
        }
    }

    /// A list that is left out if it is empty.
    pub fn list_if(self, name: &str, items: impl ExactSizeIterator<Item = String>) -> Object {
        if items.len() == 0 {
            self
        } else {
            self.raw(name, array(items))
        }
    }

    pub fn texts(self, name: &str, items: &[String]) -> Object {
        self.raw(name, array(items.iter().map(|item| string(item))))
    }

    pub fn header(self, value: Option<&api::ResponseHeader>) -> Object {
        match value {
            Some(value) => self.raw("header", header(value)),
            None => self,
        }
    }

    pub fn end(mut self) -> String {
        self.out.push('}');
        self.out
    }
}

pub fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

pub fn bytes(value: &[u8]) -> String {
    Style::chosen().bytes(value)
}

/// Each item on a line of its own.
pub fn lines(items: impl Iterator<Item = String>) -> String {
    items.map(|item| item + "\n").collect()
}

/// Go escapes what could end a script in HTML, too.
pub fn string(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", c as u32))
            }
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

pub fn header(header: &api::ResponseHeader) -> String {
    with_header(Object::new(), header).end()
}

fn with_header(object: Object, header: &api::ResponseHeader) -> Object {
    object
        .number_if("cluster_id", header.cluster_id)
        .number_if("member_id", header.member_id)
        .number_if("revision", header.revision)
        .number_if("raft_term", header.raft_term)
}

/// Lease answers have the header's fields among their own.
pub fn inline_header(header: Option<&api::ResponseHeader>) -> Object {
    match header {
        Some(header) => with_header(Object::new(), header),
        None => Object::new(),
    }
}

pub fn pair(kv: &api::KeyValue) -> String {
    Object::new()
        .bytes_if("key", &kv.key)
        .number_if("create_revision", kv.create_revision)
        .number_if("mod_revision", kv.mod_revision)
        .number_if("version", kv.version)
        .bytes_if("value", &kv.value)
        .number_if("lease", kv.lease)
        .end()
}

pub fn range(answer: &api::RangeResponse) -> Object {
    Object::new()
        .header(answer.header.as_ref())
        .list_if("kvs", answer.kvs.iter().map(pair))
        .flag("more", answer.more)
        .number_if("count", answer.count)
}

pub fn put(answer: &api::PutResponse) -> Object {
    let object = Object::new().header(answer.header.as_ref());
    match &answer.prev_kv {
        Some(kv) => object.raw("prev_kv", pair(kv)),
        None => object,
    }
}

pub fn delete(answer: &api::DeleteRangeResponse) -> Object {
    Object::new()
        .header(answer.header.as_ref())
        .number_if("deleted", answer.deleted)
        .list_if("prev_kvs", answer.prev_kvs.iter().map(pair))
}

pub fn txn(answer: &api::TxnResponse) -> Object {
    use api::response_op::Response;
    let response = |response: &api::ResponseOp| {
        let inner = match &response.response {
            Some(Response::ResponseRange(inner)) => {
                Object::new().raw("response_range", range(inner).end())
            }
            Some(Response::ResponsePut(inner)) => {
                Object::new().raw("response_put", put(inner).end())
            }
            Some(Response::ResponseDeleteRange(inner)) => {
                Object::new().raw("response_delete_range", delete(inner).end())
            }
            Some(Response::ResponseTxn(inner)) => {
                Object::new().raw("response_txn", txn(inner).end())
            }
            None => Object::new(),
        };
        Object::new().raw("Response", inner.end()).end()
    };
    Object::new()
        .header(answer.header.as_ref())
        .flag("succeeded", answer.succeeded)
        .list_if("responses", answer.responses.iter().map(response))
}

pub fn event(event: &api::Event) -> String {
    let mut object = Object::new().number_if("type", event.r#type);
    if let Some(kv) = &event.kv {
        object = object.raw("kv", pair(kv));
    }
    if let Some(kv) = &event.prev_kv {
        object = object.raw("prev_kv", pair(kv));
    }
    object.end()
}

pub fn watch(answer: &api::WatchResponse) -> Object {
    Object::new()
        .raw("Header", header(&answer.header.unwrap_or_default()))
        .raw("Events", array(answer.events.iter().map(event)))
        .number("CompactRevision", answer.compact_revision)
        .raw("Canceled", answer.canceled)
        .raw("Created", answer.created)
}

pub fn alarms(answer: &api::AlarmResponse) -> Object {
    let alarm = |alarm: &api::AlarmMember| {
        Object::new()
            .number_if("memberID", alarm.member_id)
            .number_if("alarm", alarm.alarm)
            .end()
    };
    Object::new()
        .header(answer.header.as_ref())
        .list_if("alarms", answer.alarms.iter().map(alarm))
}

/// The answers of the member commands; `hex` writes ids as texts.
pub fn members(
    answered: Option<&api::ResponseHeader>,
    added: Option<&api::Member>,
    members: &[api::Member],
    hex: bool,
) -> Object {
    let mut object = Object::new();
    if let Some(answered) = answered {
        object = match hex {
            false => object.raw("header", header(answered)),
            true => {
                let inner = Object::new()
                    .text("cluster_id", &format!("{:x}", answered.cluster_id))
                    .text("member_id", &format!("{:x}", answered.member_id))
                    .number_if("revision", answered.revision)
                    .number_if("raft_term", answered.raft_term);
                object.raw("header", inner.end())
            }
        };
    }
    if let Some(added) = added {
        object = object.raw("member", member(added, hex));
    }
    match hex {
        true => object.raw("members", array(members.iter().map(|one| member(one, hex)))),
        false => object.list_if("members", members.iter().map(|one| member(one, hex))),
    }
}

fn member(member: &api::Member, hex: bool) -> String {
    let object = match hex {
        true => Object::new().text("ID", &format!("{:x}", member.id)),
        false => Object::new().number_if("ID", member.id),
    };
    object
        .text_if("name", &member.name)
        .list_if("peerURLs", member.peer_urls.iter().map(|url| string(url)))
        .list_if(
            "clientURLs",
            member.client_urls.iter().map(|url| string(url)),
        )
        .flag("isLearner", member.is_learner)
        .end()
}

pub fn role(answer: &api::AuthRoleGetResponse) -> Object {
    let permission = |permission: &api::Permission| {
        Object::new()
            .number_if("permType", permission.perm_type)
            .bytes_if("key", &permission.key)
            .bytes_if("range_end", &permission.range_end)
            .end()
    };
    Object::new()
        .header(answer.header.as_ref())
        .list_if("perm", answer.perm.iter().map(permission))
}

pub fn names(answered: Option<&api::ResponseHeader>, kind: &str, names: &[String]) -> Object {
    Object::new()
        .header(answered)
        .list_if(kind, names.iter().map(|name| string(name)))
}

/// Name of an event's kind, for programs started by a watch.
pub fn kind(event: &api::Event) -> &'static str {
    simple::kind(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_values_are_left_out_and_bytes_are_base64() {
        let answer = api::RangeResponse {
            header: Some(api::ResponseHeader {
                cluster_id: u64::MAX,
                ..Default::default()
            }),
            kvs: vec![api::KeyValue {
                key: "k".into(),
                version: 1,
                ..Default::default()
            }],
            more: false,
            count: 1,
        };
        assert_eq!(
            range(&answer).end(),
            r#"{"header":{"cluster_id":18446744073709551615},"kvs":[{"key":"aw==","version":1}],"count":1}"#
        );
        assert_eq!(range(&api::RangeResponse::default()).end(), "{}");
    }

    #[test]
    fn only_64_bit_numbers_become_strings_and_bytes_have_three_forms() {
        let style = |bytes| Style {
            bytes,
            numbers_as_strings: true,
        };
        assert_eq!(style(Bytes::Hex).bytes(b"k\xff"), "\"6bff\"");
        assert_eq!(style(Bytes::Text).bytes(b"k\xff\""), "\"k\u{fffd}\\\"\"");
        assert_eq!(style(Bytes::Base64).bytes(b"k"), "\"aw==\"");
        assert_eq!(
            style(Bytes::Hex).number(u64::MAX),
            "\"18446744073709551615\""
        );
        assert_eq!(style(Bytes::Hex).number(3_i32), "3");
        assert_eq!(Style::default().number(3_i64), "3");
    }

    #[test]
    fn texts_are_escaped_as_go_does() {
        assert_eq!(
            string("a\"\\\n<&>\u{1}\u{e4}"),
            "\"a\\\"\\\\\\n\\u003c\\u0026\\u003e\\u0001\u{e4}\""
        );
    }
}
