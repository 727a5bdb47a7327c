//! Counting by fences: same numbers as by scanning.

use kvnode_api::{KeyRange, RangeRequest};
use kvnode_store::engine::memory::{MemoryDisk, MemoryEngine};
use kvnode_store::{Config, Kind};

use super::harness::{Machine, all, bytes, delete, entry, put, range};

fn check(machine: &Machine, unfenced: &Machine) {
    assert!(machine.view().has_fences() && !unfenced.view().has_fences());
    let revision = machine.revision();
    for (key, end) in [
        ("\0", "\0"),
        ("k0100", "k2500"),
        ("k1", "k2"),
        ("k0007", "k0009"),
        ("z", "\0"),
    ] {
        for revision in [0, revision, revision - 1, revision - 40, revision - 900] {
            for limit in [0, 1, 600] {
                for count_only in [false, true] {
                    let request = RangeRequest {
                        revision,
                        limit,
                        count_only,
                        ..range(key, end)
                    };
                    assert_eq!(machine.range(request.clone()), unfenced.range(request));
                }
            }
        }
        let interval = KeyRange::new(&bytes(key), &bytes(end));
        let counts = |machine: &Machine| machine.view().count(&interval, 0).unwrap();
        assert_eq!(counts(machine), counts(unfenced));
    }
}

#[test]
fn fences_count_as_a_scan_does_from_the_first_key_on_and_after_a_restart() {
    let disk = MemoryDisk::default();
    let mut machine = Machine::new(MemoryEngine::open(&disk), Config::default());
    assert!(
        machine.view().has_fences(),
        "a store without keys needs no building"
    );
    let puts: Vec<_> = (0..4000)
        .map(|n| entry(n + 1, Kind::Put, &put(&format!("k{n:04}"), "v")))
        .collect();
    machine.step(&puts);
    machine.delete("k1", "k15");
    let unfenced = Machine::new(MemoryEngine::open(&disk), Config::default());
    check(&machine, &unfenced);
    drop(machine);

    let mut machine = Machine::new(MemoryEngine::open(&disk), Config::default());
    assert!(!machine.view().has_fences());
    let builder = machine.store.fence_builder();
    // Life goes on while they are built.
    let mut changes = Vec::new();
    for n in 0..700 {
        let index = machine.next_index() + n;
        changes.push(match n % 3 {
            0 => entry(
                index,
                Kind::DeleteRange,
                &delete(&format!("k{:04}", 4 * n), ""),
            ),
            1 => entry(index, Kind::Put, &put(&format!("k{:04}x", n / 2), "new")),
            _ => entry(index, Kind::Put, &put(&format!("k{:04}", n), "over")),
        });
    }
    machine.step(&changes);
    let built = builder.build().unwrap();
    assert!(machine.store.install_fences(built).unwrap());
    let unfenced = Machine::new(MemoryEngine::open(&disk), Config::default());
    check(&machine, &unfenced);
    machine.put("k3", "v");
    let unfenced = Machine::new(MemoryEngine::open(&disk), Config::default());
    check(&machine, &unfenced);
}

#[test]
fn fences_of_an_overtaken_build_are_not_installed() {
    let disk = MemoryDisk::default();
    Machine::new(MemoryEngine::open(&disk), Config::default()).put("k", "v");
    let mut machine = Machine::new(MemoryEngine::open(&disk), Config::default());
    let first = machine.store.fence_builder();
    machine.delete("k", "");
    let second = machine.store.fence_builder();
    assert!(
        !machine
            .store
            .install_fences(first.build().unwrap())
            .unwrap()
    );
    assert!(!machine.view().has_fences());
    assert!(
        machine
            .store
            .install_fences(second.build().unwrap())
            .unwrap()
    );
    assert_eq!(
        machine
            .range(RangeRequest {
                count_only: true,
                ..all()
            })
            .unwrap()
            .count,
        0
    );
}

#[test]
fn a_view_keeps_the_fences_of_its_moment() {
    let mut machine = super::harness::fresh();
    machine.put("a", "v");
    let before = machine.view();
    machine.put("b", "v");
    machine.delete("a", "");
    machine.put("c", "v");
    let count = |view: &kvnode_store::View<_>| view.count(&KeyRange::all(), 0).unwrap();
    assert_eq!((count(&before), count(&machine.view())), (1, 2));
}
