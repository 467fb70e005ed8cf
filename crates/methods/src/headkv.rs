//! `headkv`: heads that look far back keep more, by a profile of the model.

use std::sync::Arc;

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, HeadTable, Heads, Recipe};
use crate::{HeadProfile, Method, MethodError, Parameter, ParameterKind};

const NAME: &str = "headkv";

pub(crate) const METHOD: Method = Method {
    name: NAME,
    summary: "Shares a budget among all heads of all layers by a profile of the model: headkv(snapkv)@0.2.",
    details: "\
Of each head's budget, the share `shared` is put together over all layers and shared out by how much each head looks far back, \
as a profile says; the rest every head has for itself. A KV head has the mean of its query heads. Which entries a head keeps is \
for the inner method to say, and what that always keeps (sinks, windows) is not shared out. So `@` is the mean of all heads, \
but for heads whose part is more than they have.

The profile is what `dropcap profile` writes, or what others publish: Retrieval Head's JSON or DuoAttention's \
`full_attention_heads.tsv` (docs/formats.md). A profile of another shape is refused, and one of ours that was measured on \
another model; of the published ones nobody can tell. A profile that is 0 everywhere shares evenly.

The original writes `1 / head_beta` for `shared`.

Costs: those of the inner method.",
    source: "Fu, Cai, Asi, Xiong, Dong, Xiao 2024, arXiv 2410.19258; Zefan-Cai/KVCache-Factory HeadKVCluster",
    amount: Some(AMOUNT),
    ranks: Ranks::Around(|arguments, facts| {
        let inner = Recipe::inner(arguments, facts)?;
        if !inner.scorer.per_head() {
            return Err(MethodError::NotPerHead { method: NAME });
        }
        let profile = HeadProfile::read(&facts.resolve(arguments.text("profile")?))?;
        // Query heads stay apart until each has its part, as in the original.
        profile.of_kv_heads(facts)?;
        let shared = arguments.fraction("shared")?;
        let table = HeadTable { scores: profile.layers().to_vec(), kv_heads: facts.kv_heads, shared };
        Ok(Recipe { heads: Heads::Table(Arc::new(table)), ..inner })
    }),
    parameters: &[
        Parameter {
            name: "profile",
            kind: ParameterKind::File,
            default: "retrieval_heads.json",
            help: "the profile; a relative path is looked for in the working directory, then in the model's folder",
        },
        Parameter {
            name: "shared",
            kind: ParameterKind::Fraction,
            default: "0.8",
            help: "share of the budgets that goes by the profile",
        },
    ],
    check: ranked::check,
    build: ranked::build,
};
