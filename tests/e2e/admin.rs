//! The operator's own way in: the socket in the data directory, and what a reload takes over.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvnode_api as api;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, fresh, fresh_with, http};
use rustix::process::Signal;
use serde_json::Value;

fn socket(server: &Server) -> PathBuf {
    server.data_dir().join("admin.sock")
}

fn ask(socket: &Path, method: &str, path: &str) -> (u16, Value) {
    let (status, body) = http::over_unix(socket, method, path).expect("answers");
    let text = String::from_utf8(body).expect("text");
    let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    (status, value)
}

/// One setting as the socket tells it.
fn setting(socket: &Path, name: &str) -> Value {
    let (status, value) = ask(socket, "GET", "/admin/config");
    assert_eq!(status, 200);
    let all = value["settings"].as_array().expect("a list");
    let found = all.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is missing")).clone()
}

fn ours(server: &Server) -> bool {
    server.kind().is_kvnode()
}

/// Polls, for a process acts on a signal in its own time.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_socket_tells_who_the_member_is_and_where_it_stands() {
    fresh(async |server, client: Client| {
        if !ours(server) {
            return;
        }
        let revision = client.write("k", "v").await;
        let socket = socket(server);
        let mode = std::fs::metadata(&socket)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "for the server's user alone");
        let (status, value) = ask(&socket, "GET", "/admin/status");
        assert_eq!(status, 200);
        let told = client.status(api::StatusRequest {}).await.expect("status");
        let header = told.header.expect("header");
        assert_eq!(value["member"]["id"], format!("{:x}", header.member_id));
        assert_eq!(value["cluster"]["id"], format!("{:x}", header.cluster_id));
        assert_eq!(value["member"]["role"], "leader");
        assert_eq!(value["member"]["serving"], true);
        assert_eq!(value["store"]["revision"], revision);
        assert_eq!(value["raft"]["term"], told.raft_term);
        assert_eq!(value["raft"]["applied_index"], told.raft_applied_index);
        assert_eq!(value["lock"]["pid"], server.pid());
        assert_eq!(value["version"]["api"], told.version);
        for (method, path, expected) in [
            ("POST", "/admin/status", 405),
            ("GET", "/admin/snapshot", 405),
            ("GET", "/metrics", 404),
            ("GET", "/admin/nothing", 404),
        ] {
            let (status, value) = ask(&socket, method, path);
            assert_eq!(status, expected, "{method} {path}");
            assert!(value["error"].is_string(), "{value}");
        }
        // What the socket serves is not on the client port.
        let other = http::get(server.address(), "/admin/status").expect("answers");
        assert_eq!(other.status, 404);
    });
}

#[test]
fn the_sockets_snapshot_is_the_one_clients_get() {
    fresh(async |server, client: Client| {
        if !ours(server) {
            return;
        }
        for number in 0..300 {
            client.write(format!("k{number}"), vec![b'v'; 5000]).await;
        }
        let (status, file) =
            http::over_unix(&socket(server), "POST", "/admin/snapshot").expect("answers");
        assert_eq!(status, 200);
        assert_eq!(file.len() % 512, 32);
        assert_eq!(&file[..4], b"\x89KVS");
        let mut blobs = client.snapshot().await.expect("a stream");
        let mut streamed = Vec::new();
        while let Some(blob) = blobs.next_or_end().await.expect("blobs") {
            streamed.extend_from_slice(&blob.blob);
        }
        // They differ in when they were made, which stands in the header, and so in the digest at the end.
        let body = |bytes: &[u8]| bytes[256..bytes.len() - 32].to_vec();
        assert_eq!(file.len(), streamed.len());
        assert!(
            body(&file) == body(&streamed),
            "the same state, packed alike"
        );
    });
}

#[test]
fn a_stop_removes_the_socket_and_a_start_replaces_one_that_a_kill_left() {
    fresh(async |server, _| {
        if !ours(server) {
            return;
        }
        let socket = socket(server);
        server.kill();
        assert!(socket.exists(), "a killed process leaves it");
        server.restart();
        assert_eq!(ask(&socket, "GET", "/admin/status").0, 200);
        server.stop();
        assert!(!socket.exists());
    });
}

