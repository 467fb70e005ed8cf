//! The most value within a budget.

/// Items and places up to which the best choice is computed; beyond, the best by value for weight are taken.
const MOST_ITEMS: usize = 100;
/// See [`MOST_ITEMS`].
const MOST_CAPACITY: usize = 2000;

/// The items, each a weight and a value, that are worth most within `capacity` together, in ascending order.
///
/// Up to 100 items and a capacity of 2,000 this is exact, and takes nothing that is worth nothing; beyond it takes the best
/// by value for weight that fit, also what is worth nothing.
#[must_use]
pub fn knapsack(items: &[(usize, f64)], capacity: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    let ratio = |&index: &usize| items[index].1 / items[index].0.max(1) as f64;
    order.sort_by(|a, b| ratio(b).total_cmp(&ratio(a)));
    let mut taken = match items.len() <= MOST_ITEMS && capacity <= MOST_CAPACITY {
        true => exact(items, &order, capacity),
        false => greedy(items, &order, capacity),
    };
    taken.sort_unstable();
    taken
}

fn exact(items: &[(usize, f64)], order: &[usize], capacity: usize) -> Vec<usize> {
    let width = capacity + 1;
    let mut best = vec![0.0_f64; (order.len() + 1) * width];
    for (row, &index) in order.iter().enumerate() {
        let (weight, value) = items[index];
        for room in 0..width {
            let without = best[row * width + room];
            let with = if weight <= room { best[row * width + room - weight] + value } else { without };
            best[(row + 1) * width + room] = without.max(with);
        }
    }
    let mut room = capacity;
    let mut taken = Vec::new();
    for (row, &index) in order.iter().enumerate().rev() {
        if best[(row + 1) * width + room] != best[row * width + room] {
            taken.push(index);
            room -= items[index].0;
        }
    }
    taken
}

fn greedy(items: &[(usize, f64)], order: &[usize], capacity: usize) -> Vec<usize> {
    let mut left = capacity;
    let mut taken = Vec::new();
    for &index in order {
        if let Some(rest) = left.checked_sub(items[index].0) {
            left = rest;
            taken.push(index);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_choice_that_fits_is_worth_more(
            items in prop::collection::vec((0_usize..12, -2.0..3.0_f64), 0..10), capacity in 0_usize..40,
        ) {
            let sum = |chosen: &[usize]| chosen.iter().fold((0, 0.0), |(w, v), &i| (w + items[i].0, v + items[i].1));
            let (weight, value) = sum(&knapsack(&items, capacity));
            prop_assert!(weight <= capacity);
            for mask in 0_u32..1 << items.len() {
                let chosen: Vec<usize> = (0..items.len()).filter(|i| mask >> i & 1 == 1).collect();
                let (other, most) = sum(&chosen);
                prop_assert!(other > capacity || most <= value + 1e-9, "{chosen:?}");
            }
        }
    }

    #[test]
    fn what_is_too_much_to_try_is_filled_by_value_for_weight() {
        let items: Vec<(usize, f64)> = (0..200).map(|index| (10, f64::from(index))).collect();
        assert_eq!(knapsack(&items, 35), [197, 198, 199]);
    }
}
