//! Repair and undo as commands: the plan, the act, the way back. Every offset of a log is tried in the log's own
//! tests; here a sample goes through the whole tool.

mod support;

use std::fs;

use support::{Home, Shape, code, home, image, json, stderr, stdout};

const WITHOUT: [&str; 3] = ["LOCK", "quarantine", "SPENT"];

/// The store has nothing: every entry of the log is needed.
fn needed() -> Shape {
    Shape {
        applied: 0,
        ..Shape::default()
    }
}

fn indexes(home: &Home) -> Vec<u64> {
    let dumped = home.json(&["wal", "dump"]);
    let rows = dumped["rows"].as_array().expect("rows");
    rows.iter()
        .map(|row| row["index"].as_u64().expect("an index"))
        .collect()
}

#[test]
fn a_sample_of_places_is_planned_repaired_and_undone_byte_for_byte() {
    // Header copies, padding, the checkpoint, entries, the mark at the end, and what was never written.
    let places = [
        10,
        4096 + 30,
        300,
        2 * 4096 + 20,
        3 * 4096 + 70,
        50 * 4096 + 100,
        103 * 4096 + 9,
        110 * 4096,
        110 * 4096 + 700,
    ];
    let (mut repairable, mut costly, mut harmless) = (0, 0, 0);
    for applied in [0, 60, 100] {
        for at in places {
            let home = home(&Shape {
                applied,
                ..Shape::default()
            });
            home.flip(0, at);
            let damaged = image(&home.data, &WITHOUT);
            let plan = home.run(&["wal", "repair"]);
            assert!(
                image(&home.data, &WITHOUT) == damaged,
                "a plan changed something"
            );
            let verified = home.run(&["wal", "verify"]);
            assert_eq!(
                code(&plan),
                code(&verified),
                "{at}: {} {}",
                stdout(&plan),
                stdout(&verified)
            );
            match code(&plan) {
                0 => {
                    harmless += 1;
                    continue;
                }
                4 => {
                    repairable += 1;
                    let done = home.run(&["wal", "repair", "--apply", "-w", "json"]);
                    assert_eq!(code(&done), 0, "{at}: {}", stderr(&done));
                    assert_eq!(json(&done)["last_index"].as_u64(), Some(100), "{at}");
                }
                3 => {
                    costly += 1;
                    let refused = home.run(&["wal", "repair", "--apply"]);
                    assert_eq!(code(&refused), 7, "{at}: {}", stderr(&refused));
                    assert!(
                        image(&home.data, &WITHOUT) == damaged,
                        "a refusal changed something"
                    );
                    let plan = json(&home.run(&["wal", "repair", "-w", "json"]));
                    let Some(token) = plan["token"].as_str().map(str::to_owned) else {
                        // The one place that says who votes.
                        assert_eq!(at, 2 * 4096 + 20);
                        continue;
                    };
                    assert!(stderr(&refused).contains(&token), "{}", stderr(&refused));
                    let planned = home.run(&["wal", "repair", "--force", &token]);
                    assert_eq!(code(&planned), 3, "{at}: {}", stderr(&planned));
                    assert!(
                        image(&home.data, &WITHOUT) == damaged,
                        "a plan with a token changed something"
                    );
                    let words = ["wal", "repair", "--force", &token, "--apply"];
                    let forced = home.run(&words);
                    assert_eq!(code(&forced), 0, "{at}: {}", stderr(&forced));
                }
                other => panic!("{at}: exit code {other}"),
            }
            let clean = home.run(&["wal", "verify"]);
            assert_eq!(code(&clean), 0, "{at}: {}", stdout(&clean));
            assert_eq!(
                code(&home.run(&["data", "check", "--level", "structure"])),
                0
            );
            let undone = home.run(&["data", "undo"]);
            assert_eq!(code(&undone), 0, "{at}: {}", stderr(&undone));
            assert!(
                image(&home.data, &WITHOUT) == damaged,
                "{at}: undo left something else"
            );
        }
    }
    assert!(
        repairable > 4 && costly > 4 && harmless > 2,
        "{repairable} {costly} {harmless}"
    );
}

