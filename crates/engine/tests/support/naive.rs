//! The whole decoder again, slow and obviously right: float64, full matrices, an explicit mask, no cache.
//!
//! It reads the checkpoint's tensors by their Hugging Face names, so it shares neither packing, fusion,
//! paging, chunking nor kernels with the engine.

use std::collections::HashMap;

use dropcap_model::{DecoderConfig, Mlp, Position};
use dropcap_weights::TensorFile;

/// A model as named float64 matrices.
pub struct Naive {
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
    config: DecoderConfig,
    inverse_frequencies: Vec<f32>,
    /// Positions of GPT-2's transposed linears are `[in, out]`.
    gpt2: bool,
    /// Whether every key and every query is turned by its place among what the query sees, as StreamingLLM has it.
    pub by_place: bool,
    /// Of each layer the keys, turned, and values `[t, g * d]` that are attended to in the place of its own: what a cache made
    /// of them.
    pub held: Vec<[Rows; 2]>,
}

pub type Rows = Vec<Vec<f64>>;

impl Naive {
    pub fn open(folder: &str, config: &DecoderConfig) -> Naive {
        let inverse_frequencies = match config.position {
            Position::Learned => Vec::new(),
            Position::Rope(rope) => rope.frequencies(config.head_dim).0,
        };
        let file = TensorFile::open(&super::golden(folder).join("model.safetensors")).unwrap();
        let names: Vec<String> = file.names().map(ToString::to_string).collect();
        let tensors = names.into_iter().map(|name| {
            let shape = file.info(&name).unwrap().shape.clone();
            let values = file.read_f32(&name).unwrap().into_iter().map(f64::from).collect();
            (name.trim_start_matches("transformer.").trim_start_matches("model.").to_owned(), (shape, values))
        });
        let tensors: HashMap<_, _> = tensors.collect();
        let gpt2 = tensors.contains_key("wte.weight");
        Naive {
            tensors,
            config: config.clone(),
            inverse_frequencies,
            gpt2,
            by_place: false,
            held: Vec::new(),
        }
    }

    /// Logits f32 `[t, v]` of `ids` when the token at position j in KV head g of layer l is visible to query k
    /// iff `j <= k < expires_at[l][g % lanes][j]`; `lanes` is 1 or the number of KV heads.
    pub fn logits(&self, ids: &[u32], expires_at: &[Vec<u32>], lanes: usize) -> Vec<f32> {
        self.run(ids, expires_at, lanes, &mut |_, _| ())
    }

    /// [`Naive::logits`]; `attended` sees the residual stream before and behind each attention block.
    pub fn run(
        &self,
        ids: &[u32],
        expires_at: &[Vec<u32>],
        lanes: usize,
        attended: &mut dyn FnMut(&Rows, &Rows),
    ) -> Vec<f32> {
        let config = &self.config;
        let embedding = if self.gpt2 { "wte.weight" } else { "embed_tokens.weight" };
        let mut x: Rows = ids.iter().map(|&id| self.row(embedding, id as usize)).collect();
        if self.gpt2 {
            for (position, row) in x.iter_mut().enumerate() {
                add(row, &self.row("wpe.weight", position));
            }
        }
        for (layer, lifetimes) in expires_at.iter().enumerate() {
            let (norm1, norm2) = if self.gpt2 {
                (format!("h.{layer}.ln_1"), format!("h.{layer}.ln_2"))
            } else {
                (
                    format!("layers.{layer}.input_layernorm"),
                    format!("layers.{layer}.post_attention_layernorm"),
                )
            };
            let h = self.norm(&x, &norm1);
            let mixed = self.attention(&h, layer, lifetimes, lanes);
            let before = x.clone();
            x.iter_mut().zip(&mixed).for_each(|(row, more)| add(row, more));
            attended(&before, &x);
            let h = self.norm(&x, &norm2);
            let more = self.mlp(&h, layer);
            x.iter_mut().zip(&more).for_each(|(row, more)| add(row, more));
        }
        let x = self.norm(&x, if self.gpt2 { "ln_f" } else { "norm" });
        let head = if self.tensors.contains_key("lm_head.weight") { "lm_head.weight" } else { embedding };
        let (_, weight) = &self.tensors[head];
        let columns = weight.chunks_exact(config.hidden);
        x.iter().flat_map(|row| columns.clone().map(|column| dot(row, column) as f32)).collect()
    }

