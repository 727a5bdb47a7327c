//! The Cluster service: who is there, who comes and who goes.

use std::rc::Rc;

use bytes::Bytes;
use kvnode_api::status::Status;
use kvnode_api::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, frame,
};
use kvnode_replica::Step;
use kvnode_store::command::Kind;
use kvnode_store::{MemberRules, Members};
use prost::Message as _;

use crate::config::{Url, ids};
use crate::cores::client::{Change, ClientCore};
use crate::http::Reply;

pub async fn member_list(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: MemberListRequest = frame::decode(message)?;
    if request.linearizable {
        core.linearize().await?;
    }
    // No revision in this service's headers.
    let response = MemberListResponse {
        header: Some(core.header(0)),
        members: core.with_view(|view| view.members().list()),
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

pub async fn member_add(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: MemberAddRequest = frame::decode(message)?;
    let peer_urls = peer_urls(&request.peer_urls)?;
    let (rules, seconds) = (rules(core), core.shared.unix_ms() / 1000);
    let new = |members: &Members| Member {
        id: unused_id(members, &peer_urls, seconds),
        peer_urls: peer_urls.clone(),
        is_learner: request.is_learner,
        ..Member::default()
    };
    let members = core
        .reconfigure(|members| {
            let member = new(members);
            rules.add(members, &member)?;
            Ok(Change {
                step: if member.is_learner {
                    Step::Learner(member.id)
                } else {
                    Step::Voter(member.id)
                },
                kind: Kind::MemberAdd,
                message: member.encode_to_vec(),
            })
        })
        .await?;
    let added = members.iter().find(|member| member.peer_urls == peer_urls);
    let response = MemberAddResponse {
        header: Some(core.header(0)),
        member: added.cloned(),
        members,
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

pub async fn member_remove(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: MemberRemoveRequest = frame::decode(message)?;
    let rules = rules(core);
    let members = core
        .reconfigure(|members| {
            rules.remove(members, request.id)?;
            Ok(Change {
                step: Step::Remove(request.id),
                kind: Kind::MemberRemove,
                message: request.encode_to_vec(),
            })
        })
        .await?;
    let response = MemberRemoveResponse {
        header: Some(core.header(0)),
        members,
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

pub async fn member_update(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: MemberUpdateRequest = frame::decode(message)?;
    let request = MemberUpdateRequest {
        id: request.id,
        peer_urls: peer_urls(&request.peer_urls)?,
    };
    let rules = rules(core);
    let members = core
        .reconfigure(|members| {
            rules.update(members, request.id, &request.peer_urls)?;
            let learns = members.get(request.id).is_some_and(|m| m.is_learner);
            // It stays what it is; as a step of the membership it keeps its turn among the other changes.
            Ok(Change {
                step: if learns {
                    Step::Learner(request.id)
                } else {
                    Step::Voter(request.id)
                },
                kind: Kind::MemberUpdate,
                message: request.encode_to_vec(),
            })
        })
        .await?;
    let response = MemberUpdateResponse {
        header: Some(core.header(0)),
        members,
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

pub async fn member_promote(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let reply = promote(core, message).await;
    let counts = &core.shared.metrics.server;
    match reply {
        Ok(_) => counts.learner_promotions.add(1),
        Err(_) => counts.learner_promotions_failed.add(1),
    }
    reply
}

async fn promote(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: MemberPromoteRequest = frame::decode(message)?;
    let rules = rules(core);
    let members = core
        .reconfigure(|members| {
            rules.promote(members, request.id)?;
            Ok(Change {
                step: Step::Voter(request.id),
                kind: Kind::MemberPromote,
                message: request.encode_to_vec(),
            })
        })
        .await?;
    let response = MemberPromoteResponse {
        header: Some(core.header(0)),
        members,
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

fn rules(core: &ClientCore) -> MemberRules {
    let config = &core.shared.config;
    MemberRules {
        strict: config.strict_reconfiguration,
        learners_max: config.learners_max,
    }
}

/// Sorted, as they enter the id. Garbage would be every member's to choke on.
fn peer_urls(given: &[String]) -> Result<Vec<String>, Status> {
    let parsed: Result<Vec<Url>, String> = given.iter().map(|url| Url::parse(url.trim())).collect();
    let mut urls: Vec<String> = parsed
        .map_err(|_| Status::member_urls_invalid())?
        .iter()
        .map(ToString::to_string)
        .collect();
    urls.sort();
    urls.dedup();
    if urls.is_empty() {
        return Err(Status::member_urls_invalid());
    }
    Ok(urls)
}

/// An id that nobody has or had: the time enters it, so that a member may come back under its old address.
fn unused_id(members: &Members, peer_urls: &[String], unix_seconds: u64) -> u64 {
    let ids = (unix_seconds..).map(|seconds| ids::added_member_id(peer_urls, seconds));
    let mut unused = ids
        .flatten()
        .filter(|&id| members.get(id).is_none() && !members.is_removed(id));
    unused.next().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(given: &[&str]) -> Result<Vec<String>, Status> {
        let given: Vec<String> = given.iter().map(|url| (*url).to_owned()).collect();
        peer_urls(&given)
    }

    #[test]
    fn peer_urls_are_checked_and_sorted() {
        assert_eq!(
            urls(&["http://b:1", " https://a:2", "http://b:1"]).unwrap(),
            ["http://b:1", "https://a:2"]
        );
        assert_eq!(urls(&["unix://a.sock"]).unwrap(), ["unix://a.sock"]);
        for bad in [
            &[][..],
            &[""],
            &["localhost:2380"],
            &["http://localhost"],
            &["http://a:1/path"],
            &["ftp://a:1"],
            &["http://a:1", "http://a:x"],
        ] {
            assert_eq!(urls(bad), Err(Status::member_urls_invalid()), "{bad:?}");
        }
    }

    #[test]
    fn an_added_member_gets_an_id_of_its_address_and_its_time() {
        let urls = urls(&["http://a:1"]).unwrap();
        let members = Members::default();
        let id = unused_id(&members, &urls, 1_700_000_000);
        assert_eq!(Some(id), ids::added_member_id(&urls, 1_700_000_000));
        assert_ne!(id, unused_id(&members, &urls, 1_700_000_001));
    }
}
