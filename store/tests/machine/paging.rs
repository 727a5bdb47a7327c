//! Ranges as bytes are the bytes of the structs, whatever was kept from earlier ranges.

use kvnode_api::{RangeRequest, ResponseHeader, SortOrder, SortTarget, frame};
use kvnode_store::command::Kind;
use kvnode_store::engine::memory::{MemoryDisk, MemoryEngine};
use kvnode_store::{Config, View};

use super::harness::{Machine, all, delete, entry, put, range};

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn key(&mut self, keys: u64) -> String {
        format!("k{:05}", self.below(keys))
    }

    fn request(&mut self, keys: u64, revisions: std::ops::Range<i64>) -> RangeRequest {
        let start = self.key(keys);
        let end = match self.below(4) {
            0 => "\0".to_string(),
            1 => format!("{start}5"),
            _ => self.key(keys),
        };
        let past = revisions.start + self.below((revisions.end - revisions.start) as u64) as i64;
        let kind = self.below(12);
        RangeRequest {
            limit: [0, 0, 1, 40, 700, 2500][self.below(6) as usize],
            revision: if self.below(3) == 0 { past } else { 0 },
            keys_only: kind == 0,
            min_mod_revision: if kind == 1 { past } else { 0 },
            max_create_revision: if kind == 2 { past } else { 0 },
            sort_order: match kind {
                3 => SortOrder::Descend as i32,
                4 => SortOrder::Ascend as i32,
                _ => 0,
            },
            sort_target: if kind == 5 { SortTarget::Mod as i32 } else { 0 },
            count_only: kind == 6,
            ..range(&start, &end)
        }
    }
}

fn check<V: kvnode_store::engine::Reader>(view: &View<V>, request: &RangeRequest) {
    let header = ResponseHeader {
        cluster_id: 3,
        member_id: 4,
        raft_term: 5,
        ..Default::default()
    };
    let expected = view.range(request).and_then(|mut response| {
        let revision = view.revision();
        response.header = Some(ResponseHeader { revision, ..header });
        frame::encode(&response)
    });
    let framed = view.range_frame(request, &header);
    // Not assert_eq: the bytes would fill screens.
    assert!(framed == expected, "{request:?} at {}", view.revision());
}

/// Writes and ranges in turn, on `keys` keys, with pages of `page_bytes_max` and held views.
fn run(seed: u64, page_bytes_max: usize, value_bytes: usize) {
    const KEYS: u64 = 6000;
    let config = Config {
        page_bytes_max,
        ..Config::default()
    };
    let disk = MemoryDisk::default();
    let mut machine = Machine::new(MemoryEngine::open(&disk), config.clone());
    let mut numbers = Numbers(seed);
    let value = "v".repeat(value_bytes);
    let mut held = Vec::new();
    for round in 0..60 {
        let writes: Vec<_> = (0..if round < 4 { 1500 } else { numbers.below(8) })
            .map(|n| {
                let index = machine.next_index() + n;
                match numbers.below(10) {
                    0 => entry(
                        index,
                        Kind::DeleteRange,
                        &delete(&numbers.key(KEYS), &numbers.key(KEYS)[..4]),
                    ),
                    1 => entry(index, Kind::DeleteRange, &delete(&numbers.key(KEYS), "")),
                    _ => entry(index, Kind::Put, &put(&numbers.key(KEYS), &value)),
                }
            })
            .collect();
        machine.step(&writes);
        if round == 20 {
            drop(std::mem::take(&mut held));
            machine = Machine::new(MemoryEngine::open(&disk), config.clone());
        }
        if round == 30 {
            let builder = machine.store.fence_builder();
            machine.put(&numbers.key(KEYS), "between");
            machine.put(&numbers.key(KEYS), "between");
            assert!(
                machine
                    .store
                    .install_fences(builder.build().unwrap())
                    .unwrap()
            );
        }
        if round == 45 {
            machine.compact(machine.revision() - 3).unwrap();
            machine.compact_physically();
        }
        let newest = machine.view();
        for _ in 0..6 {
            let view = match numbers.below(4) {
                0 if !held.is_empty() => &held[numbers.below(held.len() as u64) as usize],
                _ => &newest,
            };
            let first = view.compact_revision().max(1);
            check(view, &numbers.request(KEYS, first..view.revision() + 2));
        }
        check(&newest, &all());
        if round % 4 == 0 {
            held.push(newest);
        }
    }
}

#[test]
fn a_range_as_bytes_is_its_structs_encoded_however_often_it_was_asked() {
    for seed in 0..3 {
        run(seed, 64 << 20, 30);
    }
}

#[test]
fn so_it_is_when_pages_are_too_few_or_buckets_too_long_for_them() {
    run(10, 40_000, 30);
    run(11, 0, 30);
    run(12, 64 << 20, 12_000);
}
