//! The same with full matrices in f64, one pair after the other.

use super::plan::LOWEST_SCORE;
use super::{GatedShape, Pressure, Rule, Voter};

/// Everything of one call. `dout` may be empty, then there are no gradients.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) out: Vec<f64>,
    pub(super) lse: Vec<f64>,
    pub(super) expires_at: Vec<u32>,
    /// Without and with the last query.
    pub(super) gates: [f64; 2],
    pub(super) dqkv: Vec<f64>,
    /// Per voter: query gates, key gates, bias.
    pub(super) voters: Vec<[Vec<f64>; 3]>,
    pub(super) worth: Vec<f64>,
    pub(super) weight: Vec<f64>,
    /// The smallest distance of a score from 0, under the hard rule.
    pub(super) margin: f64,
}

/// What f64 gates the oracle takes in place of the f32 ones of a [`Voter`].
#[derive(Debug, Clone)]
pub(super) struct Gates {
    pub(super) query: Vec<f64>,
    pub(super) key: Vec<f64>,
    pub(super) bias: Vec<f64>,
}

impl Gates {
    pub(super) fn of(voter: &Voter<'_>) -> Self {
        let wide = |all: &[f32]| all.iter().map(|&x| f64::from(x)).collect();
        Self { query: wide(voter.query_gates), key: wide(voter.key_gates), bias: wide(voter.bias) }
    }
}

/// The curve in f64: value, and slope over value. Bisection in the logarithm of the smaller side.
pub(super) fn curve(alpha: f64, x: f64) -> (f64, f64) {
    let a = alpha - 1.0;
    if a <= 1e-5 {
        let p = 1.0 / (1.0 + (-x).exp());
        return (p, 1.0 / (1.0 + x.exp()));
    }
    if a * x >= 1.0 {
        return (1.0, 0.0);
    }
    if a * x <= -1.0 {
        return (0.0, 0.0);
    }
    // s = min(p, 1-p) solves (1-s)^a - s^a = a |x|.
    let (mut low, mut high) = (-700.0, 0.5f64.ln());
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        let s = f64::exp(middle);
        if (a * (-s).ln_1p()).exp() - (a * middle).exp() > a * x.abs() { low = middle } else { high = middle }
    }
    let s = f64::exp(0.5 * (low + high));
    let (p, q) = if x < 0.0 { (s, 1.0 - s) } else { (1.0 - s, s) };
    (p, 1.0 / (p.powf(a - 1.0) + q.powf(a - 1.0)) / p)
}

struct Pairs {
    tokens: usize,
    shape: GatedShape,
}

impl Pairs {
    fn in_sight(&self, k: usize, j: usize) -> bool {
        j <= k && self.shape.sliding_window.is_none_or(|window| k - j < window as usize)
    }

    fn decided(&self, k: usize, j: usize) -> bool {
        self.in_sight(k, j) && j >= self.shape.sinks as usize && k - j >= self.shape.recent.max(1) as usize
    }

    fn at(&self, k: usize, j: usize) -> usize {
        k * self.tokens + j
    }
}

