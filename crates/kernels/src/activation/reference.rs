//! The oracles, in f64.

/// GPT-2's GELU as written down.
pub(crate) fn gelu_tanh(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    0.5 * x * (1.0 + u.tanh())
}

/// The exact GELU.
pub(crate) fn gelu_erf(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// erf by its Maclaurin series, which converges everywhere and in f64 is good to 1e-12 for |x| < 4.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// `silu(gate) * up`, as `silu_mul` promises.
pub(crate) fn silu_mul(gate_up: &[f32], width: usize) -> Vec<f64> {
    let row = |row: &[f32]| {
        let (gate, up) = row.split_at(width);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        gate.iter().zip(up).map(|(&g, &u)| silu(f64::from(g)) * f64::from(u)).collect::<Vec<_>>()
    };
    gate_up.chunks(2 * width).flat_map(row).collect()
}
