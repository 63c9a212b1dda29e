//! Who uses which index: allocators for ids, descriptors, backends and slot ranges.
//!
//! An index that is given back here must already have had its grace period: that is the
//! quarantine's job ([`super::quarantine`]).

use std::collections::{BTreeMap, BTreeSet};

/// Indices from 1 (0 means "none" in every map) below a capacity, lowest first.
#[derive(Debug)]
pub(super) struct IndexPool {
    /// All from here on are unused.
    next: u32,
    capacity: u32,
    free: BTreeSet<u32>,
}

impl IndexPool {
    pub(super) fn new(capacity: u32) -> Self {
        Self { next: 1, capacity, free: BTreeSet::new() }
    }

    /// An unused index; None if there is none left.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop_first().or_else(|| {
            let index = self.next;
            (index < self.capacity).then(|| {
                self.next += 1;
                index
            })
        })
    }

    /// Marks an index as used that an earlier agent has taken.
    pub(super) fn reserve(&mut self, index: u32) {
        while self.next <= index && self.next < self.capacity {
            self.free.insert(self.next);
            self.next += 1;
        }
        self.free.remove(&index);
    }

    pub(super) fn give_back(&mut self, index: u32) {
        debug_assert!(index < self.next && !self.free.contains(&index), "{index} was not in use");
        self.free.insert(index);
    }

    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.next as usize - 1 - self.free.len()
    }
}

/// Backend indices and the generation that each has reached.
#[derive(Debug)]
pub(super) struct BackendPool {
    indices: IndexPool,
    generations: Vec<u32>,
}

impl BackendPool {
    pub(super) fn new(capacity: u32) -> Self {
        Self { indices: IndexPool::new(capacity), generations: Vec::new() }
    }

    /// An unused index and a generation that this index never had.
    pub(super) fn take(&mut self) -> Option<(u32, u32)> {
        let index = self.indices.take()?;
        let generation = self.generation(index).wrapping_add(1).max(1);
        *self.slot(index) = generation;
        Some((index, generation))
    }

    pub(super) fn reserve(&mut self, index: u32, generation: u32) {
        self.indices.reserve(index);
        *self.slot(index) = generation;
    }

    pub(super) fn give_back(&mut self, index: u32) {
        self.indices.give_back(index);
    }

    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.indices.in_use()
    }

    fn generation(&self, index: u32) -> u32 {
        self.generations.get(index as usize).copied().unwrap_or(0)
    }

    fn slot(&mut self, index: u32) -> &mut u32 {
        let index = index as usize;
        if self.generations.len() <= index {
            self.generations.resize(index + 1, 0);
        }
        &mut self.generations[index]
    }
}

/// A run of slots; an empty one takes no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// Slot ranges, best fit, neighbours joined when they come back.
#[derive(Debug)]
pub(super) struct RangePool {
    by_first: BTreeMap<u32, u32>,
    by_count: BTreeSet<(u32, u32)>,
}

impl RangePool {
    pub(super) fn new(capacity: u32) -> Self {
        let mut pool = Self { by_first: BTreeMap::new(), by_count: BTreeSet::new() };
        pool.insert(Range { first: 0, count: capacity });
        pool
    }

    pub(super) fn take(&mut self, count: u32) -> Option<Range> {
        if count == 0 {
            return Some(Range::default());
        }
        let &(size, first) = self.by_count.range((count, 0)..).next()?;
        self.remove(Range { first, count: size });
        self.insert(Range { first: first + count, count: size - count });
        Some(Range { first, count })
    }

    /// Marks a range as used that an earlier agent has taken; what of it is already used stays so.
    pub(super) fn reserve(&mut self, range: Range) {
        let end = range.first + range.count;
        let touching: Vec<Range> = self
            .by_first
            .range(..end)
            .map(|(&first, &count)| Range { first, count })
            .filter(|free| free.first + free.count > range.first)
            .collect();
        for free in touching {
            self.remove(free);
            let before = range.first.saturating_sub(free.first);
            let after = (free.first + free.count).saturating_sub(end);
            self.insert(Range { first: free.first, count: before });
            self.insert(Range { first: end, count: after });
        }
    }

    pub(super) fn give_back(&mut self, range: Range) {
        if range.count == 0 {
            return;
        }
        let mut joined = range;
        let before = self.by_first.range(..range.first).next_back().map(|(&f, &c)| (f, c));
        if let Some((first, count)) = before
            && first + count == range.first
        {
            self.remove(Range { first, count });
            joined = Range { first, count: count + joined.count };
        }
        let end = range.first + range.count;
        if let Some(&count) = self.by_first.get(&end) {
            self.remove(Range { first: end, count });
            joined.count += count;
        }
        self.insert(joined);
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> u32 {
        self.by_first.values().sum()
    }

    fn insert(&mut self, range: Range) {
        if range.count > 0 {
            self.by_first.insert(range.first, range.count);
            self.by_count.insert((range.count, range.first));
        }
    }

    fn remove(&mut self, range: Range) {
        self.by_first.remove(&range.first);
        self.by_count.remove(&(range.count, range.first));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_restored_index_is_not_given_out() {
        let mut pool = IndexPool::new(10);
        pool.reserve(3);
        let taken: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(taken, [1, 2, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_backend_index_never_has_the_same_generation_twice() {
        let mut pool = BackendPool::new(10);
        pool.reserve(1, 7);
        pool.give_back(1);
        assert_eq!(pool.take(), Some((1, 8)));
    }

    proptest! {
        #[test]
        fn slot_ranges_never_overlap_and_all_come_back(
            steps in prop::collection::vec((1u32..20, any::<bool>()), 1..200),
        ) {
            let mut pool = RangePool::new(256);
            pool.reserve(Range { first: 100, count: 10 });
            let mut held = vec![Range { first: 100, count: 10 }];
            for (count, release) in steps {
                if release && !held.is_empty() {
                    let range = held.swap_remove(count as usize % held.len());
                    pool.give_back(range);
                } else if let Some(range) = pool.take(count) {
                    let apart = |other: &Range| {
                        range.first + range.count <= other.first
                            || other.first + other.count <= range.first
                    };
                    prop_assert!(held.iter().all(apart), "{range:?} overlaps one of {held:?}");
                    held.push(range);
                }
            }
            held.into_iter().for_each(|range| pool.give_back(range));
            prop_assert_eq!(pool.free(), 256);
            prop_assert_eq!(pool.by_first.len(), 1);
        }
    }
}
