//! A cluster under test: several members on loopback, each a [`Server`] of its own.
//!
//! All members are started before any is waited for: none serves without a quorum. What a test wants to hold for the
//! cluster as a whole it waits for with [`Cluster::until`]; elections take seconds on a busy machine.

use std::future::Future;
use std::time::{Duration, Instant};

use kvnode_api as api;

use crate::client::{Client, Status};
use crate::proxy::Network;
use crate::server::{Options, Server, free_port};

/// How long the cluster as a whole may take for anything: several elections of a debug build on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(40);

pub struct Cluster {
    members: Vec<Server>,
}

impl Cluster {
    /// Founds a cluster of `count` members and waits until each of them serves.
    pub fn start(count: usize, options: Options) -> Cluster {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        Cluster::found(&ports, &ports, options)
    }

    /// As [`Cluster::start`]; all that members say to each other passes through `network`.
    pub fn start_through(network: &Network, count: usize, options: Options) -> Cluster {
        let hidden: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let announced: Vec<u16> = hidden.iter().map(|port| network.open(*port)).collect();
        Cluster::found(&hidden, &announced, options)
    }

    fn found(ports: &[u16], announced: &[u16], options: Options) -> Cluster {
        let name = |number: usize| format!("m{number}");
        let entries = announced.iter().enumerate();
        let scheme = options.peer_scheme();
        let entries = entries.map(|(at, port)| format!("{}={scheme}://127.0.0.1:{port}", name(at)));
        let all = entries.collect::<Vec<_>>().join(",");
        // Each member fills its first log segments with zeros before it serves.
        let options = options.arg("--wal-segment-bytes=8MiB");
        let begin = |(at, port): (usize, &u16)| {
            let options = options.clone().member(name(at), *port, &all);
            Server::begin(options.announce_peer_port(announced[at]))
        };
        let members = ports.iter().enumerate().map(begin).collect();
        let mut cluster = Cluster { members };
        cluster
            .members
            .iter_mut()
            .for_each(Server::wait_until_serving);
        cluster
    }

    /// Puts a server into the place of one that is gone for good.
    pub fn replace(&mut self, number: usize, server: Server) {
        self.members[number] = server;
    }

    /// Takes in a server that has joined; its number.
    pub fn push(&mut self, server: Server) -> usize {
        self.members.push(server);
        self.members.len() - 1
    }

    pub fn count(&self) -> usize {
        self.members.len()
    }

    pub fn member(&self, number: usize) -> &Server {
        &self.members[number]
    }

    pub fn member_mut(&mut self, number: usize) -> &mut Server {
        &mut self.members[number]
    }

    /// The members that run, by number.
    pub fn running(&self) -> Vec<usize> {
        let all = 0..self.members.len();
        all.filter(|number| self.members[*number].is_running())
            .collect()
    }

    pub fn others(&self, number: usize) -> Vec<usize> {
        let running = self.running();
        running
            .into_iter()
            .filter(|other| *other != number)
            .collect()
    }

    /// kill -9.
    pub fn kill(&mut self, number: usize) {
        self.members[number].kill();
    }

    /// Starts a stopped member again and waits until it serves.
    pub fn restart(&mut self, number: usize) {
        self.members[number].restart();
    }

    pub async fn client(&self, number: usize) -> Client {
        Client::connect(self.members[number].address()).await
    }

    pub async fn status(&self, number: usize) -> Result<api::StatusResponse, Status> {
        let client = Client::try_connect(self.members[number].address()).await?;
        client.status(api::StatusRequest {}).await
    }

    /// Waits until all running members name the same running leader in the same term; its number.
    pub async fn leader(&self) -> usize {
        self.until("all members agree on a leader", async || {
            self.agreed_leader().await
        })
        .await
    }

    async fn agreed_leader(&self) -> Option<usize> {
        let mut agreed = None;
        let mut leader = None;
        for number in self.running() {
            let status = self.status(number).await.ok()?;
            let says = (status.leader, status.raft_term);
            if status.leader == 0 || *agreed.get_or_insert(says) != says {
                return None;
            }
            if status.header.map(|header| header.member_id) == Some(status.leader) {
                leader = Some(number);
            }
        }
        leader
    }

    /// Waits until `look` sees something; panics, naming what was waited for, if it does not.
    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        look: impl Fn() -> F,
    ) -> T {
        let begun = Instant::now();
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
