//! A set of log positions, stored as ranges. It needs little memory even for a long log.

/// Ascending ranges that do not touch; both ends are included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PositionRanges(Vec<(u64, u64)>);

impl PositionRanges {
    pub(crate) fn insert(&mut self, position: u64) {
        // Positions normally arrive in order.
        if let Some(last) = self.0.last_mut()
            && last.0 <= position
        {
            if position == last.1 + 1 {
                last.1 = position;
            } else if position > last.1 {
                self.0.push((position, position));
            }
            return;
        }
        let index = self.0.partition_point(|range| range.1 < position);
        if self.0.get(index).is_some_and(|range| range.0 <= position) {
            return;
        }
        let joins_before = index > 0 && self.0[index - 1].1 + 1 == position;
        let joins_after = self.0.get(index).is_some_and(|range| range.0 == position + 1);
        match (joins_before, joins_after) {
            (true, true) => {
                self.0[index - 1].1 = self.0[index].1;
                self.0.remove(index);
            }
            (true, false) => self.0[index - 1].1 = position,
            (false, true) => self.0[index].0 = position,
            (false, false) => self.0.insert(index, (position, position)),
        }
    }

    /// The positions from 1 to `upto` that are not in the set.
    pub(super) fn missing(&self, upto: u64) -> Self {
        let mut missing = Vec::new();
        let mut next = 1;
        for (from, to) in self.0.iter().copied().take_while(|range| range.0 <= upto) {
            if from > next {
                missing.push((next, from - 1));
            }
            next = to + 1;
        }
        if next <= upto {
            missing.push((next, upto));
        }
        Self(missing)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of positions.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from + 1).sum()
    }

    /// The first position, if the set is one range that ends at `end`.
    pub(super) fn tail_up_to(&self, end: u64) -> Option<u64> {
        match self.0.as_slice() {
            [(from, to)] if *to == end => Some(*from),
            _ => None,
        }
    }

    /// All positions in ascending order.
    pub(super) fn positions(&self) -> impl Iterator<Item = u64> + Send + '_ {
        self.0.iter().flat_map(|(from, to)| *from..=*to)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(positions in proptest::collection::vec(1u64..60, 0..80), upto in 0u64..70) {
            let mut ranges = PositionRanges::default();
            for position in &positions {
                ranges.insert(*position);
            }
            let set: BTreeSet<u64> = positions.into_iter().collect();
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            prop_assert_eq!(ranges.positions().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(ranges.count(), set.len() as u64);
            let missing: Vec<u64> = (1..=upto).filter(|position| !set.contains(position)).collect();
            prop_assert_eq!(ranges.missing(upto).positions().collect::<Vec<_>>(), missing);
        }
    }

    #[test]
    fn a_tail_is_one_range_at_the_end() {
        let mut ranges = PositionRanges::default();
        for position in 1..=4 {
            ranges.insert(position);
        }
        assert_eq!(ranges.missing(9).tail_up_to(9), Some(5));
        ranges.insert(7);
        assert_eq!(ranges.missing(9).tail_up_to(9), None);
        assert!(ranges.missing(4).is_empty());
    }
}
