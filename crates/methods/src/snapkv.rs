//! `snapkv`: the prompt's last tokens choose.

use dropcap_policy::{PolicyError, Score, Span};

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, Layer, Looks, Recipe, SINKS, Scorer};
use crate::scorers::{self, Pooling, Reduction};
use crate::{MAX_COUNT, Method, Parameter, ParameterKind};

pub(crate) const METHOD: Method = Method {
    name: "snapkv",
    summary: "Keeps what the prompt's last tokens attend to, and those tokens, per KV head.",
    details: "\
When the prompt ends, the attention probabilities of its last `window` queries are averaged, smoothed along the positions \
over `kernel` neighbours, and averaged over the query heads of a KV head; the best entries stay, beside the \
window itself, which counts. A budget smaller than the window keeps the window. A prompt shorter than the window loses \
nothing.

The window must come in one step: the prompt's last `window` tokens are never cut apart, and a window larger than a step \
may hold is refused.

The original pools by `max` for some models and by the mean for others; kvpress always takes the mean. `group=max` is what KVCache-Factory offers.

Costs: the probabilities of `window` queries when the prompt ends, one more pass over the keys for each 12 rows; nothing \
is stored.",
    source: "Li, Huang, Yang, Venkitesh, Locatelli, Ye, Cai, Lewis, Chen 2024, arXiv 2404.14469; as NVIDIA/kvpress SnapKVPress",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        let (window, kernel) = (arguments.count("window")?, arguments.count("kernel")? as usize);
        let pooling = if arguments.text("pooling")? == "max" { Pooling::Max } else { Pooling::Average };
        let window_size = window as usize;
        let reduction = if arguments.text("group")? == "max" { Reduction::Max } else { Reduction::Mean };
        let scorer = scorers::SnapKv { window: window_size, kernel, pooling, reduction };
        Ok(Recipe::new(SnapKv(scorer), arguments.count("sinks")?, window))
    }),
    parameters: &[
        Parameter {
            name: "window",
            kind: ParameterKind::Count { least: 1, most: 4096 },
            default: "64",
            help: "last tokens of the prompt that choose, and stay",
        },
        Parameter {
            name: "kernel",
            kind: ParameterKind::Count { least: 1, most: MAX_COUNT },
            default: "5",
            help: "neighbours that a score is pooled over, itself included; odd",
        },
        Parameter {
            name: "pooling",
            kind: ParameterKind::Choice(&["mean", "max"]),
            default: "mean",
            help: "their mean, or the largest",
        },
        Parameter {
            name: "group",
            kind: ParameterKind::Choice(&["mean", "max"]),
            default: "mean",
            help: "of the query heads of a KV head, their mean, or the largest",
        },
        SINKS,
    ],
    check: |arguments| {
        if arguments.count("kernel")?.is_multiple_of(2) {
            let given = arguments.text("kernel")?.into();
            return Err(crate::MethodError::OutOfRange {
                key: "kernel".into(),
                given,
                allowed: "an odd number, so that a mean lies around its entry".into(),
            });
        }
        ranked::check(arguments)
    },
    build: ranked::build,
};

#[derive(Debug)]
struct SnapKv(scorers::SnapKv);

impl Scorer for SnapKv {
    fn together(&self) -> usize {
        self.0.window
    }

    fn looks(&self, _span: &Span, acts: bool) -> Looks {
        if acts { Looks::Last { window: self.0.window, apart: true } } else { Looks::Nowhere }
    }

    fn data(&self) -> Option<Score> {
        // Fit: parameters are 32 bits wide.
        let SnapKv(scorers::SnapKv { window, kernel, pooling, reduction }) = *self;
        Some(Score::Window {
            window: window as u32,
            kernel: kernel as u32,
            largest: pooling == Pooling::Max,
            apart: reduction == Reduction::Max,
        })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        let mass = layer.mass();
        Ok(mass.iter().map(|mass| self.0.score(mass, layer.group())).collect())
    }
}
