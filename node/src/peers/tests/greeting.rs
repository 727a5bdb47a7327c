//! Who gets in, and what the others are told.

use super::*;
use crate::peers::frame::{Decoder, Frame, Kind as FrameKind};
use crate::peers::greeting::{Purpose, Refusal};

const THEM: Identity = Identity {
    cluster: CLUSTER,
    member: 9,
    incarnation: 99,
};

/// Everything the port says to these bytes until it closes.
fn answer(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    // It may close before it has read all.
    let _ = socket.write_all(bytes);
    let mut said = Vec::new();
    let _ = socket.read_to_end(&mut said);
    said
}

fn reply(address: SocketAddr, hello: Hello) -> Result<(), Refusal> {
    let said = answer(address, &hello.encode());
    let said: &[u8; GREETING_BYTES] = said.as_slice().try_into().unwrap();
    Reply::decode(said).unwrap().judge(&hello)
}

#[test]
fn a_caller_is_told_exactly_why_it_is_refused_and_the_connection_closed() {
    let (listener, address) = bind();
    let member = Member::start(1, 11, vec![listener], quick());
    member.run(|peers| peers.set_members(&[], &[8]));
    let hello = Hello::new(&THEM, 1, Purpose::Messages);
    let cases = [
        (
            Hello {
                cluster: 5,
                ..hello
            },
            Refusal::WrongCluster {
                caller: 5,
                called: CLUSTER,
            },
        ),
        (
            Hello { to: 2, ..hello },
            Refusal::WrongMember {
                wanted: 2,
                called: 1,
            },
        ),
        (
            Hello { from: 8, ..hello },
            Refusal::Removed {
                caller: 8,
                called: 1,
            },
        ),
        (
            Hello {
                oldest: 7,
                newest: 9,
                ..hello
            },
            Refusal::Version {
                caller: (7, 9),
                called: (1, 1),
            },
        ),
        (Hello { from: 1, ..hello }, Refusal::Itself { member: 1 }),
        (
            Hello {
                purpose: 3,
                ..hello
            },
            Refusal::Purpose { purpose: 3 },
        ),
    ];
    for (hello, refusal) in cases {
        assert_eq!(reply(address, hello), Err(refusal));
    }
    assert!(member.events.try_recv().is_err());
}

#[test]
fn what_is_not_our_protocol_is_closed_without_an_answer() {
    let (listener, address) = bind();
    let member = Member::start(1, 11, vec![listener], quick());
    let mut damaged = Hello::new(&THEM, 1, Purpose::Messages).encode();
    damaged[20] ^= 1;
    let strangers: [&[u8]; 6] = [
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        b"\0",
        &[0x93, b'k', b'v', b'x'],
        &damaged,
    ];
    for bytes in strangers {
        assert!(answer(address, bytes).is_empty());
    }
    // One byte is enough to be known by.
    assert!(answer(address, b"P").is_empty());
    assert!(member.events.try_recv().is_err());
}

#[test]
fn a_look_at_the_member_list_is_answered_and_is_no_member() {
    let (listener, address) = bind();
    let member = Member::start(1, 11, vec![listener], quick());
    let request = b"GET /members HTTP/1.0\r\nHost: x\r\n\r\n";
    let told = crate::memberlist::read(&answer(address, request)).unwrap();
    assert_eq!(told.members, []);
    assert_eq!(told.cluster_id, THEM.cluster);
    let long = [b"GET /members HTTP/1.0\r\nX: ".as_slice(), &[b'x'; 8192]].concat();
    assert!(answer(address, &long).is_empty());
    assert!(member.events.try_recv().is_err());
}

#[test]
fn who_does_not_finish_its_hello_in_time_is_closed() {
    let (listener, address) = bind();
    let limits = Limits {
        greeting_limit: Duration::from_millis(50),
        ..quick()
    };
    let _member = Member::start(1, 11, vec![listener], limits);
    let hello = Hello::new(&THEM, 1, Purpose::Messages).encode();
    assert!(answer(address, &hello[..40]).is_empty());
    assert!(answer(address, &[]).is_empty());
}

#[test]
fn silent_strangers_do_not_keep_a_member_out() {
    let (listener, address) = bind();
    let limits = Limits {
        strangers_max: 4,
        ..quick()
    };
    let one = Member::start(1, 11, vec![listener], limits);
    let strangers: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let (two, _) = bind();
    let two = Member::start(2, 22, vec![two], quick());
    two.know(&[at(1, &[address])]);
    two.wait_connected(1);
    one.wait_connected(2);
    // The oldest were closed to make room.
    let mut first = &strangers[0];
    first.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
}

#[test]
fn urls_are_tried_in_turn_until_one_leads_to_the_member() {
    let ((two, two_at), (three, three_at)) = (bind(), bind());
    let (nobody, nobody_at) = bind();
    drop(nobody);
    let _three = Member::start(3, 33, vec![three], quick());
    let two = Member::start(2, 22, vec![two], quick());
    let one = Member::start(1, 11, vec![], quick());
    let mut member = at(2, &[nobody_at, three_at]);
    member.urls.push("https://127.0.0.1:1".to_owned());
    member.urls.push("http://no-such-host.invalid:1".to_owned());
    member.urls.push(format!("http://{two_at}"));
    one.know(&[member]);
    one.wait_connected(2);
    two.wait_connected(1);
}

