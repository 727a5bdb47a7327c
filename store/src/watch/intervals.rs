//! Which intervals hold a key: a treap ordered by start, where every node knows how far the
//! intervals below it reach.
//!
//! Equal intervals share a node. Finding the m intervals around a key among n takes about
//! O(log n + m) when they are disjoint or nested, as prefixes are, and never more than
//! O(m log n). Priorities come from a counter scrambled by a fixed function, so the shape does
//! not depend on chance; a client that could choose the order of millions of creates to unbalance
//! it would only slow its own executor.

use bytes::Bytes;
use kvnode_api::KeyRange;

const NIL: u32 = u32::MAX;

/// Exclusive end; in the order of how far it reaches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Open,
}

impl End {
    fn is_beyond(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < end.as_ref(),
            End::Open => true,
        }
    }
}

#[derive(Debug)]
struct Node<T> {
    start: Bytes,
    end: End,
    /// The furthest end in this node's subtree, itself included.
    reach: End,
    values: Vec<T>,
    priority: u64,
    left: u32,
    right: u32,
}

/// Values attached to intervals of keys.
#[derive(Debug)]
pub(super) struct Intervals<T> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    root: u32,
    inserted: u64,
}

impl<T: Copy + PartialEq> Intervals<T> {
    pub fn new() -> Intervals<T> {
        Intervals {
            nodes: Vec::new(),
            free: Vec::new(),
            root: NIL,
            inserted: 0,
        }
    }

    /// Attaches a value to an interval.
    pub fn insert(&mut self, range: &KeyRange, value: T) {
        let (start, end) = parts(range);
        match self.find(&start, &end) {
            NIL => {
                let (left, right) = self.split(self.root, &start, &end);
                let node = self.new_node(start, end, value);
                let left = self.merge(left, node);
                self.root = self.merge(left, right);
            }
            found => self.nodes[found as usize].values.push(value),
        }
    }

    /// Detaches a value from an interval.
    pub fn remove(&mut self, range: &KeyRange, value: T) {
        let (start, end) = parts(range);
        let found = self.find(&start, &end);
        if found == NIL {
            return;
        }
        let values = &mut self.nodes[found as usize].values;
        values.retain(|attached| *attached != value);
        if values.is_empty() {
            self.root = self.unlink(self.root, &start, &end);
            // Keys are let go of now, not when the place is used again.
            let node = &mut self.nodes[found as usize];
            (node.start, node.end, node.reach) = (Bytes::new(), End::Open, End::Open);
            self.free.push(found);
        }
    }

    /// The values attached to exactly this interval.
    pub fn at(&self, range: &KeyRange) -> &[T] {
        let (start, end) = parts(range);
        match self.find(&start, &end) {
            NIL => &[],
            found => &self.nodes[found as usize].values,
        }
    }

    /// Shows every value whose interval holds `key`.
    pub fn stab(&self, key: &[u8], mut show: impl FnMut(T)) {
        self.stab_below(self.root, key, &mut show);
    }

    fn stab_below(&self, mut at: u32, key: &[u8], show: &mut impl FnMut(T)) {
        while at != NIL {
            let node = &self.nodes[at as usize];
            if !node.reach.is_beyond(key) {
                return;
            }
            if node.start.as_ref() > key {
                at = node.left;
                continue;
            }
            self.stab_below(node.left, key, show);
            if node.end.is_beyond(key) {
                node.values.iter().for_each(|value| show(*value));
            }
            at = node.right;
        }
    }

    fn find(&self, start: &Bytes, end: &End) -> u32 {
        let mut at = self.root;
        while at != NIL {
            let node = &self.nodes[at as usize];
            at = match (start, end).cmp(&(&node.start, &node.end)) {
                std::cmp::Ordering::Less => node.left,
                std::cmp::Ordering::Equal => return at,
                std::cmp::Ordering::Greater => node.right,
            };
        }
        NIL
    }

    fn new_node(&mut self, start: Bytes, end: End, value: T) -> u32 {
        self.inserted += 1;
        let node = Node {
            start,
            reach: end.clone(),
            end,
            values: vec![value],
            priority: scramble(self.inserted),
            left: NIL,
            right: NIL,
        };
        if let Some(index) = self.free.pop() {
            self.nodes[index as usize] = node;
            return index;
        }
        let index = u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes fit in memory");
        self.nodes.push(node);
        index
    }

    /// Parts a subtree into what lies before (start, end) and the rest.
    fn split(&mut self, at: u32, start: &Bytes, end: &End) -> (u32, u32) {
        if at == NIL {
            return (NIL, NIL);
        }
        let node = &self.nodes[at as usize];
        if (&node.start, &node.end) < (start, end) {
            let (left, right) = self.split(node.right, start, end);
            self.nodes[at as usize].right = left;
            self.update(at);
            (at, right)
        } else {
            let (left, right) = self.split(node.left, start, end);
            self.nodes[at as usize].left = right;
            self.update(at);
            (left, at)
        }
    }

