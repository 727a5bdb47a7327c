//! `status`: the whole cluster on one screen.

use std::fmt::Write as _;

use kvnode_client::api::{AlarmMember, AlarmType, Member, StatusResponse};
use kvnode_client::{Client, Error};

use crate::certificate;
use crate::context::Context;
use crate::failure::{self, Failure, Result, code};
use crate::golang;
use crate::metrics::Metrics;
use crate::output::{Format, Object, say, say_line};

/// What a server counts in seconds for each sync of its log.
const SYNC_SECONDS: &str = "etcd_disk_wal_fsync_duration_seconds";
/// When it last handed out a whole snapshot, in Unix time; 0 if it has not since it started.
const LAST_SNAPSHOT: &str = "kvnode_last_snapshot_sent_timestamp_seconds";

/// A member, and what it says of itself.
struct Seen {
    member: Member,
    asked: std::result::Result<StatusResponse, String>,
    vitals: Vitals,
}

/// What is no part of the API; nothing is known of a member without a metrics page.
#[derive(Default)]
struct Vitals {
    /// 99 of 100 syncs of its log since it started took at most so long.
    sync_seconds: Option<f64>,
    /// See [`LAST_SNAPSHOT`].
    last_snapshot: Option<i64>,
    /// The end of the certificate it shows, in Unix time.
    good_until: Option<i64>,
}

impl Vitals {
    async fn of(client: &Client, url: &str) -> Vitals {
        let Ok(page) = client.page(url, "/metrics").await else {
            return Vitals::default();
        };
        let metrics = Metrics::of(&page);
        Vitals {
            sync_seconds: metrics.quantile(SYNC_SECONDS, 0.99),
            last_snapshot: metrics.value(LAST_SNAPSHOT).map(|seconds| seconds as i64),
            good_until: page
                .certificate
                .as_deref()
                .and_then(certificate::good_until),
        }
    }
}

pub async fn run(context: &Context<'_>) -> Result<()> {
    if !context.words().is_empty() {
        return Err(Failure::usage(
            "status command accepts no arguments",
            "status",
        ));
    }
    context.printer(&[Format::Simple, Format::Json])?;
    let client = context.client()?;
    // Any member may answer, so that a cluster without leader can be looked at too.
    let list = client.member_list(false).await?;
    let cluster = list.header.map_or(0, |header| header.cluster_id);
    let mut asking = tokio::task::JoinSet::new();
    for (index, member) in list.members.into_iter().enumerate() {
        let client = client.clone();
        asking.spawn(async move { (index, look(&client, member).await) });
    }
    let mut seen: Vec<(usize, Seen)> = Vec::new();
    while let Some(asked) = asking.join_next().await {
        seen.extend(asked.ok());
    }
    seen.sort_by_key(|(index, _)| *index);
    let seen: Vec<Seen> = seen.into_iter().map(|(_, seen)| seen).collect();
    let alarms = client.alarms().await.map(|answer| answer.alarms);
    let whole = Overview::new(cluster, &seen, alarms);
    match context.settings.format {
        Format::Json => say_line(&whole.json())?,
        _ => say(whole.screen())?,
    }
    whole.verdict()
}

/// Asks a member at the first of its addresses that answers.
async fn look(client: &Client, member: Member) -> Seen {
    let mut asked = Err("not started yet".to_owned());
    let mut vitals = Vitals::default();
    for url in &member.client_urls {
        let answer = match client.only(url) {
            Ok(client) => client.status().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(status) => {
                asked = Ok(status);
                vitals = Vitals::of(client, url).await;
                break;
            }
            Err(error) => asked = Err(failure::text(&error)),
        }
    }
    Seen {
        member,
        asked,
        vitals,
    }
}

struct Overview<'a> {
    cluster: u64,
    seen: &'a [Seen],
    /// Or why they cannot be listed.
    alarms: std::result::Result<Vec<AlarmMember>, String>,
    /// 0 if there is none.
    leader: u64,
    revision: i64,
    term: u64,
    /// The furthest log index anybody told.
    index: u64,
}

