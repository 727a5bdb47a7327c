//! The form for people, and for the scripts that were written for it.

use kvnode_client::api;

use super::Printer;

impl Printer {
    pub(super) fn simple_range(&self, answer: &api::RangeResponse) -> Vec<u8> {
        if self.count_only {
            return format!("{}\n", answer.count).into_bytes();
        }
        let mut out = Vec::new();
        answer.kvs.iter().for_each(|kv| self.pair(kv, &mut out));
        out
    }

    pub(super) fn simple_put(&self, answer: &api::PutResponse) -> Vec<u8> {
        let mut out = b"OK\n".to_vec();
        answer.prev_kv.iter().for_each(|kv| self.pair(kv, &mut out));
        out
    }

    pub(super) fn simple_delete(&self, answer: &api::DeleteRangeResponse) -> Vec<u8> {
        let mut out = format!("{}\n", answer.deleted).into_bytes();
        answer
            .prev_kvs
            .iter()
            .for_each(|kv| self.pair(kv, &mut out));
        out
    }

    pub(super) fn simple_txn(&self, answer: &api::TxnResponse) -> Vec<u8> {
        use api::response_op::Response;
        let mut out = match answer.succeeded {
            true => b"SUCCESS\n".to_vec(),
            false => b"FAILURE\n".to_vec(),
        };
        for response in &answer.responses {
            out.push(b'\n');
            out.extend(match &response.response {
                Some(Response::ResponseRange(range)) => self.simple_range(range),
                Some(Response::ResponsePut(put)) => self.simple_put(put),
                Some(Response::ResponseDeleteRange(delete)) => self.simple_delete(delete),
                Some(Response::ResponseTxn(txn)) => self.simple_txn(txn),
                None => b"unexpected response\n".to_vec(),
            });
        }
        out
    }

    pub(super) fn simple_watch(&self, answer: &api::WatchResponse) -> Vec<u8> {
        let mut out = Vec::new();
        for event in &answer.events {
            out.extend_from_slice(kind(event).as_bytes());
            out.push(b'\n');
            event.prev_kv.iter().for_each(|kv| self.pair(kv, &mut out));
            self.pair(&event.kv.clone().unwrap_or_default(), &mut out);
        }
        out
    }

    fn pair(&self, kv: &api::KeyValue, out: &mut Vec<u8>) {
        if !self.values_only {
            self.line(&kv.key, out);
        }
        self.line(&kv.value, out);
    }

    /// A key or value, and the end of its line.
    pub fn line(&self, bytes: &[u8], out: &mut Vec<u8>) {
        match self.hex {
            true => bytes
                .iter()
                .for_each(|byte| out.extend(format!("\\x{byte:02x}").bytes())),
            false => out.extend_from_slice(bytes),
        }
        out.push(b'\n');
    }
}

/// Name of what happened to a key.
pub(crate) fn kind(event: &api::Event) -> &'static str {
    if event.r#type == api::EventType::Delete as i32 {
        "DELETE"
    } else {
        "PUT"
    }
}

pub(super) fn time_to_live(answer: &api::LeaseTimeToLiveResponse, keys: bool) -> Vec<u8> {
    let id = answer.id;
    if answer.granted_ttl == 0 && answer.ttl == -1 {
        return format!("lease {id:016x} already expired\n").into_bytes();
    }
    let mut out = format!(
        "lease {id:016x} granted with TTL({}s), remaining({}s)",
        answer.granted_ttl, answer.ttl
    )
    .into_bytes();
    if keys {
        out.extend_from_slice(b", attached keys([");
        out.extend(answer.keys.join(&b' '));
        out.extend_from_slice(b"])");
    }
    out.push(b'\n');
    out
}

pub(super) fn alarms(answer: &api::AlarmResponse) -> String {
    let line = |alarm: &api::AlarmMember| {
        // Go prints the message's text form, which ends in a blank and leaves zero values out.
        let mut line = String::new();
        if alarm.member_id != 0 {
            line.push_str(&format!("memberID:{} ", alarm.member_id));
        }
        if alarm.alarm != 0 {
            line.push_str(&format!("alarm:{} ", alarm_name(alarm.alarm)));
        }
        line + "\n"
    };
    answer.alarms.iter().map(line).collect()
}

pub(crate) fn alarm_name(alarm: i32) -> String {
    match api::AlarmType::try_from(alarm) {
        Ok(api::AlarmType::None) => "NONE".to_owned(),
        Ok(api::AlarmType::Nospace) => "NOSPACE".to_owned(),
        Ok(api::AlarmType::Corrupt) => "CORRUPT".to_owned(),
        Err(_) => alarm.to_string(),
    }
}

pub(super) fn role(name: &str, answer: &api::AuthRoleGetResponse) -> Vec<u8> {
    use api::permission::Type;
    let mut out = format!("Role {name}\n").into_bytes();
    for (title, other) in [("KV Read:\n", Type::Write), ("KV Write:\n", Type::Read)] {
        out.extend_from_slice(title.as_bytes());
        if name == "root" && answer.perm.is_empty() {
            out.extend_from_slice(b"\t[, <open ended>\n");
        }
        for permission in answer
            .perm
            .iter()
            .filter(|permission| permission.perm_type != other as i32)
        {
            out.push(b'\t');
            span(permission, &mut out);
            out.push(b'\n');
        }
    }
    out
}

fn span(permission: &api::Permission, out: &mut Vec<u8>) {
    let (key, end) = (&permission.key, &permission.range_end);
    if end.is_empty() {
        out.extend_from_slice(key);
        return;
    }
    out.push(b'[');
    out.extend_from_slice(key);
    if end[..] == *api::FROM_KEY {
        out.extend_from_slice(b", <open ended>");
    } else {
        out.extend_from_slice(b", ");
        out.extend_from_slice(end);
        out.push(b')');
    }
    if !key.is_empty() && kvnode_client::prefix_end(key) == end {
        out.extend_from_slice(b" (prefix ");
        out.extend_from_slice(key);
        out.push(b')');
    }
}