    fn attention(&self, h: &Rows, layer: usize, lifetimes: &[u32], lanes: usize) -> Rows {
        let config = &self.config;
        let (d, heads, kv_heads) = (config.head_dim, config.heads, config.kv_heads);
        let (mut q, mut k, mut v, output) = if self.gpt2 {
            let all = self.linear(h, &format!("h.{layer}.attn.c_attn"));
            let part = |i: usize| {
                all.iter().map(|row| row[i * heads * d..(i + 1) * heads * d].to_vec()).collect::<Rows>()
            };
            (part(0), part(1), part(2), format!("h.{layer}.attn.c_proj"))
        } else {
            let name = |part: &str| format!("layers.{layer}.self_attn.{part}");
            let q = self.linear(h, &name("q_proj"));
            (q, self.linear(h, &name("k_proj")), self.linear(h, &name("v_proj")), name("o_proj"))
        };
        if !self.gpt2 {
            for (rows, norm) in [(&mut q, "q_norm"), (&mut k, "k_norm")] {
                let name = format!("layers.{layer}.self_attn.{norm}");
                for (position, row) in rows.iter_mut().enumerate() {
                    for head in row.chunks_exact_mut(d) {
                        if self.tensors.contains_key(&format!("{name}.weight")) {
                            head.copy_from_slice(&self.norm(&vec![head.to_vec()], &name)[0]);
                        }
                        if !self.by_place {
                            self.rotate(head, position);
                        }
                    }
                }
            }
        }
        if let Some([keys, values]) = self.held.get(layer) {
            (k, v) = (keys.clone(), values.clone());
        }
        let tokens = h.len();
        let scale = f64::from(config.attention_scale(layer));
        let mut mixed = vec![vec![0.0; heads * d]; tokens];
        for (query, out) in mixed.iter_mut().enumerate() {
            for head in 0..heads {
                let group = head / (heads / kv_heads);
                let lane = if lanes == 1 { 0 } else { group };
                let seen: Vec<usize> =
                    (0..=query).filter(|&j| (query as u32) < lifetimes[lane * tokens + j]).collect();
                let turned = |row: &[f64], place: usize| {
                    let mut row = row.to_vec();
                    if self.by_place {
                        self.rotate(&mut row, place);
                    }
                    row
                };
                let q = turned(&q[query][head * d..(head + 1) * d], seen.len() - 1);
                let score = |(place, &j): (usize, &usize)| {
                    dot(&q, &turned(&k[j][group * d..(group + 1) * d], place)) * scale
                };
                let scores: Vec<f64> = seen.iter().enumerate().map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (&j, weight) in seen.iter().zip(&weights) {
                    for i in 0..d {
                        out[head * d + i] += weight / total * v[j][group * d + i];
                    }
                }
            }
        }
        self.linear(&mixed, &output)
    }

    fn rotate(&self, head: &mut [f64], position: usize) {
        let half = head.len() / 2;
        for i in 0..half {
            // The angle is float32, as in the checkpoints' own code.
            let angle = f64::from(position as f32 * self.inverse_frequencies[i]);
            let (sin, cos) = (f64::from(angle.sin() as f32), f64::from(angle.cos() as f32));
            let (a, b) = (head[i], head[half + i]);
            head[i] = a * cos - b * sin;
            head[half + i] = b * cos + a * sin;
        }
    }

    fn mlp(&self, h: &Rows, layer: usize) -> Rows {
        if self.gpt2 {
            let mut up = self.linear(h, &format!("h.{layer}.mlp.c_fc"));
            assert_eq!(self.config.mlp, Mlp::GeluTanh);
            for value in up.iter_mut().flatten() {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (*value + 0.044715 * value.powi(3));
                *value *= 0.5 * (1.0 + inner.tanh());
            }
            return self.linear(&up, &format!("h.{layer}.mlp.c_proj"));
        }
        let name = |part: &str| format!("layers.{layer}.mlp.{part}");
        let (mut gate, up) = (self.linear(h, &name("gate_proj")), self.linear(h, &name("up_proj")));
        for (gate, up) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
        self.linear(&gate, &name("down_proj"))
    }

    fn norm(&self, x: &Rows, name: &str) -> Rows {
        let weight = &self.tensors[&format!("{name}.weight")].1;
        let bias = self.tensors.get(&format!("{name}.bias"));
        let normalise = |row: &Vec<f64>| {
            let n = row.len() as f64;
            let mean = if bias.is_some() { row.iter().sum::<f64>() / n } else { 0.0 };
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
            let scale = 1.0 / (variance + f64::from(self.config.norm.epsilon)).sqrt();
            let shift = |i: usize| bias.map_or(0.0, |(_, bias)| bias[i]);
            row.iter().enumerate().map(|(i, value)| (value - mean) * scale * weight[i] + shift(i)).collect()
        };
        x.iter().map(normalise).collect()
    }

    fn linear(&self, x: &Rows, name: &str) -> Rows {
        let (shape, weight) = &self.tensors[&format!("{name}.weight")];
        let bias = self.tensors.get(&format!("{name}.bias")).map(|(_, bias)| bias);
        let outputs = if self.gpt2 { shape[1] } else { shape[0] };
        let apply = |row: &Vec<f64>| {
            (0..outputs)
                .map(|output| {
                    let sum: f64 = if self.gpt2 {
                        row.iter().enumerate().map(|(i, value)| value * weight[i * outputs + output]).sum()
                    } else {
                        dot(row, &weight[output * row.len()..(output + 1) * row.len()])
                    };
                    sum + bias.map_or(0.0, |bias| bias[output])
                })
                .collect()
        };
        x.iter().map(apply).collect()
    }

    fn row(&self, name: &str, index: usize) -> Vec<f64> {
        let (shape, values) = &self.tensors[name];
        values[index * shape[1]..(index + 1) * shape[1]].to_vec()
    }
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(row: &mut [f64], more: &[f64]) {
    row.iter_mut().zip(more).for_each(|(value, more)| *value += more);
}
