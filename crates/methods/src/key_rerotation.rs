//! `key_rerotation`: what stays behind a prompt is turned to consecutive positions.

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, Recipe};
use crate::{Method, MethodError};

pub(crate) const NAME: &str = "key_rerotation";

pub(crate) const METHOD: Method = Method {
    name: NAME,
    summary: "Turns what another method keeps of a prompt to consecutive positions: key_rerotation(snapkv)@0.2.",
    details: "\
When the prompt ends and the inner method has chosen, the i-th entry that stays in a head is turned as if its token had stood at \
position i, and the next token follows at n_kept: the model sees a text without gaps, no longer than the budget. Which entries stay \
does not change. Positions in traces, windows and lifetimes stay those of the text.

Every head of every layer must keep as many entries, because what follows has one position for all of them: so not together with \
`ada`, `pyramid`, `headkv`, `squeeze` or another method behind `&`, nor around `citrus`, which drops entries within the prompt. Models \
without rotary embeddings and with sliding windows are refused. `streaming_llm(when=prefill_end, positions=cache)` does the same for its \
sinks and window. What goes behind the prompt (`when=every_query`) leaves gaps.

Keys are turned as the cache holds them, so in 16 bits they are rounded once more.

Costs: one read and one write of the keys that stay, when the prompt ends; nothing is stored.",
    source: "as NVIDIA/kvpress KeyRerotationPress, and FinchPress (Corallo, Papotti 2024, arXiv 2408.00167), which turns keys alike",
    amount: Some(AMOUNT),
    ranks: Ranks::Around(|arguments, facts| {
        let inner = Recipe::inner(arguments, facts)?;
        if inner.scorer.stride() > 0 {
            return Err(MethodError::Contradiction {
                method: NAME,
                what: "the method within it drops entries before the prompt has ended".into(),
                advice: "put it around one that waits for the end: key_rerotation(snapkv)@0.2".into(),
            });
        }
        Ok(Recipe { renumbers: true, ..inner })
    }),
    parameters: &[],
    check: ranked::check,
    build: ranked::build,
};
