//! Lists of members and endpoints, the only results that have a table too.

use std::time::Duration;

use kvnode_client::api;

use super::fields::Fields;
use super::json::{self, Object};
use super::table::table;
use crate::golang;

pub fn member_lines(answer: &api::MemberListResponse) -> String {
    lines(&member_rows(answer))
}

pub fn member_table(answer: &api::MemberListResponse) -> String {
    table(
        &[
            "ID",
            "Status",
            "Name",
            "Peer Addrs",
            "Client Addrs",
            "Is Learner",
        ],
        &member_rows(answer),
    )
}

fn member_rows(answer: &api::MemberListResponse) -> Vec<Vec<String>> {
    let row = |member: &api::Member| {
        let state = if member.name.is_empty() {
            "unstarted"
        } else {
            "started"
        };
        vec![
            format!("{:x}", member.id),
            state.to_owned(),
            member.name.clone(),
            member.peer_urls.join(","),
            member.client_urls.join(","),
            member.is_learner.to_string(),
        ]
    };
    answer.members.iter().map(row).collect()
}

fn lines(rows: &[Vec<String>]) -> String {
    rows.iter().map(|row| row.join(", ") + "\n").collect()
}

/// Whether an endpoint serves.
pub struct Health {
    pub endpoint: String,
    pub took: Duration,
    /// Why not; empty if it does.
    pub error: String,
}

impl Health {
    pub fn is_well(&self) -> bool {
        self.error.is_empty()
    }

    pub fn praise(&self) -> Option<String> {
        let took = golang::duration(self.took);
        let text = format!(
            "{} is healthy: successfully committed proposal: took = {took}",
            self.endpoint
        );
        self.is_well().then_some(text)
    }

    pub fn complaint(&self) -> Option<String> {
        let text = format!(
            "{} is unhealthy: failed to commit proposal: {}",
            self.endpoint, self.error
        );
        (!self.is_well()).then_some(text)
    }
}