#[test]
fn a_member_nobody_told_us_of_is_answered_on_its_own_connection() {
    let (listener, address) = bind();
    let one = Member::start(1, 11, vec![listener], quick());
    let two = Member::start(2, 22, vec![], quick());
    two.know(&[at(1, &[address])]);
    two.wait_connected(1);
    two.send(vec![append(2, 1, 5, 10)]);
    assert_eq!(one.wait_message(), append(2, 1, 5, 10));
    one.send(vec![message(Kind::AppendAnswer, 1, 2)]);
    assert_eq!(two.wait_message(), message(Kind::AppendAnswer, 1, 2));
    // Once it has left, it leaves no trace.
    drop(two);
    one.wait_disconnected(2);
    assert!(one.run(|peers| peers.inner.remotes.borrow().is_empty()));
}

#[test]
fn a_removed_member_hears_of_it_on_its_connection_and_when_it_calls_again() {
    let (one, two) = pair(&quick());
    one.run(|peers| {
        peers.send(append(1, 2, 1, 10));
        peers.set_members(&[], &[2]);
    });
    // What had been sent before still comes.
    assert_eq!(two.wait_message(), append(1, 2, 1, 10));
    let removed = |event| matches!(event, PeerEvent::Removed { by: 1 }).then_some(());
    two.wait("word of the removal", removed);
    two.wait("word of the removal at the door", removed);
    one.wait_disconnected(2);
    assert!(!one.run(|peers| peers.connected(2)));
}

#[test]
fn a_member_that_is_gone_is_left_alone_but_may_still_call() {
    let (one, two) = pair(&quick());
    one.run(|peers| peers.set_members(&[], &[]));
    one.wait_disconnected(2);
    // It does not know yet, and what it sends may be how we learn that we are wrong.
    one.wait_connected(2);
    until("message", || {
        two.send(vec![heartbeat(2, 1)]);
        let is_message = |event| matches!(event, PeerEvent::Message(m) if m == heartbeat(2, 1));
        one.events.try_iter().any(is_message)
    });
}

#[test]
fn a_new_life_of_a_member_replaces_the_old_one() {
    let (listener, address) = bind();
    let one = Member::start(1, 11, vec![listener], quick());
    let call = |incarnation| {
        let us = Identity {
            incarnation,
            member: 2,
            ..THEM
        };
        let mut socket = TcpStream::connect(address).unwrap();
        let hello = Hello::new(&us, 1, Purpose::Messages);
        socket.write_all(&hello.encode()).unwrap();
        let mut reply = [0; GREETING_BYTES];
        socket.read_exact(&mut reply).unwrap();
        Reply::decode(&reply).unwrap().judge(&hello).unwrap();
        socket
    };
    let mut old = call(1);
    one.wait_connected(2);
    let _new = call(2);
    one.wait_disconnected(2);
    one.wait_connected(2);
    old.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(old.read(&mut [0]).unwrap(), 0);
    assert!(one.run(|peers| peers.connected(2)));
}

#[test]
fn frames_that_make_no_sense_end_the_connection_and_foreign_messages_only_themselves() {
    let (listener, address) = bind();
    let one = Member::start(1, 11, vec![], quick());
    one.know(&[at(2, &[address])]);
    let mut socket = welcome(listener.accept().unwrap().0, 2);
    one.wait_connected(2);
    let mut out = bytes::BytesMut::new();
    let mut put = |message: Message| {
        crate::peers::frame::put(&mut out, FrameKind::Message, |out| message.encode_into(out));
    };
    put(heartbeat(3, 1));
    put(heartbeat(2, 4));
    put(message(Kind::Vote, 2, 1));
    socket.write_all(&out).unwrap();
    assert_eq!(one.wait_message().kind, Kind::Vote);
    let last = out.len() - 1;
    out[last] ^= 1;
    socket.write_all(&out).unwrap();
    one.wait_disconnected(2);
}

#[test]
fn a_stopped_transport_closes_its_port_and_its_connections() {
    let (listener, address) = bind();
    let mut one = Member::start(1, 11, vec![listener], quick());
    let two = Member::start(2, 22, vec![], quick());
    two.know(&[at(1, &[address])]);
    two.wait_connected(1);
    one.stop();
    two.wait_disconnected(1);
    assert!(TcpStream::connect(address).is_err());
}

/// Reads frames until one of this kind.
pub(super) fn frame(socket: &mut TcpStream, kind: FrameKind) -> Frame {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    loop {
        let mut bytes = [0; 4096];
        let read = socket.read(&mut bytes).unwrap();
        assert!(read > 0, "closed before a {kind:?}");
        decoder.feed(&bytes[..read], &mut frames).unwrap();
        if let Some(frame) = frames.drain(..).find(|frame| frame.kind == kind) {
            return frame;
        }
    }
}
