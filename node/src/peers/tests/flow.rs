//! What arrives, what is dropped, and who notices.

use std::collections::BTreeSet;

use super::greeting::frame;
use super::*;
use crate::peers::frame::{Kind as FrameKind, put};
use crate::peers::lanes::Item;

#[test]
fn messages_asks_and_answers_arrive_whole_and_in_order() {
    let (one, two) = pair(&quick());
    let sent: Vec<Message> = (1..=2000)
        .map(|index| append(1, 2, index, (index as usize * 37) % 3000))
        .map(|mut message| {
            // An empty payload is an empty entry.
            message
                .entries
                .iter_mut()
                .filter(|e| e.payload.is_empty())
                .for_each(|e| e.kind = EntryKind::Empty);
            message
        })
        .collect();
    one.send(sent.clone());
    for message in &sent {
        assert_eq!(two.wait_message(), *message);
    }
    let large = append(1, 2, 1, 12 << 20);
    one.send(vec![large.clone()]);
    assert_eq!(two.wait_message(), large);

    let body = Bytes::from(vec![3; 1 << 20]);
    let asked = body.clone();
    assert!(one.run(move |peers| {
        let taken = peers.ask(2, 42, 7, asked);
        peers.flush();
        taken
    }));
    let (from, ticket, kind, heard) = two.wait("ask", |event| match event {
        PeerEvent::Ask {
            from,
            ticket,
            kind,
            body,
        } => Some((from, ticket, kind, body)),
        _ => None,
    });
    assert_eq!((from, ticket, kind), (1, 42, 7));
    assert_eq!(heard, body);
    two.run(move |peers| {
        peers.answer(from, ticket, heard.slice(..5));
        peers.flush();
    });
    let (from, ticket, heard) = one.wait("answer", |event| match event {
        PeerEvent::Answer { from, ticket, body } => Some((from, ticket, body)),
        _ => None,
    });
    assert_eq!((from, ticket, &heard[..]), (2, 42, &[3; 5][..]));
    let too_long = Bytes::from(vec![0; (1 << 20) + 1]);
    assert!(!one.run(move |peers| peers.ask(2, 43, 7, too_long)));
    assert!(!one.run(|peers| peers.ask(3, 44, 7, Bytes::new())));
}

#[test]
fn everything_of_one_turn_is_handed_over_together() {
    let (listener, address) = bind();
    let one = Member::start(1, 11, vec![], quick());
    one.know(&[at(2, &[address])]);
    let mut socket = welcome(listener.accept().unwrap().0, 2);
    one.wait_connected(2);
    one.send((0..100).map(|_| heartbeat(1, 2)).collect());
    // One write: they are all there when the first is.
    let mut bytes = vec![0; 1 << 20];
    let read = socket.read(&mut bytes).unwrap();
    let each = crate::peers::frame::HEADER_BYTES + heartbeat(1, 2).encoded_len();
    assert_eq!(read, 100 * each);
}

#[test]
fn a_peer_that_does_not_read_loses_appends_and_slows_nobody() {
    let limits = Limits {
        bulk_bytes_max: 1 << 20,
        ..quick()
    };
    let (stalled, stalled_at) = bind();
    let (three, three_at) = bind();
    let one = Member::start(1, 11, vec![], limits);
    let three = Member::start(3, 33, vec![three], quick());
    one.know(&[at(2, &[stalled_at]), at(3, &[three_at])]);
    let _stalled = welcome(stalled.accept().unwrap().0, 2);
    one.wait_connected(3);
    three.wait_connected(1);
    until("connection with the stalled peer", || {
        one.run(|peers| peers.connected(2))
    });
    // Until the kernel's buffers and the lane are full.
    let mut unreachable = false;
    for index in 1..=1000 {
        one.send(vec![append(1, 2, index, 100_000), append(1, 3, index, 10)]);
        assert_eq!(three.wait_message().index, index);
        while let Ok(event) = one.events.try_recv() {
            unreachable |= matches!(event, PeerEvent::Unreachable(2));
        }
        if unreachable {
            break;
        }
    }
    assert!(unreachable, "the lane never filled");
    // The small lane has room still, and so have asks.
    one.run(|peers| {
        let remote = peers.inner.remote(2).unwrap();
        let wire = remote.wire().unwrap();
        assert!(wire.push(Item::Message(heartbeat(1, 2))));
        assert!(peers.ask(2, 1, 1, Bytes::new()));
        let full = append(1, 2, 1, 1 << 20);
        assert!(!wire.push(Item::Message(full)));
    });
    one.send(vec![append(1, 3, 7777, 10)]);
    assert_eq!(three.wait_message().index, 7777);
}

