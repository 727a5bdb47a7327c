//! `curl`, as `docs/gateway.md` has it: every command line there is run as it stands.

use std::process::Command;
use std::time::Duration;

use kvnode_tests::{Options, Server};
use serde_json::{Value, json};

use crate::tool::{Output, run, skip};

const DOCUMENT: &str = include_str!("../../docs/gateway.md");

/// The lines of the document's shell blocks.
fn commands() -> Vec<&'static str> {
    let blocks = DOCUMENT.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    lines.collect()
}

fn shell(server: &Server, line: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("ETCD", server.url());
    run(command, "", Duration::from_secs(30))
}

fn answers(output: &str) -> Vec<Value> {
    let lines = output.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}

#[test]
fn the_documents_command_lines_do_what_it_says() {
    if let Err(error) = Command::new("curl").arg("--version").output() {
        return skip("curl", &error.to_string());
    }
    let server = Server::start(Options::default());
    let commands = commands();
    assert_eq!(commands.len(), 9, "{commands:?}");
    let mut results = Vec::new();
    for line in &commands {
        let output = shell(&server, line);
        // A watch ends by its time limit.
        assert!(
            output.success() || line.contains("--max-time"),
            "{line}: {output:?}"
        );
        results.push(answers(&output.stdout));
    }
    let [put, got, prefix, txn, deleted, watch, grant, alive, token] = &results[..] else {
        panic!("nine results");
    };
    assert_eq!(put[0]["header"]["revision"], "2");
    let pair = json!([{
        "key": "Zm9v",
        "create_revision": "2",
        "mod_revision": "2",
        "version": "1",
        "value": "YmFy",
    }]);
    assert_eq!((&got[0]["kvs"], &got[0]["count"]), (&pair, &json!("1")));
    assert_eq!(prefix[0]["kvs"], pair);
    assert_eq!(txn[0]["succeeded"], true);
    assert_eq!(deleted[0]["prev_kvs"][0]["value"], "YmF6");
    assert_eq!(watch[0]["result"]["created"], true);
    assert_eq!(grant[0]["ID"], "77");
    assert_eq!(
        (&alive[0]["result"]["ID"], &alive[0]["result"]["TTL"]),
        (&json!("77"), &json!("60"))
    );
    assert_eq!(
        token[0]["message"],
        "etcdserver: authentication is not enabled"
    );
    assert_eq!(
        (&token[0]["code"], &token[0]["error"]),
        (&json!(9), &token[0]["message"])
    );
}

/// curl over HTTP/2 without TLS, where it was built with it.
#[test]
fn curl_speaks_http2_to_the_gateway() {
    let Ok(version) = Command::new("curl").arg("--version").output() else {
        return skip("curl", "it is not there");
    };
    if !String::from_utf8_lossy(&version.stdout).contains("HTTP2") {
        return skip("curl-http2", "this curl has no HTTP/2");
    }
    let server = Server::start(Options::default());
    if !server.kind().is_kvnode() {
        return;
    }
    let line = "curl -s --http2-prior-knowledge -w '\\n%{http_version} %{http_code}' $ETCD/v3/kv/put -d '{\"key\":\"Zm9v\"}'";
    let said = shell(&server, line).ok();
    assert!(said.ends_with("2 200"), "{said}");
}