/// All of it; `alpha` is the curve's, under the soft rule.
#[allow(clippy::too_many_arguments)]
pub(super) fn attend(
    shape: &GatedShape,
    rule: Rule<'_>,
    alpha: f64,
    voters: &[Gates],
    qkv: &[f64],
    stride: usize,
    dout: &[f64],
    pressure: Pressure<'_>,
) -> Answer {
    let (b, tokens, r) = (shape.sequences, shape.tokens, shape.gate_width);
    let (h, g, d) = (shape.attention.query_heads, shape.attention.kv_heads, shape.attention.head_dim);
    let scale = f64::from(shape.attention.scale);
    let groups = if voters.is_empty() { 1 } else { shape.gate_heads };
    let pairs = Pairs { tokens, shape: *shape };
    let hard = matches!(rule, Rule::Hard { .. });
    let mut answer = Answer {
        out: vec![0.0; b * tokens * h * d],
        lse: vec![0.0; b * h * tokens],
        dqkv: vec![0.0; b * tokens * stride],
        voters: voters
            .iter()
            .map(|v| [vec![0.0; v.query.len()], vec![0.0; v.key.len()], vec![0.0; v.bias.len()]])
            .collect(),
        worth: vec![0.0; groups],
        weight: vec![0.0; groups],
        margin: f64::INFINITY,
        ..Answer::default()
    };
    for s in 0..b {
        for group in 0..groups {
            // Per voter: raw scores, slope over vote, log I (or, hard, the smallest score).
            let mut raws = Vec::new();
            let mut slopes = Vec::new();
            let mut logs = Vec::new();
            for voter in voters {
                let mut raw = vec![f64::INFINITY; tokens * tokens];
                let mut slope = vec![0.0; tokens * tokens];
                let mut log = vec![0.0; tokens * tokens];
                for j in 0..tokens {
                    let mut running = if hard { f64::INFINITY } else { 0.0 };
                    for n in j..tokens {
                        if n > j {
                            let gate = |token: usize| ((s * tokens + token) * groups + group) * r;
                            let dot: f64 =
                                (0..r).map(|i| voter.query[gate(n) + i] * voter.key[gate(j) + i]).sum();
                            let mut x = dot / (r as f64).sqrt() + voter.bias[group];
                            if let Rule::Hard { noise: Some(noise) } = rule {
                                x += f64::from(noise[(s * groups + group) * tokens + j]);
                            }
                            raw[pairs.at(n, j)] = x;
                            answer.margin = answer.margin.min(x.abs());
                            if hard {
                                running = running.min(x);
                            } else {
                                let (p, over) = curve(alpha, x);
                                slope[pairs.at(n, j)] = over;
                                running += p.ln();
                            }
                        }
                        log[pairs.at(n, j)] = running;
                    }
                }
                raws.push(raw);
                slopes.push(slope);
                logs.push(log);
            }
            if let Some(raw) = raws.last() {
                for j in 0..tokens {
                    let first = (j + 1..tokens).find(|&n| raw[pairs.at(n, j)] <= 0.0);
                    answer.expires_at.push(match first {
                        Some(n) if j >= shape.sinks as usize => (n as u32).max(j as u32 + shape.recent),
                        _ => u32::MAX,
                    });
                }
            }
            let heads = h / groups;
            let mut worth = vec![0.0; tokens * tokens];
            for head in group * heads..(group + 1) * heads {
                let kv = head / (h / g);
                let row = |token: usize, column: usize| (s * tokens + token) * stride + column * d;
                for k in 0..tokens {
                    let score = |j: usize| -> f64 {
                        let (q, key) = (row(k, head), row(j, h + kv));
                        scale * (0..d).map(|i| qkv[q + i] * qkv[key + i]).sum::<f64>()
                    };
                    // Log of the gate: 0 or -inf under the hard rule.
                    let gate = |j: usize| -> f64 {
                        if !pairs.in_sight(k, j) {
                            f64::NEG_INFINITY
                        } else if !pairs.decided(k, j) {
                            0.0
                        } else if hard {
                            if logs.iter().all(|log| log[pairs.at(k, j)] > 0.0) {
                                0.0
                            } else {
                                f64::NEG_INFINITY
                            }
                        } else {
                            logs.iter().map(|log| log[pairs.at(k, j)]).sum()
                        }
                    };
                    let all: Vec<f64> = (0..=k).map(|j| score(j) + gate(j)).collect();
                    let top = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = all.iter().map(|x| (x - top).exp()).sum();
                    let lse = top + sum.ln();
                    answer.lse[(s * h + head) * tokens + k] = lse;
                    let at = ((s * tokens + k) * h + head) * d;
                    for (j, x) in all.iter().enumerate() {
                        let p = (x - lse).exp();
                        let value = row(j, h + g + kv);
                        (0..d).for_each(|i| answer.out[at + i] += p * qkv[value + i]);
                    }
                    if dout.is_empty() {
                        continue;
                    }
                    let delta: f64 = (0..d).map(|i| dout[at + i] * answer.out[at + i]).sum();
                    for (j, x) in all.iter().enumerate() {
                        let (q, key, value) = (row(k, head), row(j, h + kv), row(j, h + g + kv));
                        let p = (x - lse).exp();
                        let t = (0..d).map(|i| dout[at + i] * qkv[value + i]).sum::<f64>() - delta;
                        for i in 0..d {
                            answer.dqkv[q + i] += p * t * scale * qkv[key + i];
                            answer.dqkv[key + i] += p * t * scale * qkv[q + i];
                            answer.dqkv[value + i] += p * dout[at + i];
                        }
                        if !pairs.decided(k, j) {
                            continue;
                        }
                        worth[pairs.at(k, j)] += if !hard {
                            p * t
                        } else if p > 0.0 {
                            p / (1.0 - p.min(0.9)) * t
                        } else {
                            let e = (score(j) - lse).min(20.0).exp();
                            e / (1.0 + e) * t
                        };
                    }
                }
            }
            if let (false, Some(log)) = (hard, logs.last()) {
                for k in 0..tokens {
                    for j in (0..=k).filter(|&j| pairs.in_sight(k, j)) {
                        let gate = if pairs.decided(k, j) { log[pairs.at(k, j)].exp() } else { 1.0 };
                        answer.gates[1] += gate;
                        answer.gates[0] += if k + 1 < tokens { gate } else { 0.0 };
                    }
                }
            }
            if dout.is_empty() {
                continue;
            }
            for (number, voter) in voters.iter().enumerate() {
                let own = number + 1 == voters.len();
                for j in 0..tokens {
                    let mut carried = 0.0;
                    for n in (j + 1..tokens).rev() {
                        let at = pairs.at(n, j);
                        let dx = match pressure {
                            Pressure::Hard { lambda } => {
                                let m = logs[number][at];
                                if pairs.decided(n, j) && m >= f64::from(LOWEST_SCORE) {
                                    let phi = (-m.abs()).exp() / (1.0 + (-m.abs()).exp()).powi(2);
                                    answer.worth[group] += phi * worth[at];
                                    answer.weight[group] += phi;
                                    carried += phi * (worth[at] + f64::from(lambda[group]));
                                }
                                let before =
                                    if n == j + 1 { f64::INFINITY } else { logs[number][pairs.at(n - 1, j)] };
                                if raws[number][at] < before { std::mem::take(&mut carried) } else { 0.0 }
                            }
                            Pressure::Soft { per_pair, last_query } => {
                                if pairs.decided(n, j) {
                                    carried += worth[at];
                                    if own && (last_query || n + 1 < tokens) {
                                        carried += f64::from(per_pair) * logs[number][at].exp();
                                    }
                                }
                                carried * slopes[number][at]
                            }
                        };
                        let gate = |token: usize| ((s * tokens + token) * groups + group) * r;
                        let factor = dx / (r as f64).sqrt();
                        for i in 0..r {
                            answer.voters[number][0][gate(n) + i] += factor * voter.key[gate(j) + i];
                            answer.voters[number][1][gate(j) + i] += factor * voter.query[gate(n) + i];
                        }
                        answer.voters[number][2][group] += dx;
                    }
                }
            }
        }
    }
    answer
}
