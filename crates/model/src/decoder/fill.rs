//! Caches as a long text would leave them, without computing the text: for measuring at depth.

use dropcap_cache::KvCache;
use dropcap_kernels::Team;
use dropcap_policy::{EvictionPolicy, Stage, turns};

use super::{Decoder, Logits, Segment};
use crate::ModelError;

/// Tokens appended at a time, unless the policy wants more of them together.
const CHUNK: usize = 256;

impl Decoder {
    /// Appends `tokens` tokens of random keys and values to every layer of `cache`; the policy sees random hidden
    /// states and queries, and decides as ever, and what it drops is freed. Only time and memory of later steps mean anything.
    ///
    /// # Errors
    /// A text longer than the model's positions, or an exhausted pool.
    pub fn fill(
        &self,
        team: &Team,
        policy: &dyn EvictionPolicy,
        cache: &mut KvCache,
        tokens: usize,
    ) -> Result<(), ModelError> {
        let end = cache.next_position() as usize + tokens;
        if end > self.config.max_positions {
            return Err(ModelError::TooManyPositions { wanted: end, limit: self.config.max_positions });
        }
        let mut state = 1u32;
        let mut noise = |count: usize| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..count).map(|_| next()).collect()
        };
        let needs = policy.needs();
        let chunk = CHUNK.max(needs.together(tokens));
        let (hidden, qkv) = (noise(chunk * self.config.hidden), noise(chunk * self.fused_width()));
        let ids = vec![0; chunk];
        let mut done = 0;
        while done < tokens {
            let count = needs.cut(tokens, done, chunk.min(tokens - done));
            done += count;
            let stage = if done == tokens { Stage::PromptEnd } else { Stage::Prompt };
            let segment = Segment { cache, ids: &ids[..count], stage, budget: None, logits: Logits::None };
            let (mut segments, mut died) = ([segment], |_, _, _, _| {});
            let mut step = self.begin(team, policy, &mut segments, &mut died)?;
            for layer in 0..self.config.layers {
                self.append(layer, &mut step, &qkv)?;
                step.decide(layer, &hidden[..count * self.config.hidden])?;
                let hidden = &hidden[..count * self.config.hidden];
                for (numbers, spans) in turns(&step.spans, needs) {
                    self.after(layer, &mut step, hidden, &qkv, (&numbers, &spans))?;
                }
                self.renumber(layer, &mut step)?;
                self.reclaim(layer, &mut step)?;
            }
            self.end_prompts(&mut step)?;
            step.advance()?;
        }
        Ok(())
    }
}
