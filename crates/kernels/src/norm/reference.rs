//! The oracles, in f64.

/// A row's layer norm.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f64> {
    let c = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / c;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / c;
    let scale = (variance + f64::from(epsilon)).sqrt();
    let affine = x.iter().zip(weight).zip(bias);
    affine.map(|((&x, &w), &b)| (f64::from(x) - mean) / scale * f64::from(w) + f64::from(b)).collect()
}

/// A row's RMS norm.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f64> {
    let squares = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
    let scale = (squares + f64::from(epsilon)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| f64::from(x) / scale * f64::from(w)).collect()
}
