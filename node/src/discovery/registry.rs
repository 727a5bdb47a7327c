//! Founders by a registry in another cluster, as etcd's v3 discovery lays it out:
//!
//! ```text
//! /_etcd/registry/TOKEN/_config/size          how many founders there will be, decimal; made beforehand
//! /_etcd/registry/TOKEN/members/ID            of each founder (hex): name=url,name=url
//! ```
//!
//! A founder writes its entry and waits until there are as many as the size says; the first by create revision are the cluster,
//! who comes later is told that it is full. The registry is asked through its JSON gateway, which every etcd serves.

use std::time::Duration;

use serde_json::{Value, json};

use super::base64;
use super::http::{Patience, post};
use crate::config::{Config, RegistryDiscovery};
use crate::tls::Calling;

type Failure = (String, String);

/// Pause between two looks while founders are missing, and the longest after failures.
const LOOK: Duration = Duration::from_millis(500);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// A registry is no place for more.
const SIZE_MAX: usize = 100;

/// Registers this member and waits for the others, however long that takes. `tell` hears of progress.
pub fn founders(
    config: &Config,
    settings: &RegistryDiscovery,
    tell: impl Fn(&str),
) -> Result<String, Failure> {
    let tls = settings.tls.as_ref().map(|tls| {
        let read = crate::tls::registry(&config.security.offer, tls);
        read.map_err(|error| (error.what, error.hint))
    });
    let registry = Registry {
        settings,
        tls: tls.transpose()?,
        prefix: format!("/_etcd/registry/{}", settings.token),
    };
    let size = registry.patiently(&tell, |token| registry.size(token))??;
    let own = format!("{:x}", config.member_id);
    let members = || registry.patiently(&tell, |token| registry.members(token));
    let full = || {
        (
            format!("the registry of --discovery-token={} already has its {size} members", settings.token),
            "to join a cluster that runs use member add and --initial-cluster-state=existing; for a new cluster take a new token".to_owned(),
        )
    };
    let before = members()?;
    if !before.iter().any(|member| member.id == own) {
        if before.len() >= size {
            return Err(full());
        }
        let urls: Vec<String> = config
            .advertise_peer_urls
            .iter()
            .map(|url| format!("{}={url}", config.name))
            .collect();
        let entry = urls.join(",");
        registry.patiently(&tell, |token| registry.register(token, &own, &entry))?;
    }
    let mut told = 0;
    loop {
        let mut all = members()?;
        all.truncate(size);
        if all.len() == size && !all.iter().any(|member| member.id == own) {
            return Err(full());
        }
        if all.len() == size {
            let entries: Vec<String> = all.into_iter().map(|member| member.entry).collect();
            return Ok(entries.join(","));
        }
        if told != all.len() {
            told = all.len();
            tell(&format!("{told} of {size} members have registered"));
        }
        std::thread::sleep(LOOK);
    }
}

struct Registry<'a> {
    settings: &'a RegistryDiscovery,
    tls: Option<Calling>,
    prefix: String,
}

struct Registered {
    id: String,
    entry: String,
    created: u64,
}

