//! A wrong state is replaced whole or not at all, and is kept.

use kvnode_store::datadir::replace::{self, State};
use kvnode_store::engine::{Batch, Persister as _, Space};
use kvnode_store::schema;

use super::*;

/// The state that the log's entries up to `last` make, as another member has it.
fn healthy(root: &Path, log: &[Entry], last: u64) -> Store {
    let engine = FjallEngine::create(&root.join(format!("healthy-{last}")), &options()).unwrap();
    let mut store = Store::open(engine, kvnode_store::Config::default()).unwrap();
    for entry in log.iter().filter(|entry| entry.index <= last) {
        let entry = crate::cores::apply::committed(entry.clone());
        store.apply(&[entry]).unwrap();
    }
    store
}

/// Another value under a key than was ever written.
fn tamper(config: &Config) {
    let mut engine = FjallEngine::open(&config.data_dir.join("kv"), &options()).unwrap();
    let key = schema::head_key(b"own-9");
    let head = engine.latest_get(Space::State, &key).unwrap();
    let mut head = head.expect("it is there").to_vec();
    *head.last_mut().unwrap() ^= 1;
    let mut batch = Batch::new();
    batch.put(Space::State, key, head);
    engine.commit(batch).unwrap();
    engine.persister().persist().unwrap();
    engine.close().unwrap();
}

/// A member with a wrong state and a right log, and the right state of index 6 staged beside.
struct Case {
    dir: tempfile::TempDir,
    config: Config,
    wrong: Totals,
    right: Totals,
    entries: Vec<Entry>,
}

const STAGED: u64 = 6;

fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let right = member(&config);
    tamper(&config);
    let opened = open::open(&config, OPEN_FILES).unwrap();
    let mut log = opened.log;
    let entries = log.read(1, OWN_LAST + 1, 1 << 20).unwrap();
    let wrong = totals(&opened.store.view());
    assert_ne!(wrong, right);
    opened.store.into_engine().close().unwrap();
    assert_eq!(
        totals(&healthy(dir.path(), &entries, OWN_LAST).view()),
        right
    );
    Case {
        dir,
        config,
        wrong,
        right,
        entries,
    }
}

impl Case {
    fn job(&self, entries: impl IntoIterator<Item = u64>) -> ReplaceJob {
        let found = |index| {
            let entry = self.entries.iter().find(|entry| entry.index == index);
            entry.expect("it is in the log").clone()
        };
        ReplaceJob {
            index: STAGED,
            term: 1,
            entries: entries.into_iter().map(found).collect(),
            now_ms: 1_767_225_600_000,
            note: "a note".into(),
        }
    }

    /// Stages the right state beside the one that is open.
    fn stage(&self, engines: &Engines) {
        let store = healthy(self.dir.path(), &self.entries, STAGED);
        let view = store.view();
        let id = id_of(&view, 1);
        let own = self.config.member_id;
        let staging = Staging::new(engines.clone(), options(), CLUSTER, own);
        let announced = Message {
            to: own,
            ..announcement(id)
        };
        let mut source = StateSource::new(&announced, view.clone(), info_of(&view));
        take(&staging, id, &read_all(&mut source, 0, CHUNK_BYTES)).unwrap();
    }

    fn kept(&self) -> Vec<replace::Kept> {
        replace::list(&self.config.data_dir).unwrap()
    }
}

fn installer(engines: &Engines, store: &Store) -> Installer {
    Installer {
        engines: engines.clone(),
        options: options(),
        config: kvnode_store::Config::default(),
        persisters: PersisterSlot::new(store.engine().persister()),
    }
}

/// How far a replacement got before the process was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Killed {
    Staged,
    BroughtUp,
    Noted,
    TookOver,
    PutAside,
}

