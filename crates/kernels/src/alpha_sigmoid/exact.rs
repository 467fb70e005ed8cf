//! The equation solved in f64.
//!
//! With s the smaller of p and 1-p and w = 1 - a |x|, the equation is `s^a + (1 - (1-s)^a) = w`: a sum of two positive
//! terms, so nothing cancels at the edge, and in logarithms it is close to a straight line.

use super::Vote;

/// More than Newton's method needs anywhere; bisection alone would take 60.
const MAX_STEPS: usize = 100;

/// `ln s` and its derivative at the coordinate `y = -ln(w) / min(a, 1)`; for a = 0, `y = |x|`.
pub(super) fn log_smaller(a: f64, y: f64) -> (f64, f64) {
    let top = -std::f64::consts::LN_2;
    if a == 0.0 {
        let tail = (-y).exp();
        return (-y - tail.ln_1p(), -1.0 / (1.0 + tail));
    }
    let unit = a.min(1.0);
    // w is at most 2 s^a for a <= 1, and at most (a + 1) s above.
    let mut low = if a <= 1.0 { top / a - y } else { -(a + 1.0).ln() - y };
    let mut high = top;
    let mut t = (top - y).clamp(low, high);
    for _ in 0..MAX_STEPS {
        let (height, slope) = log_width(a, t);
        let miss = height + unit * y;
        if miss > 0.0 {
            high = high.min(t)
        } else {
            low = low.max(t)
        }
        let mut next = t - miss / slope;
        if !(low..=high).contains(&next) {
            next = 0.5 * (low + high);
        }
        let step = (next - t).abs();
        t = next;
        if step <= 1e-15 * t.abs() {
            break;
        }
    }
    (t, -unit / log_width(a, t).1)
}

/// `ln w` at `t = ln s`, and its derivative.
fn log_width(a: f64, t: f64) -> (f64, f64) {
    let s = t.exp();
    let other = (-s).ln_1p();
    let width = (a * t).exp() - (a * other).exp_m1();
    let slope = a * ((a * t).exp() + (t + (a - 1.0) * other).exp()) / width;
    (width.ln(), slope)
}

/// The cubic through two nodes `(y, (t, dt/dy))`, in powers of the distance from the first.
pub(super) fn hermite(from: (f64, (f64, f64)), to: (f64, (f64, f64))) -> [f32; 4] {
    let width = to.0 - from.0;
    let ((t, slope), (t_end, slope_end)) = (from.1, to.1);
    let chord = (t_end - t) / width;
    let square = (3.0 * chord - 2.0 * slope - slope_end) / width;
    let cube = (slope + slope_end - 2.0 * chord) / (width * width);
    [t as f32, slope as f32, square as f32, cube as f32]
}

/// Everything at `x`.
pub(super) fn vote(a: f64, x: f64) -> Vote {
    if x.is_nan() {
        return Vote { p: f32::NAN, q: f32::NAN, slope: f32::NAN };
    }
    let size = x.abs();
    let width = 1.0 - a * size;
    let (small, large, slope) = if width <= 0.0 || size == f64::INFINITY {
        (0.0, 1.0, 0.0)
    } else {
        let y = if a == 0.0 { size } else { -(-a * size).ln_1p() / a.min(1.0) };
        let t = log_smaller(a, y).0;
        let other = (-t.exp()).ln_1p();
        (t.exp(), other.exp(), 1.0 / (((a - 1.0) * t).exp() + ((a - 1.0) * other).exp()))
    };
    let (p, q) = if x < 0.0 { (small, large) } else { (large, small) };
    Vote { p: p as f32, q: q as f32, slope: slope as f32 }
}