#[test]
fn a_socket_elsewhere_or_none_is_as_asked() {
    let home = tempfile::tempdir().expect("a directory");
    let elsewhere = home.path().join("operator.sock");
    let argument = format!("--admin-socket={}", elsewhere.display());
    fresh_with(Options::default().arg(argument), async |server, _| {
        if !ours(server) {
            return;
        }
        assert_eq!(ask(&elsewhere, "GET", "/admin/status").0, 200);
        assert!(!socket(server).exists());
        let (status, config) = ask(&elsewhere, "GET", "/admin/config");
        assert_eq!(status, 200);
        assert!(
            config["settings"]
                .as_array()
                .is_some_and(|all| all.len() > 30)
        );
        let own = setting(&elsewhere, "admin-socket");
        assert_eq!(own["source"], "flag");
        assert_eq!(own["value"], elsewhere.display().to_string());
        assert_eq!(setting(&elsewhere, "max-txn-ops")["source"], "default");
    });
    fresh_with(
        Options::default().arg("--admin-socket=none"),
        async |server, _| {
            if ours(server) {
                assert!(!socket(server).exists());
            }
        },
    );
}

#[test]
fn a_reload_takes_over_what_can_change_and_names_what_cannot() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("kvnode.yaml");
    let write = |text: &str| std::fs::write(&file, text).expect("a file");
    write("quota-backend-bytes: 8388608\nlog-level: info\n");
    let argument = format!("--config-file={}", file.display());
    fresh_with(
        Options::default().arg(argument),
        async |server, client: Client| {
            if !ours(server) {
                return;
            }
            let socket = socket(server);
            write("quota-backend-bytes: 9437184\nlog-level: debug\nmax-txn-ops: 7\n");
            let (status, outcome) = ask(&socket, "POST", "/admin/reload");
            assert_eq!(status, 200, "{outcome}");
            let names = |list: &str| -> Vec<String> {
                let changes = outcome[list].as_array().expect("a list");
                changes
                    .iter()
                    .map(|c| c["name"].as_str().unwrap_or_default().to_owned())
                    .collect()
            };
            assert_eq!(names("applied"), ["quota-backend-bytes", "log-level"]);
            assert_eq!(names("needs_restart"), ["max-txn-ops"]);
            assert_eq!(setting(&socket, "quota-backend-bytes")["value"], "9437184");
            assert_eq!(setting(&socket, "max-txn-ops")["value"], "128");
            let told = client.status(api::StatusRequest {}).await.expect("status");
            assert_eq!(told.db_size_quota, 9_437_184);
            // What does not pass its checks changes nothing.
            write("quota-backend-bytes: 1\nnonsense: 1\n");
            let (status, outcome) = ask(&socket, "POST", "/admin/reload");
            assert_eq!(status, 422, "{outcome}");
            assert!(
                outcome["failed"][0]
                    .as_str()
                    .is_some_and(|text| text.contains("nonsense"))
            );
            assert_eq!(setting(&socket, "quota-backend-bytes")["value"], "9437184");
            // SIGHUP is the same.
            write("quota-backend-bytes: 10485760\n");
            server.signal(Signal::HUP);
            until("SIGHUP takes the quota over", || {
                setting(&socket, "quota-backend-bytes")["value"] == "10485760"
            });
            // A quota that is used up is one at once.
            client.write("k", vec![b'x'; 4096]).await;
            write("quota-backend-bytes: 2000\n");
            assert_eq!(ask(&socket, "POST", "/admin/reload").0, 200);
            until("writes are refused under the new quota", || {
                let metrics = http::get(server.address(), "/metrics").expect("answers");
                metrics
                    .body
                    .contains("etcd_server_quota_backend_bytes 2000\n")
            });
            refused(
                client.put(put("k", vec![b'x'; 4096])).await,
                refusal::no_space(),
            );
        },
    );
}