#[test]
fn a_kill_at_any_point_of_a_replacement_leaves_the_old_state_or_the_new_one_and_keeps_the_old() {
    for killed in [
        Killed::Staged,
        Killed::BroughtUp,
        Killed::Noted,
        Killed::TookOver,
        Killed::PutAside,
    ] {
        let case = case();
        let opened = open::open(&case.config, OPEN_FILES).unwrap();
        let open::Opened {
            data,
            mut store,
            log,
            ..
        } = opened;
        let engines = data.engines();
        case.stage(&engines);
        let job = case.job(STAGED + 1..=OWN_LAST);
        let installer = installer(&engines, &store);
        let reading = store.view();
        match killed {
            Killed::Staged => {}
            Killed::BroughtUp => installer.bring_up(&store, &job).unwrap(),
            Killed::Noted => {
                installer.bring_up(&store, &job).unwrap();
                engines.keep_live("resync", job.now_ms, &job.note).unwrap();
            }
            Killed::TookOver | Killed::PutAside => {
                let kept = installer.replace(&mut store, job).unwrap();
                assert_eq!(totals(&store.view()), case.right);
                assert_eq!(store.applied(), (OWN_LAST, 1));
                assert_eq!(totals(&reading), case.wrong, "readers keep the old state");
                assert!(!kept.exists(), "while it is read it stays where it is");
            }
        }
        if killed == Killed::PutAside {
            drop(reading);
            let kept = &case.kept()[0].path.join("kv");
            let begun = std::time::Instant::now();
            while !kept.exists() {
                assert!(begun.elapsed().as_secs() < 60, "it is put aside");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        } else if killed == Killed::TookOver {
            // A kill closes nothing: the one that was replaced stays in use until the "process" is gone.
            std::mem::forget(reading);
        } else {
            drop(reading);
        }
        drop((store, log, data));
        for start in 0..2 {
            let opened = open::open(&case.config, OPEN_FILES).unwrap();
            let took_over = killed >= Killed::TookOver;
            let wanted = if took_over { case.right } else { case.wrong };
            assert_eq!(totals(&opened.store.view()), wanted, "{killed:?} {start}");
            assert_eq!(opened.store.applied(), (OWN_LAST, 1), "{killed:?} {start}");
            let names = std::fs::read_dir(opened.data.root()).unwrap();
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let names: Vec<_> = names.filter(|name| name.starts_with("kv")).collect();
            assert_eq!(names, ["kv"], "{killed:?} {start}");
            let kept = case.kept();
            assert_eq!(kept.len(), usize::from(took_over), "{killed:?} {start}");
            if let Some(kept) = kept.first() {
                assert_eq!((kept.state, kept.note.as_str()), (State::Aside, "a note"));
                assert!(kept.path.join("kv/version").is_file());
            }
            // The reader of the one above still has it open.
            if killed == Killed::PutAside {
                let kept = &kept[0];
                let engine = FjallEngine::open(&kept.path.join("kv"), &options()).unwrap();
                let store = Store::open(engine, kvnode_store::Config::default()).unwrap();
                assert_eq!(totals(&store.view()), case.wrong, "for examination");
                store.into_engine().close().unwrap();
            }
        }
    }
}

#[test]
fn what_cannot_be_brought_to_the_members_own_index_replaces_nothing() {
    let case = case();
    let opened = open::open(&case.config, OPEN_FILES).unwrap();
    let (data, mut store) = (opened.data, opened.store);
    let engines = data.engines();
    let installer = installer(&engines, &store);
    let mut refused = |job: ReplaceJob, why: &str| {
        let error = installer.replace(&mut store, job).expect_err(why);
        assert!(matches!(error, ReplaceError::Unchanged(_)), "{error:?}");
        assert_eq!(totals(&store.view()), case.wrong, "{why}");
        assert!(case.kept().is_empty(), "{why}");
    };
    refused(case.job(STAGED + 1..=OWN_LAST), "nothing is staged");
    case.stage(&engines);
    refused(case.job(STAGED + 1..OWN_LAST), "the last one is missing");
    refused(case.job(STAGED + 2..=OWN_LAST), "a hole");
    let other = ReplaceJob {
        index: STAGED + 1,
        ..case.job(STAGED + 2..=OWN_LAST)
    };
    refused(other, "another one is staged");
    installer
        .replace(&mut store, case.job(STAGED + 1..=OWN_LAST))
        .expect("and yet it can be done");
    assert_eq!(totals(&store.view()), case.right);
}

// ---- who may do what when -----------------------------------------------------------------------

#[test]
fn a_state_that_was_asked_for_is_taken_at_an_index_this_member_has_and_raft_hears_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let view = sender(dir.path(), 30).view();
    let (mut own, from, serial) = (snapshots(dir.path()), SENDER, 77);
    let id = id_of(&view, serial);
    assert!(own.accept(from, id, 30).is_err(), "nobody asked");
    own.expect(from, serial, 25).unwrap();
    assert_eq!(own.keep_after(), Some(25), "the log behind it is needed");
    assert!(
        own.accept(from, id_of(&view, 1), 30).is_err(),
        "not this one"
    );
    assert!(own.accept(9, id, 30).is_err(), "not from there");
    let sink = own.accept(from, id, 40).unwrap();
    assert!(own.expect(from, 78, 40).is_err(), "one is on its way");
    let bytes = read_all(
        &mut StateSource::new(&announcement(id), view.clone(), info_of(&view)),
        0,
        CHUNK_BYTES,
    );
    feed(sink, &bytes).unwrap();
    assert_eq!(own.ready(), None);
    let todo = own.event(SnapshotEvent::Received { from, id }, 40);
    assert_eq!((todo, own.ready()), (Todo::Replace, Some(id)));
    own.stepped();
    assert_eq!(own.ready(), Some(id), "raft was not told");
    let newer = SnapshotId { index: 50, ..id };
    assert!(own.accept(from, newer, 40).is_err(), "it is taking over");
    own.replacing();
    assert_eq!(own.ready(), None, "once");
    own.expect_nothing();
    assert!(own.accept(from, newer, 40).is_err(), "it cannot be stopped");
    own.replaced(true);
    assert_eq!(own.keep_after(), None);
    assert!(own.accept(from, newer, 40).is_ok());
}

