//! The loads of a comparison, in the order they run.

use crate::compare::Plan;
use crate::load::ranges::Wants;
use crate::load::{Kind, Load, connections_for};
use crate::work::{HOT_KEYS, Order};

/// One entry of the catalogue.
#[derive(Clone, Debug)]
pub struct Named {
    pub name: String,
    pub load: Load,
    /// Runs only when asked for.
    more: bool,
}

impl Named {
    /// One that stands outside the catalogue.
    pub fn new(name: String, load: Load) -> Named {
        Named {
            name,
            load,
            more: true,
        }
    }
}

/// Keys that are overwritten before old revisions are read, and how often.
const OLD_KEYS: u64 = 20_000;
const OVERWRITES: u64 = 5;

/// The loads every server gets in every round.
pub fn loads(plan: &Plan) -> Vec<Named> {
    let mut loads = all(plan);
    loads.retain(|named| plan.wants(&named.name, named.more));
    loads
}

/// Counts of all keys, where there are many.
pub fn counts(plan: &Plan) -> Vec<Named> {
    let mut list = List::new(plan);
    for in_flight in [1, 16] {
        let count = Load {
            keys: plan.many_keys,
            width: plan.many_keys,
            wants: Wants::Count,
            ..list.of(Kind::Range, in_flight)
        };
        list.more(
            format!(
                "count of all {} keys, {in_flight} in flight",
                plan.many_keys
            ),
            count,
        );
    }
    list.loads.retain(|named| plan.wants(&named.name, true));
    list.loads
}

struct List {
    base: Load,
    loads: Vec<Named>,
}

impl List {
    fn new(plan: &Plan) -> List {
        List {
            base: Load {
                keys: plan.keys,
                value_bytes: plan.value_bytes,
                warm_up: plan.warm_up,
                measured: plan.measured,
                ..Load::default()
            },
            loads: Vec::new(),
        }
    }

    fn of(&self, kind: Kind, in_flight: usize) -> Load {
        Load {
            kind,
            in_flight,
            connections: connections_for(in_flight),
            ..self.base
        }
    }

    fn usual(&mut self, name: impl Into<String>, load: Load) {
        self.push(name.into(), load, false);
    }

    fn more(&mut self, name: impl Into<String>, load: Load) {
        self.push(name.into(), load, true);
    }

    fn push(&mut self, name: String, load: Load, more: bool) {
        self.loads.push(Named { name, load, more });
    }
}

fn all(plan: &Plan) -> Vec<Named> {
    let mut list = List::new(plan);
    // Reads come first: what etcd 3.4 has buffered of the last burst of puts, it copies for every
    // read, so behind the puts its reads cost ten times as much.
    gets(&mut list);
    ranges(&mut list, plan);
    puts(&mut list);
    list.usual(
        "compare-and-swap txn, 256 in flight",
        list.of(Kind::Cas, 256),
    );
    list.more("4 gets to 1 put, 256 in flight", list.of(Kind::Mixed, 256));
    watches(&mut list, plan);
    leases(&mut list, plan);
    old_revisions(&mut list, plan);
    large_values(&mut list);
    list.loads
}

fn gets(list: &mut List) {
    for (name, serializable) in [("linearizable", false), ("serializable", true)] {
        for in_flight in [1, 256] {
            let load = Load {
                serializable,
                ..list.of(Kind::Get, in_flight)
            };
            list.usual(format!("get {name}, {in_flight} in flight"), load);
        }
        let hot = Load {
            serializable,
            order: Order::Hot,
            ..list.of(Kind::Get, 256)
        };
        list.more(
            format!("get {name}, {HOT_KEYS} hot keys, 256 in flight"),
            hot,
        );
    }
}

