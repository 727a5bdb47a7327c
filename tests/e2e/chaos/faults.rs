//! What happens to the members: each fault lasts about as long as an election or two and leaves healing to the caller.

use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::load::Dice;
use kvnode_tests::proxy::Way;
use kvnode_tests::server::free_port;
use kvnode_tests::{Client, Options, Server, Status};
use rustix::process::Signal;

use crate::rounds::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the leader, then of another one while the first starts.
    Kill,
    /// kill -9 of all at once.
    KillAll,
    /// SIGSTOP for longer than an election takes.
    Pause,
    /// One member hears and is heard by nobody.
    Partition,
    /// One member is heard and hears nothing, or the other way round.
    OneWay,
    /// Everything is late, and connections break again and again.
    Flaky,
    /// One member gets a fraction of its time, as with a disk that answers slowly.
    Slow,
    /// SIGTERM and start, one after the other.
    Roll,
    /// A member is lost for good: removed, and a new one joins in its place.
    Replace,
}

/// Each once in the first rounds; `KillAll` takes turns with `Kill`.
pub const FAULTS: [Fault; 8] = [
    Fault::Kill,
    Fault::Partition,
    Fault::Pause,
    Fault::Replace,
    Fault::OneWay,
    Fault::Slow,
    Fault::Roll,
    Fault::Flaky,
];

/// Between the leader and anybody, by the dice.
async fn victim(world: &World, dice: &mut Dice) -> usize {
    let leader = world.cluster.leader().await;
    match dice.roll(3) {
        0 => usize::try_from(dice.roll(world.cluster.count() as u64)).expect("few"),
        _ => leader,
    }
}

fn some_time(dice: &mut Dice, from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(from_ms + dice.roll(to_ms - from_ms))
}

impl World {
    /// Lets it happen, and returns when it has.
    pub async fn suffer(&mut self, fault: Fault, dice: &mut Dice) {
        match fault {
            Fault::Kill => {
                let leader = self.cluster.leader().await;
                self.cluster.kill(leader);
                tokio::time::sleep(some_time(dice, 100, 1500)).await;
                self.cluster.member_mut(leader).begin_again();
                // Two at once, if the first one has not come far.
                let next = self.cluster.others(leader)[0];
                tokio::time::sleep(some_time(dice, 0, 800)).await;
                self.cluster.kill(next);
                tokio::time::sleep(some_time(dice, 0, 800)).await;
                self.cluster.member_mut(next).begin_again();
            }
            Fault::KillAll => {
                let all = 0..self.cluster.count();
                all.clone().for_each(|number| self.cluster.kill(number));
                tokio::time::sleep(some_time(dice, 0, 300)).await;
                all.for_each(|number| self.cluster.member_mut(number).begin_again());
            }
            Fault::Pause => {
                let number = victim(self, dice).await;
                self.cluster.member(number).signal(Signal::STOP);
                tokio::time::sleep(some_time(dice, 300, 2500)).await;
                self.cluster.member(number).signal(Signal::CONT);
                tokio::time::sleep(some_time(dice, 0, 300)).await;
            }
            Fault::Partition => {
                let number = victim(self, dice).await;
                let way = [Way::Cut, Way::Hold][usize::from(dice.roll(2) == 0)];
                for other in self.cluster.others(number) {
                    self.network
                        .set_both(self.ids[number], self.ids[other], way);
                }
                tokio::time::sleep(some_time(dice, 800, 2500)).await;
            }
            Fault::OneWay => {
                let number = victim(self, dice).await;
                let deaf = dice.roll(2) == 0;
                for other in self.cluster.others(number) {
                    let (one, two) = (self.ids[number], self.ids[other]);
                    let (from, to) = if deaf { (two, one) } else { (one, two) };
                    self.network.set(from, to, Way::Hold);
                }
                tokio::time::sleep(some_time(dice, 800, 2500)).await;
            }
            Fault::Flaky => {
                for _ in 0..4 {
                    let late = Way::Late(some_time(dice, 1, 40));
                    self.between_all(|network, one, two| network.set_both(one, two, late));
                    tokio::time::sleep(some_time(dice, 50, 400)).await;
                    let one = dice.roll(3) as usize;
                    let (from, to) = (self.ids[one], self.ids[(one + 1) % 3]);
                    self.network.set_both(from, to, Way::Cut);
                    tokio::time::sleep(some_time(dice, 1, 60)).await;
                }
            }
            Fault::Slow => {
                let number = victim(self, dice).await;
                let end = tokio::time::Instant::now() + some_time(dice, 800, 2000);
                while tokio::time::Instant::now() < end {
                    self.cluster.member(number).signal(Signal::STOP);
                    tokio::time::sleep(some_time(dice, 20, 120)).await;
                    self.cluster.member(number).signal(Signal::CONT);
                    tokio::time::sleep(some_time(dice, 2, 30)).await;
                }
            }
            Fault::Roll => {
                for number in 0..self.cluster.count() {
                    assert!(self.cluster.member_mut(number).stop().success());
                    self.cluster.restart(number);
                }
            }
            Fault::Replace => self.replace(dice).await,
        }
    }

