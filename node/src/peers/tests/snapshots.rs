//! Snapshots between two members.

use std::io;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::peers::{CHUNK_BYTES, SnapshotEvent, SnapshotId, SnapshotSink, SnapshotSource};

const ID: SnapshotId = SnapshotId {
    index: 100,
    term: 3,
    serial: 12345,
};

fn content(bytes: usize) -> Arc<Vec<u8>> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    Arc::new(std::iter::repeat_with(next).take(bytes).collect())
}

struct Source {
    content: Arc<Vec<u8>>,
    known: bool,
    /// Reading beyond this fails.
    fails_at: u64,
    /// Bytes read in all.
    read: Arc<AtomicUsize>,
}

impl Source {
    fn of(content: &Arc<Vec<u8>>) -> Box<Source> {
        Box::new(Source {
            content: Arc::clone(content),
            known: true,
            fails_at: u64::MAX,
            read: Arc::default(),
        })
    }
}

impl SnapshotSource for Source {
    fn bytes(&self) -> Option<u64> {
        self.known.then_some(self.content.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if offset >= self.fails_at {
            return Err(io::Error::other("the disk of the sender"));
        }
        let rest = self.content.get(offset as usize..).unwrap_or(&[]);
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        self.read.fetch_add(length, Ordering::SeqCst);
        Ok(length)
    }
}

/// Shared with the test, as a partly written directory would be with a later life.
#[derive(Clone, Default)]
struct Sink {
    held: Arc<Mutex<Vec<u8>>>,
    finished: Arc<AtomicBool>,
    resumes: Arc<Mutex<Vec<u64>>>,
    fails_at: Option<usize>,
    /// Forgets this many bytes whenever it is asked where it is: what was not synced.
    forgets: usize,
}

impl SnapshotSink for Sink {
    fn resume_at(&mut self) -> io::Result<u64> {
        let mut held = self.held.lock().unwrap();
        let kept = held.len().saturating_sub(self.forgets);
        held.truncate(kept);
        self.resumes.lock().unwrap().push(kept as u64);
        Ok(kept as u64)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert!(!bytes.is_empty() && bytes.len() <= CHUNK_BYTES);
        let mut held = self.held.lock().unwrap();
        if self.fails_at.is_some_and(|at| held.len() >= at) {
            return Err(io::Error::other("the disk of the receiver"));
        }
        held.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.finished.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// Sends from member 1 to member 2, which is reached through `proxy`.
struct Stage {
    one: Member,
    two: Member,
    proxy: Proxy,
}

/// `budgets`: how many bytes the snapshot's connections may carry, the last one first.
fn stage(limits: Limits, budgets: Vec<u64>) -> Stage {
    let (two, two_at) = bind();
    let proxy = Proxy::to(two_at, Vec::new());
    let one = Member::start(1, 11, vec![], limits.clone());
    let two = Member::start(2, 22, vec![two], limits);
    one.know(&[at(2, &[proxy.address])]);
    one.wait_connected(2);
    *proxy.state.budgets.lock().unwrap() = budgets;
    Stage { one, two, proxy }
}

impl Stage {
    fn send(&self, id: SnapshotId, source: Box<Source>) {
        self.one
            .run(move |peers| peers.send_snapshot(2, id, source));
    }

    fn accept(&self, sink: &Sink) -> SnapshotId {
        let incoming = self.two.wait("offer", |event| match event {
            PeerEvent::Snapshot(SnapshotEvent::Offered(incoming)) => Some(incoming),
            _ => None,
        });
        assert_eq!(incoming.from, 1);
        let id = incoming.id;
        incoming.accept(Box::new(sink.clone()));
        id
    }

    fn wait_sent(&self) -> Result<SnapshotId, String> {
        self.one.wait("end of sending", |event| match event {
            PeerEvent::Snapshot(SnapshotEvent::Sent { to: 2, id }) => Some(Ok(id)),
            PeerEvent::Snapshot(SnapshotEvent::SendFailed { to: 2, why, .. }) => Some(Err(why)),
            _ => None,
        })
    }

    fn wait_received(&self) -> Result<SnapshotId, String> {
        self.two.wait("end of receiving", |event| match event {
            PeerEvent::Snapshot(SnapshotEvent::Received { from: 1, id }) => Some(Ok(id)),
            PeerEvent::Snapshot(SnapshotEvent::ReceiveFailed { from: 1, why, .. }) => {
                Some(Err(why))
            }
            _ => None,
        })
    }
}

#[test]
fn a_snapshot_arrives_whole_whether_its_length_is_known_or_not() {
    let stage = stage(quick(), Vec::new());
    for (serial, length, known) in [(1, 3_000_001, true), (2, 700_000, false), (3, 0, true)] {
        let (content, sink) = (content(length), Sink::default());
        let id = SnapshotId { serial, ..ID };
        let mut source = Source::of(&content);
        source.known = known;
        stage.send(id, source);
        assert_eq!(stage.accept(&sink), id);
        assert_eq!(stage.wait_sent(), Ok(id));
        assert_eq!(stage.wait_received(), Ok(id));
        assert!(*sink.held.lock().unwrap() == *content);
        assert!(sink.finished.load(Ordering::SeqCst));
    }
}

#[test]
fn a_snapshot_goes_on_where_it_was_however_often_it_is_cut() {
    // Cuts inside the greeting, the offer, headers and chunks,
    cut_and_resume(vec![
        2_000_000, 1, 400_000, 47, 48, 50, 262_300, 64, 90, 300_000, 1_000_003, 112, 700_001,
    ]);
    // and anywhere.
    let mut state = 99u64;
    for _ in 0..3 {
        let anywhere = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % 1_500_000 + 1
        });
        cut_and_resume(anywhere.take(12).collect());
    }
}

fn cut_and_resume(budgets: Vec<u64>) {
    let cuts = budgets.len() as u64;
    let stage = stage(quick(), budgets);
    let (content, mut sink) = (content(24_000_000), Sink::default());
    sink.forgets = 1000;
    stage.send(ID, Source::of(&content));
    stage.accept(&sink);
    assert_eq!(stage.wait_sent(), Ok(ID));
    assert_eq!(stage.wait_received(), Ok(ID));
    assert!(*sink.held.lock().unwrap() == *content);
    assert!(stage.proxy.connections() > cuts);
    let resumes = sink.resumes.lock().unwrap();
    assert!(resumes.last().unwrap() > &1_000_000, "{resumes:?}");
    let none_lost = |pair: &[u64]| pair[1] + sink.forgets as u64 >= pair[0];
    assert!(resumes.windows(2).all(none_lost), "{resumes:?}");
}

#[test]
fn a_later_life_of_the_receiver_goes_on_with_what_the_earlier_left() {
    let stage = stage(quick(), Vec::new());
    let (content, sink) = (content(2_000_000), Sink::default());
    sink.held
        .lock()
        .unwrap()
        .extend_from_slice(&content[..1_234_567]);
    let source = Source::of(&content);
    let read = Arc::clone(&source.read);
    stage.send(ID, source);
    stage.accept(&sink);
    assert_eq!(stage.wait_sent(), Ok(ID));
    assert!(*sink.held.lock().unwrap() == *content);
    assert_eq!(read.load(Ordering::SeqCst), 2_000_000 - 1_234_567);
}

#[test]
fn either_side_learns_why_the_other_cannot_go_on() {
    let stage = stage(quick(), Vec::new());
    let content = content(8_000_000);
    let id = |serial| SnapshotId { serial, ..ID };

    stage.send(id(1), Source::of(&content));
    stage.two.wait("offer", |event| match event {
        PeerEvent::Snapshot(SnapshotEvent::Offered(incoming)) => {
            incoming.refuse("no room for it");
            Some(())
        }
        _ => None,
    });
    let why = stage.wait_sent().unwrap_err();
    assert!(why.contains("no room for it"), "{why}");

    let mut source = Source::of(&content);
    source.fails_at = 1_000_000;
    stage.send(id(2), source);
    stage.accept(&Sink::default());
    let why = stage.wait_sent().unwrap_err();
    assert!(why.contains("the disk of the sender"), "{why}");
    let why = stage.wait_received().unwrap_err();
    assert!(why.contains("the disk of the sender"), "{why}");

    stage.send(id(3), Source::of(&content));
    stage.accept(&Sink {
        fails_at: Some(1_000_000),
        ..Sink::default()
    });
    let why = stage.wait_sent().unwrap_err();
    assert!(why.contains("the disk of the receiver"), "{why}");
    let why = stage.wait_received().unwrap_err();
    assert!(why.contains("the disk of the receiver"), "{why}");

    // An offer nobody looks at is refused as well.
    stage.send(id(4), Source::of(&content));
    stage.two.wait("offer", |event| {
        matches!(event, PeerEvent::Snapshot(SnapshotEvent::Offered(_))).then_some(())
    });
    stage.wait_sent().unwrap_err();

    stage.one.run(|peers| {
        let content = Arc::new(Vec::new());
        peers.send_snapshot(9, ID, Source::of(&content));
    });
    stage.one.wait("failure", |event| {
        let failed = SnapshotEvent::SendFailed {
            to: 9,
            id: ID,
            why: String::new(),
        };
        match (event, failed) {
            (PeerEvent::Snapshot(event), failed) => {
                (std::mem::discriminant(&event) == std::mem::discriminant(&failed)).then_some(())
            }
            _ => None,
        }
    });
}

#[test]
fn a_snapshot_that_is_not_gone_on_with_fails_on_both_sides() {
    let limits = Limits {
        snapshot_patience: Duration::from_millis(200),
        ..quick()
    };
    let stage = stage(limits, vec![1; 100_000]);
    stage.proxy.state.budgets.lock().unwrap().push(1_000_000);
    stage.send(ID, Source::of(&content(8_000_000)));
    stage.accept(&Sink::default());
    let why = stage.wait_sent().unwrap_err();
    assert!(why.contains("no progress"), "{why}");
    let why = stage.wait_received().unwrap_err();
    assert!(why.contains("interrupted"), "{why}");
}

#[test]
fn another_snapshot_takes_the_place_of_the_one_under_way() {
    let slow = Limits {
        snapshot_bytes_per_second: 1_000_000,
        ..quick()
    };
    let stage = stage(slow, Vec::new());
    let (large, small) = (content(1_000_000_000 / 10), content(10_000));
    let (first, second) = (Sink::default(), Sink::default());
    stage.send(ID, Source::of(&large));
    stage.accept(&first);
    until("first bytes", || !first.held.lock().unwrap().is_empty());
    // The same one again changes nothing.
    stage.send(ID, Source::of(&large));
    let next = SnapshotId { serial: 2, ..ID };
    stage.send(next, Source::of(&small));
    let why = stage.wait_sent().unwrap_err();
    assert!(why.contains("given up"), "{why}");
    let offered = stage.two.wait("offer", |event| match event {
        PeerEvent::Snapshot(SnapshotEvent::Offered(incoming)) => Some(incoming),
        _ => None,
    });
    assert_eq!(offered.id, next);
    offered.accept(Box::new(second.clone()));
    assert_eq!(stage.wait_sent(), Ok(next));
    assert!(*second.held.lock().unwrap() == *small);
}

#[test]
fn messages_pass_while_the_sink_of_a_snapshot_is_stuck() {
    struct Stuck(mpsc::Receiver<()>);
    impl SnapshotSink for Stuck {
        fn resume_at(&mut self) -> io::Result<u64> {
            Ok(0)
        }
        fn write(&mut self, _bytes: &[u8]) -> io::Result<()> {
            let _ = self.0.recv();
            Ok(())
        }
        fn finish(self: Box<Self>) -> io::Result<()> {
            Ok(())
        }
    }
    let stage = stage(quick(), Vec::new());
    let (go_on, stuck) = mpsc::channel();
    stage.send(ID, Source::of(&content(20_000_000)));
    stage
        .two
        .wait("offer", |event| match event {
            PeerEvent::Snapshot(SnapshotEvent::Offered(incoming)) => Some(incoming),
            _ => None,
        })
        .accept(Box::new(Stuck(stuck)));
    for index in 1..=100 {
        stage.one.send(vec![append(1, 2, index, 1000)]);
        assert_eq!(stage.two.wait_message().index, index);
    }
    drop(go_on);
    assert_eq!(stage.wait_sent(), Ok(ID));
}
