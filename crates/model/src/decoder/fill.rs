//! Caches as a long text would leave them, without computing the text: for measuring at depth.

use dropcap_cache::KvCache;
use dropcap_kernels::Team;
use dropcap_policy::EvictionPolicy;

use super::{Decoder, Logits, Segment};
use crate::ModelError;

/// Tokens appended at a time.
const CHUNK: usize = 256;

impl Decoder {
    /// Appends `tokens` tokens of random keys and values to every layer of `cache`; the policy sees random hidden
    /// states and decides as ever, and what it drops is freed. Only time and memory of later steps mean anything.
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
        let (hidden, qkv) = (noise(CHUNK * self.config.hidden), noise(CHUNK * self.fused_width()));
        let ids = [0; CHUNK];
        let mut done = 0;
        while done < tokens {
            let count = CHUNK.min(tokens - done);
            done += count;
            let segment =
                Segment { cache, ids: &ids[..count], prompt_ends: done == tokens, logits: Logits::None };
            let (mut segments, mut died) = ([segment], |_, _, _, _| {});
            let mut step = self.begin(team, policy, &mut segments, &mut died)?;
            for layer in 0..self.config.layers {
                self.append(layer, &mut step, &qkv)?;
                step.decide(layer, &hidden[..count * self.config.hidden])?;
                self.reclaim(layer, &mut step)?;
            }
            cache.advance(count);
        }
        Ok(())
    }
}