    fn between_all(&self, act: impl Fn(&kvnode_tests::proxy::Network, u64, u64)) {
        for (at, one) in self.ids.iter().enumerate() {
            for two in &self.ids[at + 1..] {
                act(&self.network, *one, *two);
            }
        }
    }

    async fn replace(&mut self, dice: &mut Dice) {
        let gone = victim(self, dice).await;
        self.cluster.kill(gone);
        let helper = self.cluster.others(gone)[0];
        let id = self.ids[gone];
        let remove = api::MemberRemoveRequest { id };
        self.until_done(helper, "the lost member is removed", async |client| {
            match client.member_remove(remove).await {
                // A try that broke off may have been carried out.
                Err(status) if status.message.contains("member not found") => Ok(()),
                other => other.map(|_| ()),
            }
        })
        .await;
        let hidden = free_port();
        let announced = self.network.open(hidden);
        let url = format!("http://127.0.0.1:{announced}");
        let add = api::MemberAddRequest {
            peer_urls: vec![url.clone()],
            is_learner: false,
        };
        self.until_done(
            helper,
            "the new member is added",
            async |client| match client.member_add(add.clone()).await {
                Err(status) if status.message.contains("already exist") => Ok(()),
                other => other.map(|_| ()),
            },
        )
        .await;
        let list = api::MemberListRequest { linearizable: true };
        let members = self
            .until_done(helper, "the members are listed", async |client| {
                client.member_list(list).await
            })
            .await
            .members;
        self.born += 1;
        let name = format!("born{}", self.born);
        let entries = members.iter().map(|member| {
            let shown = if member.name.is_empty() {
                &name
            } else {
                &member.name
            };
            format!("{shown}={}", member.peer_urls[0])
        });
        let entries: Vec<String> = entries.collect();
        let new = members.iter().find(|member| member.peer_urls[0] == url);
        self.ids[gone] = new.expect("it was added").id;
        let options = self.options.clone();
        let options = options
            .member(name, hidden, entries.join(","))
            .announce_peer_port(announced)
            // Clients find it where the old one was.
            .client_port(self.cluster.member(gone).address().port())
            .arg("--initial-cluster-state=existing");
        self.cluster.replace(gone, begin(options));
    }

    /// Tries until it is done: leaders come and go.
    async fn until_done<T>(
        &self,
        number: usize,
        what: &str,
        act: impl AsyncFn(Client) -> Result<T, Status>,
    ) -> T {
        self.cluster
            .until(what, async || {
                let address = self.cluster.member(number).address();
                let client = Client::try_connect(address).await.ok()?;
                act(client).await.ok()
            })
            .await
    }
}

fn begin(options: Options) -> Server {
    Server::begin(options)
}
