//! What a run is made of: sizes, speeds, the mix of faults, the mix of requests.
//!
//! Every seed draws a mix of its own (swarm testing): a weight from {0, 0, 1, 1, 4, 12} per kind of
//! fault, its own pace, its own odd sizes. A uniform mix misses what these find.

use super::chance::Chance;

/// One millisecond in the world's time.
pub const MS: u64 = 1000;
/// One second.
pub const SECOND: u64 = 1_000_000;
/// A member's tick by a true clock.
pub const TICK: u64 = 100 * MS;
/// Ticks of an election timeout.
pub const ELECTION_TICKS: u64 = 10;

/// A defect put in on purpose: the checks must find each. All of them are defects of how the parts
/// are put together, so they live in the simulator and cannot reach a real build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A sync of the log does nothing.
    SkipFsync,
    /// Messages leave, and writes count, before their sync.
    AnswerBeforeSync,
    /// The leader counts an entry as held by a peer when it was sent.
    AnswerBeforeQuorum,
    /// Linearizable reads are served from the member's own state at once.
    ReadWithoutIndex,
    /// A confirmed read does not wait until its index is applied.
    ReadBeforeApply,
    /// The vote is not written.
    ForgetVote,
    /// The applied index is stored later than its changes.
    ApplyTwice,
    /// Compaction removes what happened at the compact revision itself.
    DropBoundaryTombstone,
    /// A proposal that was forwarded and not answered is forwarded again.
    ForwardAgain,
    /// The log's directory is never synced.
    SkipDirSync,
    /// Every member lets leases expire by its own clock, leader or not.
    EveryClockExpires,
    /// After a snapshot the watchers are not told that the store has moved on.
    WatchesMissSnapshot,
    /// Keepalives are answered by whoever believes to lead.
    KeepaliveWithoutQuorum,
}

impl Plant {
    pub const ALL: [Plant; 13] = [
        Plant::SkipFsync,
        Plant::AnswerBeforeSync,
        Plant::AnswerBeforeQuorum,
        Plant::ReadWithoutIndex,
        Plant::ReadBeforeApply,
        Plant::ForgetVote,
        Plant::ApplyTwice,
        Plant::DropBoundaryTombstone,
        Plant::ForwardAgain,
        Plant::SkipDirSync,
        Plant::EveryClockExpires,
        Plant::WatchesMissSnapshot,
        Plant::KeepaliveWithoutQuorum,
    ];

    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// How messages travel. Times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// In permille.
    pub loss: u64,
    /// In permille; the copy comes up to two seconds late.
    pub double: u64,
    pub latency: (u64, u64),
    /// Permille of messages ten times as late; a tenth of them a hundred times, at most 3 s.
    pub tail: u64,
    /// Time a snapshot is on its way.
    pub snapshot: (u64, u64),
    /// Answers to clients that never arrive, in permille.
    pub lost_answers: u64,
}

/// Weights of the faults the nemesis picks from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    pub kill: u64,
    pub power: u64,
    pub power_all: u64,
    pub pause: u64,
    pub isolate: u64,
    pub partition: u64,
    pub one_way: u64,
    pub heal: u64,
    pub stall: u64,
    pub disk_error: u64,
    pub full: u64,
    pub damage: u64,
    pub lose_disk: u64,
    pub slow_apply: u64,
    pub transfer: u64,
    pub members: u64,
}

/// Sizes that are usually generous, drawn small to reach rare paths.
#[derive(Clone, Copy, Debug)]
pub struct Odd {
    pub block_bytes: u32,
    pub segment_blocks: u64,
    /// Entries behind the applied one that stay in memory.
    pub tail_entries: u64,
    pub message_bytes: u64,
    pub in_flight: usize,
    pub apply_batch: usize,
    pub backlog_bytes: usize,
    pub ring_bytes: usize,
    pub persist: u64,
    pub committed_bytes: u64,
}

/// Weights of what clients ask for.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub put: u64,
    pub get: u64,
    pub range: u64,
    pub stale_range: u64,
    pub past_range: u64,
    pub delete: u64,
    pub delete_range: u64,
    pub txn: u64,
    pub compact: u64,
    pub grant: u64,
    pub keep_alive: u64,
    pub revoke: u64,
    pub keys: u64,
}

/// Everything a run is made of but its course.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub members: u64,
    pub clients: u32,
    pub watchers: usize,
    /// How long faults last.
    pub faults: u64,
    pub plant: Option<Plant>,
    /// Prints what happens.
    pub verbose: bool,
    pub net: Net,
    pub disk: (u64, u64),
    pub apply: (u64, u64),
    /// Between two faults.
    pub pace: (u64, u64),
    pub restart: (u64, u64),
    pub think: (u64, u64),
    pub timeout: (u64, u64),
    /// Clock rates of members, in percent.
    pub rates: (u64, u64),
    pub weights: Weights,
    pub odd: Odd,
    pub work: Work,
}

pub const CALM_NET: Net = Net {
    loss: 0,
    double: 0,
    latency: (200, 900),
    tail: 0,
    snapshot: (5 * MS, 50 * MS),
    lost_answers: 0,
};