impl Registry<'_> {
    /// Tries until it works: a registry that is away now may be there later.
    fn patiently<T>(
        &self,
        tell: &impl Fn(&str),
        act: impl Fn(Option<&str>) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let mut pause = LOOK;
        loop {
            match self.token().and_then(|token| act(token.as_deref())) {
                Ok(done) => return Ok(done),
                Err(error) => tell(&format!("{error}; trying again")),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }

    /// Of the user, if there is one.
    fn token(&self) -> Result<Option<String>, String> {
        let Some((name, password)) = &self.settings.user else {
            return Ok(None);
        };
        let body = json!({ "name": name, "password": password });
        let answer = self.call("/v3/auth/authenticate", None, &body)?;
        let token = answer["token"].as_str().map(str::to_owned);
        token
            .map(Some)
            .ok_or_else(|| "the registry gave no token".to_owned())
    }

    /// Asks the endpoints in turn.
    fn call(&self, path: &str, token: Option<&str>, body: &Value) -> Result<Value, String> {
        let patience = Patience {
            dial: self.settings.dial_timeout,
            request: self.settings.request_timeout,
        };
        let mut last = "no endpoint".to_owned();
        for endpoint in &self.settings.endpoints {
            match post(endpoint, path, token, body, self.tls.as_ref(), patience) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn range(
        &self,
        token: Option<&str>,
        key: &str,
        end: Option<&str>,
    ) -> Result<Vec<Value>, String> {
        let mut body = json!({ "key": base64::encode(key.as_bytes()) });
        if let Some(end) = end {
            body["range_end"] = json!(base64::encode(end.as_bytes()));
        }
        let answer = self.call("/v3/kv/range", token, &body)?;
        Ok(answer["kvs"].as_array().cloned().unwrap_or_default())
    }

    /// The inner error is not worth trying again.
    fn size(&self, token: Option<&str>) -> Result<Result<usize, Failure>, String> {
        let key = format!("{}/_config/size", self.prefix);
        let found = self.range(token, &key, None)?;
        let Some(kv) = found.first() else {
            return Ok(Err((
                format!("the registry has no key {key}"),
                format!("put the number of members there first: etcdctl put {key} 3"),
            )));
        };
        let text = text(&kv["value"]).unwrap_or_default();
        Ok(match text.trim().parse() {
            Ok(size) if (1..=SIZE_MAX).contains(&size) => Ok(size),
            _ => Err((
                format!("the registry's key {key} holds {text:?}"),
                format!("it should hold the number of members, 1 to {SIZE_MAX}"),
            )),
        })
    }

    /// By create revision.
    fn members(&self, token: Option<&str>) -> Result<Vec<Registered>, String> {
        let from = format!("{}/members/", self.prefix);
        let end = format!("{}/members0", self.prefix);
        let mut members = Vec::new();
        for kv in self.range(token, &from, Some(&end))? {
            let key = text(&kv["key"]).unwrap_or_default();
            let (Some(id), Some(entry)) = (key.strip_prefix(&from), text(&kv["value"])) else {
                return Err("a member's entry cannot be read".to_owned());
            };
            let created = &kv["create_revision"];
            let created = created.as_u64().or_else(|| created.as_str()?.parse().ok());
            members.push(Registered {
                id: id.to_owned(),
                entry,
                created: created.unwrap_or(u64::MAX),
            });
        }
        members.sort_by_key(|member| member.created);
        Ok(members)
    }

    fn register(&self, token: Option<&str>, id: &str, entry: &str) -> Result<(), String> {
        let key = format!("{}/members/{id}", self.prefix);
        let body = json!({
            "key": base64::encode(key.as_bytes()),
            "value": base64::encode(entry.as_bytes()),
        });
        self.call("/v3/kv/put", token, &body).map(drop)
    }
}

fn text(value: &Value) -> Option<String> {
    String::from_utf8(base64::decode(value.as_str()?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Url;
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    type Keys = Arc<Mutex<BTreeMap<String, (String, u64)>>>;

    /// Another cluster's gateway: range and put over a map.
    fn gateway(keys: &Keys) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let keys = Arc::clone(keys);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut chunk = [0; 1024];
                let body: Value = loop {
                    let read = stream.read(&mut chunk).unwrap();
                    request.extend_from_slice(&chunk[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                    if let Ok(body) = serde_json::from_str(body) {
                        break body;
                    }
                };
                let mut keys = keys.lock().unwrap();
                let key = text(&body["key"]).unwrap();
                let answer = if request.starts_with(b"POST /v3/kv/put ") {
                    let created = keys.len() as u64 + 1;
                    keys.insert(key, (text(&body["value"]).unwrap(), created));
                    json!({})
                } else {
                    let end = text(&body["range_end"]);
                    let inside = |k: &String| match &end {
                        Some(end) => *k >= key && k < end,
                        None => *k == key,
                    };
                    let found: Vec<Value> = keys
                        .iter()
                        .filter(|(key, _)| inside(key))
                        .map(|(key, (value, created))| {
                            json!({
                                "key": base64::encode(key.as_bytes()),
                                "value": base64::encode(value.as_bytes()),
                                "create_revision": created.to_string(),
                            })
                        })
                        .collect();
                    json!({ "kvs": found })
                };
                let answer = answer.to_string();
                write!(stream, "HTTP/1.0 200 OK\r\n\r\n{answer}").unwrap();
            }
        });
        url
    }

    fn member(name: &str, endpoint: &Url) -> (Config, RegistryDiscovery) {
        let args = [
            format!("--name={name}"),
            format!("--initial-advertise-peer-urls=http://{name}:1"),
            "--discovery-token=t".to_owned(),
            format!("--discovery-endpoints={endpoint}"),
        ];
        let none = std::iter::empty::<(String, String)>();
        let no_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let config = Config::load(args, none, no_file).unwrap().config;
        match config.discovery.clone() {
            Some(crate::config::Discovery::Registry(settings)) => (config, settings),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn founders_wait_for_each_other_and_a_late_one_is_told_it_is_full() {
        let keys = Keys::default();
        let url = gateway(&keys);
        let size = "/_etcd/registry/t/_config/size".to_owned();
        let (config, settings) = member("a", &url);
        let (what, hint) = founders(&config, &settings, |_| {}).unwrap_err();
        assert!(
            what.contains(&size) && hint.contains("etcdctl put"),
            "{what}; {hint}"
        );
        keys.lock()
            .unwrap()
            .insert(size.clone(), ("many".into(), 1));
        let (what, _) = founders(&config, &settings, |_| {}).unwrap_err();
        assert!(what.contains("many"), "{what}");
        keys.lock().unwrap().insert(size, ("2".into(), 1));
        let first = std::thread::spawn(move || founders(&config, &settings, |_| {}));
        let (config, settings) = member("b", &url);
        let second = founders(&config, &settings, |_| {}).unwrap();
        let first = first.join().unwrap().unwrap();
        assert_eq!(first, second);
        for entry in ["a=http://a:1", "b=http://b:1"] {
            assert!(first.split(',').any(|one| one == entry), "{first}");
        }
        // One of them once more finds what it found.
        assert_eq!(founders(&config, &settings, |_| {}).unwrap(), first);
        let (config, settings) = member("c", &url);
        let (what, _) = founders(&config, &settings, |_| {}).unwrap_err();
        assert!(what.contains("already has its 2 members"), "{what}");
    }
}
