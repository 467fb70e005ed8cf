//! One layer's shift: the most that it may keep without keeping more than its target.

use crate::TrainError;

/// How far from where training left it a shift is looked for, at first; doubled until the target lies between.
const REACH: f64 = 0.5;
const DOUBLINGS: usize = 10;
/// How near the shifts on both sides of the target are brought to each other.
const RESOLUTION: f64 = REACH / 256.0;

/// A shift that was tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tried {
    pub(super) shift: f64,
    pub(super) keep: f64,
}

/// The best shift that was found for a layer that training left at `trained`; `keep` measures the layer's keep ratio.
///
/// Only what was measured is given: of the shifts tried that keep at most `target` the one that keeps most, and where
/// none does, the one that keeps least. Among equals it is the nearest to `trained`. Where `keep` falls as shifts grow,
/// those tried come to within a 512th of where it passes the target; where it does not, what is given is no less true.
pub(super) fn best(
    trained: f64,
    target: f64,
    keep: &mut dyn FnMut(f32) -> Result<f64, TrainError>,
) -> Result<Tried, TrainError> {
    let mut all = Vec::new();
    let mut is_enough = |shift: f64| -> Result<bool, TrainError> {
        // What is written is f32, so nothing else is tried.
        let shift = shift as f32;
        let keep = keep(shift)?;
        all.push(Tried { shift: f64::from(shift), keep });
        Ok(keep <= target)
    };
    let (mut low, mut high) = (trained, trained);
    let begins_enough = is_enough(trained)?;
    let mut reach = REACH;
    for _ in 0..DOUBLINGS {
        if begins_enough {
            low -= reach;
            if !is_enough(low)? {
                break;
            }
            high = low;
        } else {
            high += reach;
            if is_enough(high)? {
                break;
            }
            low = high;
        }
        reach *= 2.0;
    }
    while high - low > RESOLUTION {
        let middle = f64::midpoint(low, high);
        *(if is_enough(middle)? { &mut high } else { &mut low }) = middle;
    }
    let nearness = |tried: &Tried| -(tried.shift - trained).abs();
    let enough = all.iter().filter(|tried| tried.keep <= target);
    let most = enough.max_by(|a, b| a.keep.total_cmp(&b.keep).then(nearness(a).total_cmp(&nearness(b))));
    let least =
        || all.iter().max_by(|a, b| b.keep.total_cmp(&a.keep).then(nearness(a).total_cmp(&nearness(b))));
    let none = Tried { shift: trained, keep: 1.0 };
    Ok(most.or_else(least).copied().unwrap_or(none))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(trained: f64, target: f64, keep: impl Fn(f64) -> f64) -> Tried {
        let found = best(trained, target, &mut |shift| Ok(keep(f64::from(shift)))).unwrap();
        assert_eq!(found.keep, keep(found.shift), "what is said was measured");
        found
    }

    fn falling(middle: f64) -> impl Fn(f64) -> f64 {
        move |shift| 1.0 / (1.0 + (shift - middle).exp())
    }

    #[test]
    fn it_ends_just_below_the_target_from_either_side_and_from_afar() {
        for (trained, middle) in [(1.6, 1.0), (1.0, 1.0), (2.0, 40.0), (30.0, -40.0)] {
            let found = found(trained, 0.3, falling(middle));
            assert!((0.298..=0.3).contains(&found.keep), "{trained} {middle}: {found:?}");
        }
    }

    #[test]
    fn where_the_ratio_jumps_over_the_target_it_ends_on_the_lower_side() {
        for edge in [1.234, 3.0, 77.7] {
            let found = found(1.0, 0.4, |shift| if shift < edge { 0.7 } else { 0.2 });
            assert!(found.keep == 0.2 && (0.0..=0.002).contains(&(found.shift - edge)), "{found:?}");
        }
        // Nothing is won by going nearer to the edge.
        assert_eq!(found(1.0, 0.4, |shift| if shift < -7.5 { 0.7 } else { 0.2 }).shift, 1.0);
    }

    #[test]
    fn a_layer_that_keeps_little_enough_whatever_its_shift_stays() {
        assert_eq!(found(3.0, 0.2, |_| 0.1), Tried { shift: 3.0, keep: 0.1 });
    }

    #[test]
    fn a_target_out_of_reach_is_come_near_to() {
        assert_eq!(found(3.0, 0.2, |_| 1.0), Tried { shift: 3.0, keep: 1.0 });
        let floored = found(0.0, 0.2, |shift| falling(1.0)(shift).max(0.25));
        assert_eq!(floored.keep, 0.25);
    }

    proptest! {
        // Scores that pile up, a ratio that rises here and there: what is given keeps the promise all the same.
        #[test]
        fn a_ratio_that_does_not_fall_evenly_still_ends_at_most_at_the_target(
            steps in prop::collection::vec(0.0_f64..1.0, 1..40), trained in -4.0_f64..4.0, target in 0.05_f64..0.95,
        ) {
            let keep = |shift: f64| {
                let at = ((shift + 4.0) * 5.0).clamp(0.0, steps.len() as f64 - 1.0);
                steps[at as usize]
            };
            let found = found(trained, target, keep);
            if keep(f64::from(trained as f32)) <= target || keep(600.0) <= target {
                prop_assert!(found.keep <= target, "{found:?}");
            }
        }
    }
}