#[test]
fn an_append_to_a_peer_that_is_not_connected_is_reported_and_other_messages_are_not() {
    let (nobody, nobody_at) = bind();
    drop(nobody);
    let one = Member::start(1, 11, vec![], quick());
    one.know(&[at(2, &[nobody_at])]);
    one.send(vec![heartbeat(1, 2)]);
    one.send(vec![append(1, 2, 1, 1), append(1, 2, 2, 1)]);
    one.send(vec![heartbeat(1, 2)]);
    one.wait("unreachable peer", |event| {
        matches!(event, PeerEvent::Unreachable(2)).then_some(())
    });
    one.run(|_| ());
    assert!(one.events.try_recv().is_err(), "told once per turn");
}

#[test]
fn a_forwarded_proposal_never_arrives_twice_over_broken_connections() {
    let (two, two_at) = bind();
    let proxy = Proxy::to(two_at, Vec::new());
    let two = Member::start(2, 22, vec![two], quick());
    let one = Member::start(1, 11, vec![], quick());
    one.know(&[at(2, &[proxy.address])]);
    one.wait_connected(2);
    let mut ticket = 0;
    let mut seen = BTreeSet::new();
    for round in 1..=30 {
        for _ in 0..20 {
            let batch = (0..50).map(|n| forward(1, 2, ticket + n)).collect();
            ticket += 50;
            one.send(batch);
        }
        proxy.cut();
        until("another connection", || proxy.connections() > round);
        until("connection", || one.run(|peers| peers.connected(2)));
    }
    // The last one arrives for sure once nothing is cut any more.
    until("last forward", || {
        one.send(vec![forward(1, 2, ticket)]);
        ticket += 1;
        let mut last = false;
        while let Ok(event) = two.events.try_recv() {
            if let PeerEvent::Message(message) = event {
                assert!(seen.insert(message.hint), "{} came twice", message.hint);
                last = message.hint + 1 >= ticket;
            }
        }
        last
    });
    assert!(seen.len() > 100, "hardly anything arrived");
}

#[test]
fn a_peer_that_comes_back_is_connected_again() {
    let (listener, address) = bind();
    let one = Member::start(1, 11, vec![], quick());
    one.know(&[at(2, &[address])]);
    let first = welcome(listener.accept().unwrap().0, 2);
    one.wait_connected(2);
    drop(first);
    one.wait("report of what is lost", |event| {
        matches!(event, PeerEvent::Unreachable(2)).then_some(())
    });
    one.wait_disconnected(2);
    assert!(!one.run(|peers| peers.connected(2)));
    let _second = welcome(listener.accept().unwrap().0, 2);
    one.wait_connected(2);
    assert!(one.run(|peers| peers.connected_since(2)).is_some());
}

#[test]
fn a_silent_peer_is_pinged_and_given_up_and_one_that_answers_is_not() {
    let limits = Limits {
        ping_after: Duration::from_millis(20),
        dead_after: Duration::from_secs(2),
        ..quick()
    };
    let (listener, address) = bind();
    let one = Member::start(1, 11, vec![], limits);
    one.know(&[at(2, &[address])]);
    let mut socket = welcome(listener.accept().unwrap().0, 2);
    one.wait_connected(2);
    let mut pong = bytes::BytesMut::new();
    put(&mut pong, FrameKind::Pong, |_| ());
    for _ in 0..20 {
        frame(&mut socket, FrameKind::Ping);
        socket.write_all(&pong).unwrap();
    }
    assert!(one.run(|peers| peers.connected(2)));
    // From here on it says nothing more, though its kernel takes everything.
    one.wait_disconnected(2);
}

#[test]
fn pings_are_answered() {
    let (listener, address) = bind();
    let one = Member::start(1, 11, vec![], quick());
    one.know(&[at(2, &[address])]);
    let mut socket = welcome(listener.accept().unwrap().0, 2);
    one.wait_connected(2);
    let mut ping = bytes::BytesMut::new();
    put(&mut ping, FrameKind::Ping, |_| ());
    socket.write_all(&ping).unwrap();
    frame(&mut socket, FrameKind::Pong);
}
