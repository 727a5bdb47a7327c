//! Exit codes that need a world of their own: a file system without room, and a node that answers as it is told.

mod support;

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Shape, code, home, kvutil, stderr, stdout};

/// A file system of its own, with room for little; unmounted on drop.
struct Tight(PathBuf);

impl Tight {
    fn mount(path: PathBuf) -> Result<Tight, String> {
        fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "kvnode-test"])
            .arg(&path)
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        match output.status.success() {
            true => Ok(Tight(path)),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Tight {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

#[test]
fn missing_space_is_told_before_anything_is_written() {
    let home = home(&Shape::default());
    let tight = match Tight::mount(home.root.path().join("tight")) {
        Ok(tight) => tight,
        Err(why) => {
            println!("skipped: mount: {why}");
            return;
        }
    };
    let inside = |name: &str| {
        let path = tight.0.join(name);
        path.to_str().expect("a plain path").to_owned()
    };
    let file = home.root.path().join("saved.kvs");
    let file = file.to_str().expect("a plain path");
    assert_eq!(code(&home.run(&["snapshot", "save", file])), 0);
    let (copy, to, out) = (inside("copy"), inside("to"), inside("out.kvs"));
    let restore = [
        "snapshot",
        "restore",
        file,
        "--single",
        "n",
        "--data-dir",
        &to,
    ];
    for output in [
        home.run(&["data", "clone", &copy]),
        home.run(&["snapshot", "save", &out]),
        kvutil(&restore),
        kvutil(&["disk", "probe", "--dir", &inside("")]),
    ] {
        assert_eq!(code(&output), 6, "{}", stderr(&output));
        let said = stderr(&output);
        assert!(
            said.contains("not enough space") && said.contains("next:  df -h "),
            "{said}"
        );
        let left = fs::read_dir(&tight.0).expect("readable").count();
        assert_eq!(left, 0, "{said}");
    }
}

/// A node that gives these answers, one connection each, and tells what it was asked.
fn answering(data: &Path, answers: Vec<(u16, String)>) -> std::thread::JoinHandle<Vec<String>> {
    let path = data.join("admin.sock");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(path).expect("bound");
    std::thread::spawn(move || {
        let mut asked = Vec::new();
        let mut answers = VecDeque::from(answers);
        while let Some((status, body)) = answers.pop_front() {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
            let (mut first, mut line) = (String::new(), String::new());
            reader.read_line(&mut first).expect("read");
            while reader.read_line(&mut line).expect("read") > 2 {
                line.clear();
            }
            let words: Vec<&str> = first.split(' ').take(2).collect();
            asked.push(words.join(" "));
            let length = body.len();
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(head.as_bytes()).expect("sent");
        }
        asked
    })
}

/// What a node says of a re-sync; `last` as JSON.
fn told(refused: &str, last: &str) -> String {
    format!(
        r#"{{"member": {{"id": "a1", "role": "follower", "fenced": true}}, "leader": "b2", "keeps_in": "/data/quarantine",
            "refused": {refused}, "last": {last}}}"#
    )
}

fn done(verdict: &str) -> String {
    let last = format!(
        r#"{{"phase": "done", "from": "b2", "index": 7, "kept": "/data/quarantine/x-resync/kv", "comparison": {{"verdict": "{verdict}",
            "revision": 5, "agreeing": 2, "members": 3, "unverified": ["c3"]}}}}"#
    );
    told("null", &last)
}

const NEVER: &str = r#"{"phase": "never"}"#;

#[test]
fn a_re_sync_ends_with_the_code_of_what_the_comparison_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("plain");
    let words = ["data", "resync", "--live", "--data-dir", data];
    let apply = [&words[..], &["--apply"]].concat();
    let coming = told("null", r#"{"phase": "receiving", "from": "b2"}"#);
    let failed = r#"{"phase": "failed", "from": "b2", "why": "the line broke"}"#;
    for (end, wanted, said, next) in [
        (
            done("same"),
            0,
            "the same at revision 5: 2 of 3",
            "kvctl alarm disarm",
        ),
        (
            done("differs"),
            3,
            "different at revision 5",
            "kvctl endpoint hashkv",
        ),
        (
            done("unverified"),
            1,
            "members c3 could not be compared",
            "kvctl endpoint hashkv",
        ),
        (told("null", failed), 1, "the line broke", "--apply"),
    ] {
        let node = answering(
            dir.path(),
            vec![
                (200, told("null", NEVER)),
                (202, coming.clone()),
                (200, coming.clone()),
                (200, end),
            ],
        );
        let output = kvutil(&apply);
        let asked = node.join().expect("it answered");
        let all = format!("{}{}", stdout(&output), stderr(&output));
        assert_eq!(code(&output), wanted, "{all}");
        assert!(all.contains(said), "{said}: {all}");
        assert!(stderr(&output).contains("note:  receiving"), "{all}");
        let last = stderr(&output).lines().last().expect("a line").to_owned();
        assert!(last.starts_with("next:  ") && last.contains(next), "{all}");
        assert_eq!(
            asked,
            [
                "GET /admin/resync",
                "POST /admin/resync",
                "GET /admin/resync",
                "GET /admin/resync"
            ]
        );
    }
}

#[test]
fn a_re_sync_that_the_node_refuses_or_does_not_know_is_not_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("plain");
    let words = ["data", "resync", "--live", "--data-dir", data];
    let refusal = r#"{"error": "this member leads", "next": "kvctl move-leader ID"}"#;
    let refused = || (200, told(refusal, NEVER));
    for (more, answers, wanted, said, path) in [
        (
            &[][..],
            vec![(200, told("null", NEVER))],
            0,
            "nothing was changed",
            "GET /admin/resync",
        ),
        (
            &["--apply"],
            vec![refused()],
            7,
            "next:  kvctl move-leader ID",
            "GET /admin/resync",
        ),
        (
            &["--apply", "--unfenced"],
            vec![refused()],
            7,
            "this member leads",
            "GET /admin/resync?unfenced",
        ),
        (
            &[],
            vec![(404, r#"{"error": "no such path"}"#.into())],
            8,
            "of an older version",
            "GET /admin/resync",
        ),
        (
            &[],
            vec![(200, "no JSON".into())],
            1,
            "did not answer as expected",
            "GET /admin/resync",
        ),
    ] {
        let node = answering(dir.path(), answers);
        let output = kvutil(&[&words[..], more].concat());
        assert_eq!(node.join().expect("it answered"), [path]);
        let all = format!("{}{}", stdout(&output), stderr(&output));
        assert_eq!(code(&output), wanted, "{all}");
        assert!(all.contains(said), "{said}: {all}");
    }
    // Refused between the plan and the word.
    let conflict = (409, refusal.to_owned());
    let node = answering(dir.path(), vec![(200, told("null", NEVER)), conflict]);
    let output = kvutil(&[&words[..], &["--apply"]].concat());
    node.join().expect("it answered");
    assert_eq!(code(&output), 7, "{}", stderr(&output));
}
