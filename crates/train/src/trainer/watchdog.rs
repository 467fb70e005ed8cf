//! Notices layers that stopped deciding.

use crate::config;

/// Counts, for each layer, the steps in a row in which it kept next to nothing or everything although it should not.
#[derive(Debug)]
pub(super) struct Watchdog {
    limits: config::Watchdog,
    /// What the floors alone keep: a layer at this ratio has dropped everything that it could.
    floor: f64,
    /// Steps in a row, and whether it was said.
    empty: Vec<u64>,
    full: Vec<u64>,
}

/// How near the floor counts as at the floor.
const NEAR: f64 = 1.02;

impl Watchdog {
    pub(super) fn new(limits: &config::Watchdog, layers: usize, floor: f64) -> Self {
        Self { limits: limits.clone(), floor, empty: vec![0; layers], full: vec![0; layers] }
    }

    /// Takes in the keep ratios of a step, with what each layer should keep if that is known, and gives the warnings
    /// that are due: once per layer and collapse.
    pub(super) fn look(&mut self, keep: &[f64], targets: Option<&[f64]>) -> Vec<String> {
        let mut warnings = Vec::new();
        let lowest = self.limits.keep_below.max(self.floor * NEAR);
        for (layer, &keep) in keep.iter().enumerate() {
            let target = targets.and_then(|targets| targets.get(layer)).copied();
            let empty = keep < lowest && target.is_none_or(|target| target > 2.0 * lowest);
            let full = keep > self.limits.keep_above
                && target.is_none_or(|target| target < 0.9 * self.limits.keep_above);
            let cases = [
                (&mut self.empty, empty, "forgets everything that it may"),
                (&mut self.full, full, "forgets nothing"),
            ];
            for (counts, holds, what) in cases {
                let Some(count) = counts.get_mut(layer) else { continue };
                *count = if holds { *count + 1 } else { 0 };
                if *count == self.limits.patience.max(1) {
                    let asked = target.map_or_else(String::new, |target| format!(", asked for {target:.3}"));
                    warnings.push(format!(
                        "layer {layer} {what}: it kept {keep:.4} of the entries{asked} for {count} steps"
                    ));
                }
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collapsed_layer_is_named_once_and_again_after_it_recovered() {
        let limits = config::Watchdog { patience: 3, ..config::Watchdog::default() };
        let mut dog = Watchdog::new(&limits, 2, 0.03);
        let warned = |dog: &mut Watchdog, keep: [f64; 2]| dog.look(&keep, Some(&[0.2, 0.2]));
        assert!((0..2).all(|_| warned(&mut dog, [0.03, 0.2]).is_empty()));
        let said = warned(&mut dog, [0.03, 0.2]);
        assert!(said.len() == 1 && said[0].contains("layer 0 forgets everything"), "{said:?}");
        assert!(warned(&mut dog, [0.03, 0.2]).is_empty());
        assert!(warned(&mut dog, [0.2, 0.2]).is_empty());
        assert!((0..2).all(|_| warned(&mut dog, [0.2, 1.0]).is_empty()));
        assert!(warned(&mut dog, [0.2, 1.0])[0].contains("layer 1 forgets nothing"));
    }

    #[test]
    fn what_is_asked_for_is_no_collapse() {
        let limits = config::Watchdog { patience: 1, ..config::Watchdog::default() };
        let mut dog = Watchdog::new(&limits, 1, 0.03);
        assert!(dog.look(&[1.0], Some(&[0.98])).is_empty());
        assert!(dog.look(&[0.03], Some(&[0.05])).is_empty());
        // Without a target everything counts.
        assert_eq!(dog.look(&[1.0], None).len(), 1);
    }
}