#[test]
fn a_hole_is_filled_from_a_copy_and_loses_nothing() {
    let home = home(&needed());
    let copy = home.root.path().join("copy");
    let copied = home.run(&["data", "clone", copy.to_str().expect("plain")]);
    assert_eq!(code(&copied), 0, "{}", stderr(&copied));
    home.flip(0, 40 * 4096 + 100);
    let words = [
        "wal",
        "repair",
        "--from-data-dir",
        copy.to_str().expect("plain"),
    ];
    // Without --apply the copy is looked at, and nothing is changed.
    let damaged = image(&home.data, &WITHOUT);
    let planned = home.run(&words);
    assert_eq!(code(&planned), 4, "{}", stderr(&planned));
    let said = stdout(&planned);
    assert!(
        said.contains("would be: filled entries") && said.contains("nothing was changed"),
        "{said}"
    );
    let next = stderr(&planned).lines().last().expect("a line").to_owned();
    assert!(
        next.starts_with("next:") && next.ends_with("--apply") && next.contains(words[3]),
        "{next}"
    );
    let nowhere = home.run(&["wal", "repair", "--from-data-dir", "/nowhere"]);
    assert_eq!(code(&nowhere), 1, "{}", stderr(&nowhere));
    assert!(
        image(&home.data, &WITHOUT) == damaged,
        "a plan changed something"
    );
    let filled = home.run(&[&words[..], &["--apply"]].concat());
    assert_eq!(code(&filled), 0, "{}", stderr(&filled));
    let all: Vec<u64> = (1..=100).collect();
    assert_eq!(indexes(&home), all);
    assert_eq!(code(&home.run(&["wal", "verify"])), 0);
}

#[test]
fn a_member_of_a_larger_cluster_that_gave_entries_up_is_refused_until_that_is_undone() {
    let home = home(&Shape {
        voters: vec![0xa1, 0xa2, 0xa3],
        ..needed()
    });
    home.flip(0, 40 * 4096 + 100);
    let plan = json(&home.run(&["wal", "repair", "-w", "json"]));
    let token = plan["token"].as_str().expect("a token").to_owned();
    let words = ["wal", "repair", "--force", &token, "-w", "json"];
    // The plan says what it would cost, and marks nothing.
    let planned = json(&home.run(&words));
    assert_eq!(
        (&planned["identity_spent"], &planned["applied"]),
        (&true.into(), &false.into())
    );
    assert!(!home.data.join("SPENT").exists());
    let forced = home.run(&[&words[..], &["--apply"]].concat());
    assert_eq!(json(&forced)["identity_spent"], true);
    let open = kvnode_store::datadir::DataDir::open(&home.data, None, &support::program());
    assert!(matches!(
        open,
        Err(kvnode_store::datadir::Error::Spent { .. })
    ));
    let refused = home.run(&["defrag"]);
    assert_eq!(code(&refused), 7, "{}", stderr(&refused));
    assert_eq!(code(&home.run(&["data", "undo"])), 0);
    assert!(!home.data.join("SPENT").exists());
    assert!(kvnode_store::datadir::DataDir::open(&home.data, None, &support::program()).is_ok());
}

#[test]
fn undo_is_refused_once_the_log_has_gone_on_unless_that_is_named() {
    let home = home(&needed());
    home.flip(0, 40 * 4096 + 100);
    let plan = json(&home.run(&["wal", "repair", "-w", "json"]));
    let token = plan["token"].as_str().expect("a token").to_owned();
    let words = ["wal", "repair", "--force", &token, "--apply"];
    assert_eq!(code(&home.run(&words)), 0);
    // A node starts: it opens a new segment.
    fs::write(
        home.data.join("wal/0000000000000009-0000000000000028.wal"),
        "x",
    )
    .expect("written");
    let refused = home.run(&["data", "undo"]);
    assert_eq!(code(&refused), 7);
    let next = stderr(&refused).lines().last().expect("a line").to_owned();
    let token = next.split("--force=").nth(1).expect("a token").to_owned();
    assert_eq!(code(&home.run(&["data", "undo", "--force", &token])), 0);
}
