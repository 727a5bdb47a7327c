//! The member list as the peer port shows it to whoever asks in plain HTTP, and as a member that is
//! about to found or join a cluster reads it: `GET /members`, in etcd's JSON, with the cluster's id
//! in a header. It is a look at one member's state, as new as that member is.

use kvnode_api::Member;
use serde::{Deserialize, Serialize};

use crate::config::ids;
use crate::version;

/// Names the cluster in the head of an answer.
pub const CLUSTER_HEADER: &str = "X-Etcd-Cluster-ID";

/// What a member says about its cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub cluster_id: u64,
    /// By id. Empty while the member itself knows nobody.
    pub members: Vec<Member>,
}

/// One member, with etcd's field names.
#[derive(Serialize, Deserialize)]
struct Shown {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Vec<String>,
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
}

/// The body of an answer.
pub fn body(members: &[Member]) -> String {
    let shown: Vec<Shown> = members
        .iter()
        .cloned()
        .map(|member| Shown {
            id: member.id,
            peer_urls: member.peer_urls,
            name: member.name,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        })
        .collect();
    serde_json::to_string(&shown).unwrap_or_else(|_| "[]".to_owned())
}

/// Answers the request whose first line is `line`.
pub fn answer(line: &str, cluster_id: u64, members: &str) -> String {
    let path = line
        .strip_prefix("GET ")
        .and_then(|rest| rest.split(' ').next());
    let versions = format!(
        "{{\"etcdserver\":\"{}\",\"kvnode\":\"{}\"}}",
        version::ETCD,
        version::KVNODE
    );
    let (status, body) = match path {
        Some("/members") => ("200 OK", members),
        Some("/version") => ("200 OK", versions.as_str()),
        Some(_) => ("404 Not Found", "404 page not found\n"),
        None => ("405 Method Not Allowed", "Method Not Allowed\n"),
    };
    let kind = if body.starts_with(['[', '{']) {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    };
    format!(
        "HTTP/1.1 {status}\r\n{CLUSTER_HEADER}: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        ids::hex(cluster_id),
        body.len()
    )
}

/// Whether an answer that says how long it is has come whole; one that does not say ends with its connection.
pub fn is_whole(answer: &[u8]) -> bool {
    let mark = b"\r\n\r\n";
    let Some(at) = answer.windows(mark.len()).position(|end| end == mark) else {
        return false;
    };
    let (head, body) = answer.split_at(at + mark.len());
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let ours = name.eq_ignore_ascii_case("Content-Length");
        ours.then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    length.is_some_and(|length| body.len() >= length)
}

/// Reads a whole answer to `GET /members`; the error completes "it answered ".
pub fn read(answer: &[u8]) -> Result<Told, String> {
    let text = std::str::from_utf8(answer).map_err(|_| "with something else than text")?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or("with something else than HTTP")?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("{status:?}"));
    }
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let ours = name.eq_ignore_ascii_case(CLUSTER_HEADER);
        ours.then(|| ids::parse_hex(value.trim())).flatten()
    };
    let cluster_id = lines
        .find_map(header)
        .ok_or_else(|| format!("without a usable {CLUSTER_HEADER}"))?;
    let shown: Vec<Shown> =
        serde_json::from_str(body).map_err(|error| format!("with no member list: {error}"))?;
    let mut members: Vec<Member> = shown
        .into_iter()
        .map(|shown| Member {
            id: shown.id,
            name: shown.name,
            peer_urls: shown.peer_urls,
            client_urls: shown.client_urls,
            is_learner: shown.is_learner,
        })
        .collect();
    members.sort_by_key(|member| member.id);
    Ok(Told {
        cluster_id,
        members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Vec<Member> {
        vec![
            Member {
                id: u64::MAX - 1,
                name: "a \"quoted\" name".into(),
                peer_urls: vec!["http://a:2380".into()],
                client_urls: vec!["http://a:2379".into(), "http://a:4001".into()],
                is_learner: false,
            },
            Member {
                id: 7,
                name: String::new(),
                peer_urls: vec!["http://b:2380".into()],
                client_urls: vec![],
                is_learner: true,
            },
        ]
    }

    #[test]
    fn what_is_shown_reads_back() {
        let text = answer("GET /members HTTP/1.1", 0xabc, &body(&members()));
        let told = read(text.as_bytes()).unwrap();
        let mut expected = members();
        expected.reverse();
        assert_eq!(told.cluster_id, 0xabc);
        assert_eq!(told.members, expected);
    }

    #[test]
    fn an_answer_is_whole_when_all_it_announced_is_there() {
        let text = answer("GET /members HTTP/1.1", 0xabc, &body(&members()));
        for end in 0..text.len() {
            assert!(!is_whole(&text.as_bytes()[..end]), "{end}");
        }
        assert!(is_whole(text.as_bytes()));
        assert!(!is_whole(b"HTTP/1.0 200 OK\r\n\r\n[]"), "nobody knows");
    }

    #[test]
    fn an_answer_of_etcd_is_understood() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Etcd-Cluster-Id: cdf818194e3a8c32\r\nContent-Length: 143\r\n\r\n[{\"id\":10276657743932975437,\"peerURLs\":[\"http://localhost:2380\"],\"name\":\"default\",\"clientURLs\":[\"http://localhost:2379\"]}]\n";
        let told = read(text.as_bytes()).unwrap();
        assert_eq!(told.cluster_id, 0xcdf8_1819_4e3a_8c32);
        assert_eq!(told.members[0].id, 0x8e9e_05c5_2164_694d);
        assert!(!told.members[0].is_learner);
    }

    #[test]
    fn other_answers_say_what_they_are() {
        for (answer, part) in [
            ("", "HTTP"),
            ("nonsense", "HTTP"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "404"),
            ("HTTP/1.1 200 OK\r\n\r\n[]", "X-Etcd-Cluster-ID"),
            (
                "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-ID: 0\r\n\r\n[]",
                "X-Etcd",
            ),
            (
                "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-ID: a\r\n\r\n{}",
                "member list",
            ),
        ] {
            let error = read(answer.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{answer:?}: {error}");
        }
        assert!(read(&[0xff]).is_err());
    }

    #[test]
    fn other_requests_are_answered_as_http_has_it() {
        let status = |line: &str| {
            let text = answer(line, 1, "[]");
            text.split(' ').nth(1).map(str::to_owned)
        };
        assert_eq!(status("GET /members HTTP/1.0").as_deref(), Some("200"));
        assert_eq!(status("GET /version HTTP/1.1").as_deref(), Some("200"));
        assert_eq!(status("GET / HTTP/1.1").as_deref(), Some("404"));
        assert_eq!(status("POST /members HTTP/1.1").as_deref(), Some("405"));
    }
}
