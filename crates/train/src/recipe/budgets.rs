//! How the layers should share a keep ratio, from what each loses when it alone is cut short.

/// What one layer loses when it alone keeps less: `(keep ratio, loss in nats)`, in ascending order of the ratio.
pub type Sensitivity = Vec<(f64, f64)>;

/// Parts in which the ratio is dealt out.
const STEPS: usize = 400;

/// The ratios per layer of mean `target` that lose the least in sum, by dealing out small parts, each to the layer
/// that it helps most.
///
/// Losses are read as straight lines over the logarithm of the ratio, made convex first, so that the greedy way is
/// the best one. Nothing is lost at a ratio of 1.
#[must_use]
pub fn share_out(layers: &[Sensitivity], target: f64) -> Vec<f64> {
    let least = layers.iter().filter_map(|layer| layer.first()).map(|point| point.0).fold(1.0, f64::min);
    let part = (1.0 - least) / STEPS as f64;
    let curves: Vec<Vec<f64>> = layers
        .iter()
        .map(|layer| convex((0..=STEPS).map(|step| loss(layer, least + part * step as f64)).collect()))
        .collect();
    let mut steps = vec![0; layers.len()];
    let parts = ((target - least).max(0.0) * layers.len() as f64 / part) as usize;
    for _ in 0..parts {
        let gain = |layer: usize| match steps[layer] {
            STEPS => f64::NEG_INFINITY,
            step => curves[layer][step] - curves[layer][step + 1],
        };
        if let Some(best) = (0..layers.len()).max_by(|&a, &b| gain(a).total_cmp(&gain(b))) {
            steps[best] = (steps[best] + 1).min(STEPS);
        }
    }
    steps.into_iter().map(|step| least + part * step as f64).collect()
}

/// The loss at a ratio, between the measured ones.
fn loss(layer: &Sensitivity, keep: f64) -> f64 {
    let mut below = layer.first().copied().unwrap_or((1.0, 0.0));
    for &above in layer.iter().chain(&[(1.0, 0.0)]) {
        if keep <= above.0 {
            let width = (above.0 / below.0).ln();
            let part = if width > 0.0 { (keep / below.0).ln() / width } else { 1.0 };
            return below.1 + (above.1 - below.1) * part.clamp(0.0, 1.0);
        }
        below = above;
    }
    0.0
}

/// The greatest convex, falling curve under evenly spaced values.
fn convex(values: Vec<f64>) -> Vec<f64> {
    let mut hull: Vec<usize> = Vec::new();
    let slope = |a: usize, b: usize| (values[b] - values[a]) / (b - a) as f64;
    for next in 0..values.len() {
        while let [.., a, b] = hull[..]
            && slope(a, b) >= slope(b, next)
        {
            hull.pop();
        }
        hull.push(next);
    }
    let mut curve = values.clone();
    for pair in hull.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        (a..b).for_each(|at| curve[at] = values[a] + slope(a, b) * (at - a) as f64);
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_that_suffers_most_keeps_most() {
        let layers = vec![
            vec![(0.05, 0.5), (0.2, 0.25), (0.6, 0.1)],
            vec![(0.05, 0.01), (0.2, 0.001), (0.6, 0.0)],
            vec![(0.05, 0.2), (0.2, 0.05), (0.6, 0.01)],
        ];
        let shares = share_out(&layers, 0.3);
        assert!((shares.iter().sum::<f64>() / 3.0 - 0.3).abs() < 0.01, "{shares:?}");
        assert!(shares[0] > shares[2] && shares[2] > shares[1], "{shares:?}");
    }

    #[test]
    fn no_other_division_loses_less() {
        let layers = vec![vec![(0.1, 1.0), (0.5, 0.3)], vec![(0.1, 0.4), (0.5, 0.2)]];
        let best = share_out(&layers, 0.4);
        let sum = |a: f64, b: f64| loss(&layers[0], a) + loss(&layers[1], b);
        let found = sum(best[0], best[1]);
        for step in 0..=70 {
            let first = 0.1 + 0.01 * f64::from(step);
            let second = best[0] + best[1] - first;
            if (0.1..=1.0).contains(&second) {
                assert!(sum(first, second) >= found - 2e-3, "{first} {second} beats {best:?}");
            }
        }
    }

    #[test]
    fn noise_in_the_measurement_does_not_break_it() {
        // A loss that rises with the ratio, and one that is below zero.
        let layers = vec![vec![(0.1, 0.1), (0.3, 0.2), (0.5, 0.05)], vec![(0.1, -0.01), (0.5, 0.0)]];
        for target in [0.05, 0.1, 0.4, 0.99, 1.0] {
            let shares = share_out(&layers, target);
            assert!(shares.iter().all(|&share| (0.1..=1.0 + 1e-9).contains(&share)), "{target}: {shares:?}");
        }
    }
}
