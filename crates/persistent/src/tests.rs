use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Edit {
    Insert(u16, u8),
    Remove(u16),
    /// The version so far is kept, to be compared with later ones.
    Keep,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let key = prop_oneof![0..40u16, 0..2000u16];
    let edit = prop_oneof![
        6 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Edit::Insert(key, value)),
        5 => key.prop_map(Edit::Remove),
        1 => Just(Edit::Keep),
    ];
    prop::collection::vec(edit, 0..400)
}

fn check(map: &Map<u16, u8>, model: &BTreeMap<u16, u8>) {
    assert_eq!(map.len(), model.len());
    assert!(map.iter().eq(model), "{map:?} {model:?}");
    for key in (0..2000).step_by(97) {
        assert_eq!(map.get(&key), model.get(&key));
        assert!(map.from(&key).eq(model.range(key..)));
    }
    depth(&map.root, true);
}

/// Levels below a node. All leaves are at one depth, and no node is too large or, below the root, empty.
fn depth(node: &Node<u16, u8>, root: bool) -> usize {
    match node {
        Node::Leaf(entries) => {
            assert!(entries.len() <= node::MOST && (root || !entries.is_empty()));
            0
        }
        Node::Inner(children) => {
            assert!((if root { 2 } else { 1 }..=node::MOST).contains(&children.len()));
            let depths: Vec<usize> = children.iter().map(|(_, child)| depth(child, false)).collect();
            assert!(depths.iter().all(|depth| *depth == depths[0]));
            depths[0] + 1
        }
    }
}

fn difference(old: &BTreeMap<u16, u8>, new: &BTreeMap<u16, u8>) -> Vec<(u16, Option<u8>, Option<u8>)> {
    let keys: std::collections::BTreeSet<u16> = old.keys().chain(new.keys()).copied().collect();
    let pairs = keys.into_iter().map(|key| (key, old.get(&key).copied(), new.get(&key).copied()));
    pairs.filter(|(_, old, new)| old != new).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_map_is_a_map_and_so_is_every_version_of_it(first in prop::collection::btree_map(0..2000u16, any::<u8>(), 0..300), edits in edits()) {
        let mut model = first;
        let mut map: Map<u16, u8> = model.iter().map(|(key, value)| (*key, *value)).collect();
        let mut kept = vec![(map.clone(), model.clone())];
        for edit in edits {
            match edit {
                Edit::Insert(key, value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                Edit::Remove(key) => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                Edit::Keep => kept.push((map.clone(), model.clone())),
            }
        }
        kept.push((map, model));
        for (map, model) in &kept {
            check(map, model);
        }
        let (first, last) = (&kept[0], &kept[kept.len() - 1]);
        let steps = kept.windows(2).map(|step| (&step[0], &step[1]));
        for ((old, of_old), (new, of_new)) in steps.chain([(first, last), (last, first)]) {
            let found: Vec<_> =
                old.diff(new, |a, b| a == b).map(|(key, a, b)| (*key, a.copied(), b.copied())).collect();
            prop_assert_eq!(found, difference(of_old, of_new));
            prop_assert_eq!(old == new, of_old == of_new);
        }
    }
}

#[test]
fn what_is_taken_out_leaves_nothing_behind() {
    // Whole nodes between large ones, from either end and from the middle.
    for gone in [24..48u16, 0..24, 48..72, 0..2000, 600..1300, 1..1999] {
        let mut model: BTreeMap<u16, u8> = (0..2000).map(|key| (key, 0)).collect();
        let mut map: Map<u16, u8> = model.iter().map(|(key, value)| (*key, *value)).collect();
        for key in gone.clone() {
            map.remove(&key);
            model.remove(&key);
        }
        check(&map, &model);
        for key in gone {
            map.insert(key, 1);
            model.insert(key, 1);
        }
        check(&map, &model);
    }
}

#[test]
fn of_entries_with_one_key_the_last_counts() {
    let map: Map<u8, char> = [(2, 'a'), (1, 'b'), (2, 'c')].into_iter().collect();
    assert!(map.iter().eq(&BTreeMap::from([(1, 'b'), (2, 'c')])));
}

/// A value that counts its copies.
struct Counted<'a>(&'a Cell<usize>);

impl Clone for Counted<'_> {
    fn clone(&self) -> Self {
        self.0.set(self.0.get() + 1);
        Self(self.0)
    }
}

#[test]
fn a_change_and_finding_it_cost_the_same_in_any_map() {
    let costs = [1_000, 100_000].map(|size| {
        let copies = Cell::new(0);
        let map: Map<u32, Counted<'_>> = (0..size).map(|key| (key, Counted(&copies))).collect();
        assert_eq!(copies.get(), 0);
        let mut later = map.clone();
        later.insert(size / 2, Counted(&copies));
        let compared = Cell::new(0);
        let found = map.diff(&later, |_, _| {
            compared.set(compared.get() + 1);
            false
        });
        assert!(found.count() <= node::MOST);
        assert!(compared.get() <= node::MOST, "{}", compared.get());
        // No other map has these nodes.
        let before = copies.get();
        later.insert(size / 2, Counted(&copies));
        assert_eq!(copies.get(), before);
        before
    });
    assert!(costs.iter().all(|copied| *copied <= node::MOST), "{costs:?}");
}