    /// Joins two subtrees, all of `left` lying before all of `right`.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NIL {
            return right;
        }
        if right == NIL {
            return left;
        }
        let (l, r) = (&self.nodes[left as usize], &self.nodes[right as usize]);
        if l.priority >= r.priority {
            self.nodes[left as usize].right = self.merge(l.right, right);
            self.update(left);
            left
        } else {
            self.nodes[right as usize].left = self.merge(left, r.left);
            self.update(right);
            right
        }
    }

    /// Takes one node out of a subtree and returns the new top.
    fn unlink(&mut self, at: u32, start: &Bytes, end: &End) -> u32 {
        if at == NIL {
            return NIL;
        }
        let node = &self.nodes[at as usize];
        match (start, end).cmp(&(&node.start, &node.end)) {
            std::cmp::Ordering::Equal => return self.merge(node.left, node.right),
            std::cmp::Ordering::Less => {
                self.nodes[at as usize].left = self.unlink(node.left, start, end);
            }
            std::cmp::Ordering::Greater => {
                self.nodes[at as usize].right = self.unlink(node.right, start, end);
            }
        }
        self.update(at);
        at
    }

    fn update(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let below = [node.left, node.right]
            .into_iter()
            .filter(|child| *child != NIL);
        let reach = below
            .map(|child| &self.nodes[child as usize].reach)
            .chain([&node.end])
            .max()
            .expect("the node itself is among them")
            .clone();
        self.nodes[at as usize].reach = reach;
    }
}

fn parts(range: &KeyRange) -> (Bytes, End) {
    (
        range.start().clone(),
        range.end().map_or(End::Open, End::Before),
    )
}

/// Spreads a counter over all 64 bits (the finisher of splitmix64).
fn scramble(counter: u64) -> u64 {
    let mut x = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl<T: Copy + PartialEq> Intervals<T> {
        fn depth(&self, at: u32) -> usize {
            if at == NIL {
                return 0;
            }
            let node = &self.nodes[at as usize];
            1 + self.depth(node.left).max(self.depth(node.right))
        }

        fn assert_sound(&self, at: u32) -> Option<End> {
            if at == NIL {
                return None;
            }
            let node = &self.nodes[at as usize];
            let below = [self.assert_sound(node.left), self.assert_sound(node.right)];
            for child in [node.left, node.right] {
                assert!(child == NIL || self.nodes[child as usize].priority <= node.priority);
            }
            let reach = below
                .into_iter()
                .flatten()
                .chain([node.end.clone()])
                .max()
                .unwrap();
            assert_eq!(node.reach, reach);
            Some(reach)
        }
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = || proptest::string::string_regex("[a-d]{1,3}").unwrap();
        prop_oneof![
            4 => (key(), key()).prop_map(|(start, end)| {
                KeyRange::Interval { start: start.into(), end: end.into() }
            }),
            1 => key().prop_map(|start| KeyRange::From(start.into())),
        ]
    }

    proptest! {
        #[test]
        fn stabbing_finds_what_a_list_would(
            steps in proptest::collection::vec((range(), 0u32..4, any::<bool>()), 1..80),
            keys in proptest::collection::vec("[a-e]{1,4}", 1..20),
        ) {
            let mut tree = Intervals::new();
            let mut list: Vec<(KeyRange, u32)> = Vec::new();
            for (range, value, insert) in steps {
                let entry = (range.clone(), value);
                let known = list.iter().position(|other| *other == entry);
                match (insert, known) {
                    (true, None) => {
                        tree.insert(&range, value);
                        list.push(entry);
                    }
                    (false, Some(position)) => {
                        tree.remove(&range, value);
                        list.remove(position);
                    }
                    _ => {}
                }
                tree.assert_sound(tree.root);
            }
            for key in keys {
                let mut found = Vec::new();
                tree.stab(key.as_bytes(), |value| found.push(value));
                let mut wanted: Vec<_> = list
                    .iter()
                    .filter(|(range, _)| range.contains(key.as_bytes()))
                    .map(|(_, value)| *value)
                    .collect();
                found.sort_unstable();
                wanted.sort_unstable();
                prop_assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn ordered_inserts_stay_shallow() {
        let mut tree = Intervals::new();
        let range = |i: u32| KeyRange::Interval {
            start: format!("p{i:06}/").into(),
            end: format!("p{i:06}0").into(),
        };
        for i in 0..10_000 {
            tree.insert(&range(i), i);
        }
        assert!(
            tree.depth(tree.root) < 50,
            "depth {}",
            tree.depth(tree.root)
        );
        let mut found = Vec::new();
        tree.stab(b"p001234/x", |value| found.push(value));
        assert_eq!(found, [1234]);
        for i in 0..10_000 {
            tree.remove(&range(i), i);
        }
        assert_eq!((tree.root, tree.free.len()), (NIL, 10_000));
    }
}