impl<'a> Overview<'a> {
    fn new(
        cluster: u64,
        seen: &'a [Seen],
        alarms: std::result::Result<Vec<AlarmMember>, Error>,
    ) -> Overview<'a> {
        let said = || seen.iter().filter_map(|seen| seen.asked.as_ref().ok());
        let newest = said().max_by_key(|status| (status.raft_term, status.raft_index));
        let revision = |status: &StatusResponse| status.header.map_or(0, |header| header.revision);
        Overview {
            cluster,
            seen,
            alarms: alarms.map_err(|error| failure::text(&error)),
            leader: newest.map_or(0, |status| status.leader),
            revision: said().map(revision).max().unwrap_or(0),
            term: newest.map_or(0, |status| status.raft_term),
            index: said().map(|status| status.raft_index).max().unwrap_or(0),
        }
    }

    fn role(&self, seen: &Seen) -> &'static str {
        match &seen.asked {
            Err(_) => "unreachable",
            Ok(_) if seen.member.id == self.leader => "leader",
            Ok(_) if seen.member.is_learner => "learner",
            Ok(_) => "follower",
        }
    }

    /// Entries that a member has yet to apply.
    fn lag(&self, status: &StatusResponse) -> u64 {
        self.index.saturating_sub(status.raft_applied_index)
    }

    fn name(&self, id: u64) -> String {
        let found = self.seen.iter().find(|seen| seen.member.id == id);
        match found.map(|seen| seen.member.name.as_str()) {
            None | Some("") => format!("{id:x}"),
            Some(name) => name.to_owned(),
        }
    }

    fn screen(&self) -> String {
        let leader = match self.leader {
            0 => "none".to_owned(),
            id => self.name(id),
        };
        let mut out = format!(
            "cluster {:x}, {} members, leader {leader}, term {}, revision {}\n\n",
            self.cluster,
            self.seen.len(),
            self.term,
            self.revision
        );
        let mut rows = vec![
            [
                "NAME", "ID", "ROLE", "VERSION", "LAG", "DB SIZE", "IN USE", "QUOTA", "SYNC P99",
                "ENDPOINT",
            ]
            .map(str::to_owned),
        ];
        for seen in self.seen {
            let empty = StatusResponse::default();
            let status = seen.asked.as_ref().unwrap_or(&empty);
            let told = |text: String| {
                if seen.asked.is_ok() {
                    text
                } else {
                    "-".to_owned()
                }
            };
            rows.push([
                seen.member.name.clone(),
                format!("{:x}", seen.member.id),
                self.role(seen).to_owned(),
                told(status.version.clone()),
                told(self.lag(status).to_string()),
                told(golang::size(status.db_size)),
                told(golang::size(status.db_size_in_use)),
                told(quota(status)),
                seen.vitals
                    .sync_seconds
                    .map_or("-".to_owned(), milliseconds),
                seen.member.client_urls.join(","),
            ]);
        }
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|column| {
                let cells = rows.iter().map(|row| row[column].chars().count());
                cells.max().unwrap_or(0)
            })
            .collect();
        for row in &rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
        out.push('\n');
        match &self.alarms {
            Err(error) => {
                let _ = writeln!(out, "alarms: not known: {error}");
            }
            Ok(alarms) if alarms.is_empty() => out.push_str("alarms: none\n"),
            Ok(alarms) => {
                for alarm in alarms {
                    let (name, kind) = (self.name(alarm.member_id), kind(alarm));
                    let _ = writeln!(out, "alarm: {kind} at {name}");
                }
            }
        }
        let _ = writeln!(out, "{}", self.backup());
        for seen in self.seen {
            let name = self.name(seen.member.id);
            if let Some(end) = seen.vitals.good_until {
                let days = certificate::days_left(end);
                let warning = match days {
                    ..0 => "EXPIRED",
                    0..certificate::DAYS_WARNED => "EXPIRES SOON",
                    _ => "good",
                };
                let _ = writeln!(out, "certificate of {name}: {warning}, {days} days left");
            }
            match &seen.asked {
                Err(error) => {
                    let _ = writeln!(out, "{name}: {error}");
                }
                Ok(status) => {
                    for error in &status.errors {
                        let _ = writeln!(out, "{name}: {error}");
                    }
                }
            }
        }
        out
    }

    /// When somebody last took a whole snapshot, of whom.
    fn backup(&self) -> String {
        let told = self.seen.iter().filter_map(|seen| {
            let at = seen.vitals.last_snapshot?;
            Some((at, seen.member.id))
        });
        match told.max() {
            None => "backup: not told".to_owned(),
            Some((0, _)) => {
                "backup: none since the members started; kvctl snapshot save FILE".to_owned()
            }
            Some((at, id)) => {
                let minutes = (certificate::now() - at).max(0) / 60;
                let age = match minutes {
                    0..120 => format!("{minutes} min"),
                    120..2880 => format!("{} h", minutes / 60),
                    _ => format!("{} days", minutes / 1440),
                };
                format!("backup: {age} ago, taken from {}", self.name(id))
            }
        }
    }

    fn json(&self) -> String {
        let member = |seen: &Seen| {
            let object = Object::new()
                .text("name", &seen.member.name)
                .number("id", seen.member.id)
                .text("role", self.role(seen))
                .texts("client_urls", &seen.member.client_urls);
            let object = match &seen.asked {
                Err(error) => object.text("error", error),
                Ok(status) => object
                    .text("version", &status.version)
                    .number("lag", self.lag(status))
                    .number("raft_index", status.raft_index)
                    .number("raft_applied_index", status.raft_applied_index)
                    .number("db_size", status.db_size)
                    .number("db_size_in_use", status.db_size_in_use)
                    .number("db_size_quota", status.db_size_quota)
                    .texts("errors", &status.errors),
            };
            let Vitals {
                sync_seconds,
                last_snapshot,
                good_until,
            } = &seen.vitals;
            let mut object = object;
            if let Some(seconds) = sync_seconds {
                object = object.raw("sync_p99_seconds", seconds);
            }
            if let Some(at) = last_snapshot {
                object = object.number("last_snapshot_unix", at);
            }
            if let Some(end) = good_until {
                object = object.number("certificate_not_after_unix", end);
            }
            object.end()
        };
        let members: Vec<String> = self.seen.iter().map(member).collect();
        let object = Object::new()
            .number("cluster_id", self.cluster)
            .number("leader", self.leader)
            .number("raft_term", self.term)
            .number("revision", self.revision)
            .raw("members", format!("[{}]", members.join(",")));
        let object = match &self.alarms {
            Err(error) => object.text("alarms_error", error),
            Ok(alarms) => {
                let alarm = |alarm: &AlarmMember| {
                    Object::new()
                        .number("member_id", alarm.member_id)
                        .text("alarm", kind(alarm))
                        .end()
                };
                let alarms: Vec<String> = alarms.iter().map(alarm).collect();
                object.raw("alarms", format!("[{}]", alarms.join(",")))
            }
        };
        object.end()
    }

    fn verdict(&self) -> Result<()> {
        let unwell = |text: &str, next: &str| Err(Failure::new(code::ERROR, text).next(next));
        if self.leader == 0 {
            return unwell(
                "there is no leader",
                "kvctl endpoint health --cluster   # and start the members that do not answer",
            );
        }
        if self.seen.iter().any(|seen| seen.asked.is_err()) {
            return unwell(
                "a member does not answer",
                "systemctl status kvnode   # on its host",
            );
        }
        match &self.alarms {
            Ok(alarms) if alarms.is_empty() => Ok(()),
            Ok(_) => unwell(
                "an alarm is on",
                "kvctl alarm list   # then compact, defrag, and: kvctl alarm disarm",
            ),
            Err(_) => unwell("the alarms cannot be listed", "kvctl alarm list"),
        }
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}ms", seconds * 1000.0)
}

/// What may be used, and how much of it is; servers before 3.6 do not tell.
fn quota(status: &StatusResponse) -> String {
    match status
        .db_size
        .saturating_mul(100)
        .checked_div(status.db_size_quota)
    {
        Some(percent) => format!("{} ({percent}%)", golang::size(status.db_size_quota)),
        None => "?".to_owned(),
    }
}

/// How full a member is, in words.
pub fn used(status: &StatusResponse) -> String {
    let size = golang::size(status.db_size);
    match status
        .db_size
        .saturating_mul(100)
        .checked_div(status.db_size_quota)
    {
        Some(percent) => format!(
            "{size} used of {} ({percent}%)",
            golang::size(status.db_size_quota)
        ),
        None => format!("{size} used"),
    }
}

pub fn kind(alarm: &AlarmMember) -> &'static str {
    match AlarmType::try_from(alarm.alarm) {
        Ok(AlarmType::Nospace) => "NOSPACE",
        Ok(AlarmType::Corrupt) => "CORRUPT",
        _ => "UNKNOWN",
    }
}
