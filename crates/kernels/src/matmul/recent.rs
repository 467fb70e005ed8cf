//! What was used last, and not more of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// Up to `capacity` values by key; the one that has not been used for longest makes room.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    values: HashMap<K, (u64, V)>,
    uses: u64,
    capacity: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { values: HashMap::new(), uses: 0, capacity }
    }

    /// The value of a key, which `make` makes where there is none.
    pub(super) fn get_or_make<E>(
        &mut self,
        key: K,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<&mut V, E> {
        self.uses += 1;
        if !self.values.contains_key(&key) && self.values.len() >= self.capacity {
            let oldest = self.values.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            oldest.map(|key| self.values.remove(&key));
        }
        let (used, value) = match self.values.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(empty) => empty.insert((0, make()?)),
        };
        *used = self.uses;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::Recent;

    #[test]
    fn the_least_recently_used_value_makes_room() {
        let mut recent = Recent::new(3);
        let mut made = Vec::new();
        let mut get = |key: u32| {
            let made = &mut made;
            let value = recent.get_or_make(key, || {
                made.push(key);
                Ok::<_, Infallible>(10 * key)
            });
            assert_eq!(value, Ok(&mut (10 * key)));
        };
        // 2 is older than 1 when 4 comes, and 3 is older than 1 when 2 comes back.
        [1, 2, 3, 1, 4, 1, 2, 4, 1].into_iter().for_each(&mut get);
        assert_eq!(made, [1, 2, 3, 4, 2]);
        assert_eq!(recent.values.len(), 3);
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let mut recent = Recent::<u32, u32>::new(1);
        assert_eq!(recent.get_or_make(1, || Err("no")), Err("no"));
        assert_eq!(recent.get_or_make(1, || Ok::<_, &str>(5)), Ok(&mut 5));
    }
}
