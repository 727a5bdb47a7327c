//! What a message costs.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use super::*;

/// CPU time of this process, user and system.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// A member whose events are answered in place by `answer`, until that says it is done.
fn busy_member(
    id: u64,
    listener: TcpListener,
    members: &[PeerAddress],
    answer: impl Fn(&Peers, Vec<PeerEvent>) -> bool + Send + 'static,
) -> rt::Executor<()> {
    let identity = Identity {
        cluster: CLUSTER,
        member: id,
        incarnation: id,
    };
    let kicker = rt::Kicker::start().unwrap();
    let members = members.to_vec();
    let options = rt::Options::named(format!("m{id}"));
    rt::Executor::spawn(&options, &kicker, move || async move {
        let (handle, done) = (Rc::new(OnceCell::<Peers>::new()), rt::Shutdown::new());
        let (own, latch) = (Rc::clone(&handle), done.clone());
        let events = move |batch| {
            if answer(own.get().expect("set before the first event"), batch) {
                latch.fire();
            }
        };
        let peers = Peers::start(identity, vec![listener], Limits::default(), events).unwrap();
        assert!(handle.set(peers.clone()).is_ok());
        peers.set_members(&members, &[]);
        done.wait().await;
        peers.stop();
    })
    .unwrap()
}

/// One sends `batch` small appends per turn; the other answers each turn with one message.
fn measure(batch: usize, turns: usize) {
    let ((one, one_at), (two, two_at)) = (bind(), bind());
    let members = [at(1, &[one_at]), at(2, &[two_at])];
    let next_turn = move |peers: &Peers| {
        for _ in 0..batch {
            peers.send(append(1, 2, 1, 100));
        }
        peers.flush();
    };
    let (begin, before) = (Instant::now(), cpu());
    let heard = Cell::new(0);
    let two = busy_member(2, two, &members, move |peers, events| {
        for event in events {
            match event {
                PeerEvent::Message(_) => heard.set(heard.get() + 1),
                PeerEvent::Disconnected(_) => return true,
                _ => {}
            }
            if heard.get() == batch {
                heard.set(0);
                peers.send(message(Kind::AppendAnswer, 2, 1));
                peers.flush();
            }
        }
        false
    });
    let answers = Cell::new(0);
    let one = busy_member(1, one, &members, move |peers, events| {
        for event in events {
            match event {
                PeerEvent::Connected(_) => next_turn(peers),
                PeerEvent::Message(_) => {
                    answers.set(answers.get() + 1);
                    if answers.get() == turns {
                        return true;
                    }
                    next_turn(peers);
                }
                _ => {}
            }
        }
        false
    });
    one.join().unwrap();
    two.join().unwrap();
    let (took, spent) = (begin.elapsed(), cpu() - before);
    let messages = (batch * turns) as f64;
    println!(
        "{batch:5} per turn: {:8.0} messages/s, {:6.2} us CPU per message on both sides, {:7.1} us per turn",
        messages / took.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / messages,
        took.as_secs_f64() * 1e6 / turns as f64,
    );
}

#[test]
#[ignore = "figures, not a promise: cargo test --release -p kvnode --lib peers::tests::speed -- --ignored --nocapture"]
fn figures_of_small_messages() {
    measure(1, 20_000);
    measure(10, 10_000);
    measure(100, 5_000);
    measure(1000, 2_000);
}