impl Plan {
    /// A quiet world without clients of its own, for scenarios.
    pub fn calm(seed: u64, members: u64) -> Plan {
        Plan {
            seed,
            members,
            clients: 0,
            watchers: 0,
            faults: 0,
            plant: None,
            verbose: false,
            net: CALM_NET,
            disk: (100, 600),
            apply: (50, 300),
            pace: (100 * MS, 300 * MS),
            restart: (MS, 500 * MS),
            think: (5 * MS, 30 * MS),
            timeout: (SECOND, 2 * SECOND),
            rates: (100, 100),
            weights: Weights::default(),
            odd: Odd {
                block_bytes: 512,
                segment_blocks: 256,
                tail_entries: 4096,
                message_bytes: 1 << 20,
                in_flight: 256,
                apply_batch: 64,
                backlog_bytes: 1 << 20,
                ring_bytes: 1 << 20,
                persist: SECOND,
                committed_bytes: 4 << 20,
            },
            work: Work {
                put: 10,
                get: 5,
                range: 3,
                stale_range: 1,
                past_range: 1,
                delete: 2,
                delete_range: 1,
                txn: 4,
                compact: 1,
                grant: 1,
                keep_alive: 2,
                revoke: 1,
                keys: 8,
            },
        }
    }

    /// The mix that belongs to a seed.
    pub fn of_seed(seed: u64) -> Plan {
        let mut chance = Chance::new(seed ^ 0x7061_6E69_6321);
        let dice = &mut chance;
        let mut plan = Plan::calm(seed, dice.pick(&[1, 3, 3, 3, 3, 3, 5, 5]));
        plan.clients = dice.between((2, 6)) as u32;
        plan.watchers = dice.between((1, 5)) as usize;
        plan.faults = dice.between((6, 20)) * SECOND;
        let far = dice.pick(&[900, 3 * MS, 15 * MS, 40 * MS]);
        plan.net = Net {
            loss: dice.pick(&[0, 0, 5, 20, 100, 300]),
            double: dice.pick(&[0, 0, 5, 30, 100]),
            latency: (150, far),
            tail: dice.pick(&[0, 0, 20, 20, 100]),
            snapshot: (5 * MS, dice.pick(&[20 * MS, 200 * MS, 1500 * MS])),
            lost_answers: dice.pick(&[0, 5, 50]),
        };
        plan.disk = (100, dice.pick(&[300, 2 * MS, 20 * MS, 100 * MS]));
        plan.apply = (30, dice.pick(&[200, 2 * MS, 20 * MS]));
        let pace = dice.pick(&[30 * MS, 100 * MS, 300 * MS, 1000 * MS]);
        plan.pace = (pace / 2, 2 * pace);
        plan.restart = (MS, dice.pick(&[10 * MS, 500 * MS, 4000 * MS]));
        plan.think = (MS, dice.pick(&[10 * MS, 40 * MS, 150 * MS]));
        plan.rates = dice.pick(&[(100, 100), (95, 105), (80, 120)]);
        let mut weight = || dice.pick(&[0, 0, 1, 1, 4, 12]);
        plan.weights = Weights {
            kill: weight(),
            power: weight(),
            power_all: weight() / 4,
            pause: weight(),
            isolate: weight(),
            partition: weight(),
            one_way: weight(),
            heal: 3,
            stall: weight(),
            disk_error: weight() / 2,
            full: weight() / 2,
            damage: weight() / 4,
            lose_disk: weight() / 4,
            slow_apply: weight(),
            transfer: weight(),
            members: weight(),
        };
        plan.odd = Odd {
            block_bytes: dice.pick(&[512, 512, 4096]),
            segment_blocks: dice.pick(&[24, 64, 256]),
            tail_entries: dice.pick(&[5, 30, 200, 4096]),
            message_bytes: dice.pick(&[300, 4096, 1 << 20]),
            in_flight: dice.pick(&[1, 4, 256]),
            apply_batch: dice.pick(&[1, 5, 64]),
            backlog_bytes: dice.pick(&[200, 2000, 1 << 20]),
            ring_bytes: dice.pick(&[0, 1000, 1 << 20]),
            persist: dice.pick(&[100 * MS, SECOND, 4 * SECOND]),
            committed_bytes: dice.pick(&[200, 4 << 20, 4 << 20]),
        };
        let mut weight = |usual: u64| usual * dice.pick(&[0, 1, 1, 3]);
        plan.work = Work {
            put: 10,
            get: weight(5),
            range: weight(3),
            stale_range: weight(2),
            past_range: weight(2),
            delete: weight(3),
            delete_range: weight(1),
            txn: weight(4),
            compact: weight(1),
            grant: weight(1),
            keep_alive: weight(2),
            revoke: weight(1),
            keys: 0,
        };
        plan.work.keys = dice.pick(&[2, 6, 20]);
        plan
    }

    pub fn plant(mut self, plant: Plant) -> Plan {
        self.plant = Some(plant);
        self
    }

    pub fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }
}