fn ranges(list: &mut List, plan: &Plan) {
    let range = |list: &List, width, in_flight| Load {
        width,
        ..list.of(Kind::Range, in_flight)
    };
    for (width, in_flight, more) in [
        (100, 64, false),
        (1000, 16, true),
        (10_000, 4, false),
        (100_000, 1, true),
    ] {
        // There may be fewer keys than the widest range has.
        let width = plan.keys.min(width);
        let load = range(list, width, in_flight);
        let name = format!("range of {width} keys, {in_flight} in flight");
        list.push(name, load, more);
    }
    for in_flight in [1, 16] {
        let count = Load {
            wants: Wants::Count,
            ..range(list, plan.keys, in_flight)
        };
        list.more(
            format!("count of {} keys, {in_flight} in flight", plan.keys),
            count,
        );
    }
    let keys = Load {
        wants: Wants::Keys,
        ..range(list, 10_000, 4)
    };
    list.more("keys only, 10000 of them, 4 in flight", keys);
}

fn puts(list: &mut List) {
    for (in_flight, more) in [
        (1, false),
        (16, false),
        (64, true),
        (256, false),
        (1000, false),
    ] {
        let load = list.of(Kind::Put, in_flight);
        list.push(format!("put, {in_flight} in flight"), load, more);
    }
}

fn watches(list: &mut List, plan: &Plan) {
    let watch = |list: &List, watchers, in_flight| Load {
        connections: 20,
        watchers,
        ..list.of(Kind::Watch, in_flight)
    };
    let many = plan.watchers;
    list.usual("watch, events at 1000 watchers", watch(list, 1000, 4));
    list.more(
        format!("watch, events at {many} watchers of one key"),
        watch(list, many, 4),
    );
    let distinct = Load {
        distinct: true,
        ..watch(list, many, 64)
    };
    list.more(
        format!("watch, events at {many} watchers of a key each"),
        distinct,
    );
    let idle = Load {
        idle_watchers: many,
        ..list.of(Kind::Put, 256)
    };
    list.more(
        format!("put with {many} idle watchers, 256 in flight"),
        idle,
    );
}

fn leases(list: &mut List, plan: &Plan) {
    let leases = plan.leases;
    for (name, kind, in_flight) in [
        ("grant", Kind::LeaseGrant, 64),
        ("keepalive", Kind::LeaseKeepalive, 256),
    ] {
        let load = Load {
            leases,
            ..list.of(kind, in_flight)
        };
        list.usual(
            format!("lease {name}, {leases} leases, {in_flight} in flight"),
            load,
        );
    }
}

fn old_revisions(list: &mut List, plan: &Plan) {
    let old = |load: Load| Load {
        keys: plan.keys.min(OLD_KEYS),
        overwrites: OVERWRITES,
        ..load
    };
    let get = old(list.of(Kind::Get, 256));
    list.more("get of an old revision, 256 in flight", get);
    let range = Load {
        width: 100,
        ..old(list.of(Kind::Range, 64))
    };
    list.more("range of 100 keys of an old revision, 64 in flight", range);
}

/// Last, because they stay.
fn large_values(list: &mut List) {
    for (name, value_bytes, in_flight) in [
        ("4 KiB", 4 << 10, 64),
        ("64 KiB", 64 << 10, 16),
        ("1 MiB", 1 << 20, 4),
    ] {
        let load = Load {
            value_bytes,
            ..list.of(Kind::Put, in_flight)
        };
        list.more(format!("put of {name}, {in_flight} in flight"), load);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(more: bool, only: &[&str]) -> Vec<String> {
        let plan = Plan {
            more,
            only: only.iter().map(|&text| text.to_owned()).collect(),
            ..Plan::default()
        };
        loads(&plan).into_iter().map(|named| named.name).collect()
    }

    #[test]
    fn more_adds_to_the_usual_and_only_picks_from_all() {
        let (usual, all) = (names(false, &[]), names(true, &[]));
        assert!(usual.len() >= 14 && usual.len() < all.len());
        assert!(usual.iter().all(|name| all.contains(name)));
        assert!(usual.contains(&"put, 256 in flight".to_owned()));
        assert_eq!(
            names(false, &["1 MiB", "hot keys"]),
            [
                "get linearizable, 100 hot keys, 256 in flight",
                "get serializable, 100 hot keys, 256 in flight",
                "put of 1 MiB, 4 in flight"
            ]
        );
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "names are unique");
    }
}