pub fn health_table(list: &[Health]) -> String {
    let row = |health: &Health| {
        let took = golang::duration(health.took);
        vec![
            health.endpoint.clone(),
            health.is_well().to_string(),
            took,
            health.error.clone(),
        ]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    table(&["endpoint", "health", "took", "error"], &rows)
}

pub fn health_json(list: &[Health]) -> String {
    let item = |health: &Health| {
        Object::new()
            .text("endpoint", &health.endpoint)
            .raw("health", health.is_well())
            .text("took", &golang::duration(health.took))
            .text_if("error", &health.error)
            .end()
    };
    json::array(list.iter().map(item))
}

pub fn health_fields(list: &[Health]) -> String {
    let mut fields = Fields::new(false);
    for health in list {
        fields.quoted("Endpoint", health.endpoint.as_bytes());
        fields.plain("Health", health.is_well());
        fields.plain("Took", golang::duration(health.took));
        fields.plain("Error", &health.error);
        fields.blank();
    }
    fields.text()
}

/// State of an endpoint's member.
pub struct State {
    pub endpoint: String,
    pub status: api::StatusResponse,
}

pub fn state_lines(list: &[State]) -> String {
    lines(&state_rows(list))
}

pub fn state_table(list: &[State]) -> String {
    let titles = [
        "endpoint",
        "ID",
        "version",
        "storage version",
        "db size",
        "in use",
        "percentage not in use",
        "quota",
        "is leader",
        "is learner",
        "raft term",
        "raft index",
        "raft applied index",
        "errors",
        "downgrade target version",
        "downgrade enabled",
    ];
    table(&titles, &state_rows(list))
}

fn state_rows(list: &[State]) -> Vec<Vec<String>> {
    let row = |State { endpoint, status }: &State| {
        let member = status.header.map_or(0, |header| header.member_id);
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        let in_use = status
            .db_size_in_use
            .saturating_mul(100)
            .checked_div(status.db_size);
        vec![
            endpoint.clone(),
            format!("{member:x}"),
            status.version.clone(),
            status.storage_version.clone(),
            golang::size(status.db_size),
            golang::size(status.db_size_in_use),
            format!("{}%", 100 - in_use.unwrap_or(100)),
            golang::size(status.db_size_quota),
            (status.leader == member).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    };
    list.iter().map(row).collect()
}

pub fn state_json(list: &[State]) -> String {
    if list.is_empty() {
        return "null".to_owned();
    }
    let item = |State { endpoint, status }: &State| {
        let mut inner = Object::new()
            .header(status.header.as_ref())
            .text_if("version", &status.version)
            .number_if("dbSize", status.db_size)
            .number_if("leader", status.leader)
            .number_if("raftIndex", status.raft_index)
            .number_if("raftTerm", status.raft_term)
            .number_if("raftAppliedIndex", status.raft_applied_index)
            .list_if(
                "errors",
                status.errors.iter().map(|error| json::string(error)),
            )
            .number_if("dbSizeInUse", status.db_size_in_use)
            .flag("isLearner", status.is_learner)
            .text_if("storageVersion", &status.storage_version)
            .number_if("dbSizeQuota", status.db_size_quota);
        if let Some(downgrade) = &status.downgrade_info {
            let object = Object::new()
                .flag("enabled", downgrade.enabled)
                .text_if("targetVersion", &downgrade.target_version);
            inner = inner.raw("downgradeInfo", object.end());
        }
        Object::new()
            .text("Endpoint", endpoint)
            .raw("Status", inner.end())
            .end()
    };
    json::array(list.iter().map(item))
}

pub fn state_fields(list: &[State], hex: bool) -> String {
    let mut fields = Fields::new(hex);
    for State { endpoint, status } in list {
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        fields.header(status.header.as_ref());
        fields.quoted("Version", status.version.as_bytes());
        fields.quoted("StorageVersion", status.storage_version.as_bytes());
        fields.plain("DBSize", status.db_size);
        fields.plain("DBSizeInUse", status.db_size_in_use);
        fields.plain("DBSizeQuota", status.db_size_quota);
        fields.plain("Leader", status.leader);
        fields.plain("IsLearner", status.is_learner);
        fields.plain("RaftIndex", status.raft_index);
        fields.plain("RaftTerm", status.raft_term);
        fields.plain("RaftAppliedIndex", status.raft_applied_index);
        fields.plain("Errors", format_args!("[{}]", status.errors.join(" ")));
        fields.quoted("Endpoint", endpoint.as_bytes());
        fields.quoted(
            "DowngradeTargetVersion",
            downgrade.target_version.as_bytes(),
        );
        fields.plain("DowngradeEnabled", downgrade.enabled);
        fields.blank();
    }
    fields.text()
}

/// Hash of an endpoint's keys.
pub struct Hash {
    pub endpoint: String,
    pub answer: api::HashKVResponse,
}

pub fn hash_lines(list: &[Hash]) -> String {
    lines(&hash_rows(list))
}

pub fn hash_table(list: &[Hash]) -> String {
    table(&["endpoint", "hash", "hash_revision"], &hash_rows(list))
}

fn hash_rows(list: &[Hash]) -> Vec<Vec<String>> {
    let row = |Hash { endpoint, answer }: &Hash| {
        vec![
            endpoint.clone(),
            answer.hash.to_string(),
            answer.hash_revision.to_string(),
        ]
    };
    list.iter().map(row).collect()
}

pub fn hash_json(list: &[Hash]) -> String {
    if list.is_empty() {
        return "null".to_owned();
    }
    let item = |Hash { endpoint, answer }: &Hash| {
        let inner = Object::new()
            .header(answer.header.as_ref())
            .number_if("hash", answer.hash)
            .number_if("compact_revision", answer.compact_revision)
            .number_if("hash_revision", answer.hash_revision);
        Object::new()
            .text("Endpoint", endpoint)
            .raw("HashKV", inner.end())
            .end()
    };
    json::array(list.iter().map(item))
}

pub fn hash_fields(list: &[Hash], hex: bool) -> String {
    let mut fields = Fields::new(hex);
    for Hash { endpoint, answer } in list {
        fields.header(answer.header.as_ref());
        fields.quoted("Endpoint", endpoint.as_bytes());
        fields.plain("Hash", answer.hash);
        fields.plain("HashRevision", answer.hash_revision);
        fields.blank();
    }
    fields.text()
}