#[test]
fn what_is_older_than_was_asked_for_or_not_wanted_any_more_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let view = sender(dir.path(), 30).view();
    let (mut own, from) = (snapshots(dir.path()), SENDER);
    own.expect(from, 1, 31).unwrap();
    assert!(own.accept(from, id_of(&view, 1), 40).is_err(), "too old");
    own.expect(from, 2, 30).unwrap();
    let sink = own.accept(from, id_of(&view, 2), 40).unwrap();
    own.expect_nothing();
    assert!(feed(sink, b"whatever").is_err(), "it was called off");
    assert_eq!(own.keep_after(), None);
    assert!(own.accept(from, id_of(&view, 2), 40).is_err());
}

#[test]
fn a_state_is_sent_to_a_member_that_asks_and_raft_hears_nothing_of_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let view = sender(dir.path(), 30).view();
    let mut own = snapshots(dir.path());
    let stranger = own.send_asked(9, 1, &view, &membership());
    assert!(stranger.is_err(), "not a member");
    let sent = own.send_asked(SENDER, 7, &view, &membership());
    let mut outgoing = sent.map_err(drop).expect("sent");
    let id = id_of(&view, 7);
    assert_eq!((outgoing.to, outgoing.id), (SENDER, id));
    assert_eq!(own.keep_after(), Some(30));
    let again = own.send_asked(SENDER, 8, &view, &membership());
    assert!(again.is_err(), "one is on its way");
    let bytes = read_all(&mut *outgoing.source, 0, CHUNK_BYTES);
    let home = tempfile::tempdir().unwrap();
    let staging = Staging::new(Engines::new(home.path()), options(), CLUSTER, SENDER);
    let (mut sink, staged) = staging.start(RECEIVER, id).unwrap();
    for piece in bytes.chunks(CHUNK_BYTES) {
        sink.write(piece).unwrap();
    }
    Box::new(sink).finish().unwrap();
    assert!(staged.announcement().is_some());
    assert_eq!(totals(&staged_view(home.path())), totals(&view));
    let failed = SnapshotEvent::SendFailed {
        to: SENDER,
        id,
        why: "it broke".into(),
    };
    assert_eq!(own.event(failed, 30), Todo::Nothing);
    assert_eq!(own.keep_after(), None);
    assert!(own.send_asked(SENDER, 9, &view, &membership()).is_ok());
}
