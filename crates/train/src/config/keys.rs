//! Every key with its default and its meaning.

/// One key of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Names joined by dots.
    pub path: &'static str,
    /// What it is where it is not given.
    pub default: &'static str,
    /// What it means.
    pub help: &'static str,
}

const fn key(path: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { path, default, help }
}

/// All keys, in the order of the file.
pub const KEYS: &[Key] = &[
    key("version", "1", "version of this format; a later one is refused"),
    key("model", "required, or init", "the model to start from: a directory, or a hub id"),
    key("init.family", "required", "gpt2 or llama: start from random weights of this family"),
    key("init.layers", "required", "layers"),
    key("init.hidden", "required", "width of the residual stream"),
    key("init.heads", "required", "query heads"),
    key("init.kv_heads", "heads", "KV heads (llama)"),
    key("init.context", "required", "positions"),
    key("init.vocabulary", "the tokenizer's", "tokens"),
    key("init.intermediate", "4 hidden, or 8/3 hidden", "width of the MLP"),
    key("tokenizer", "required with init", "tokenizer.json of a model from random weights"),
    key(
        "data.train",
        "required",
        "files to train on: text, or .jsonl of texts, of prompts with completions or of conversations; either may be .xz",
    ),
    key("data.valid", "[]", "held-out files to evaluate on"),
    key("data.cache", "OUTPUT/cache", "folder of token shards"),
    key(
        "data.select",
        "all",
        "which examples are learned from: q_tuning(sample=0.25, token=0.5), coreset(share=0.02, strata=50), random(share=0.25), or all with leaf(share=0.05)'s beside them",
    ),
    key(
        "data.scores",
        "required with coreset and leaf",
        "what `dropcap data score` (coreset) or `dropcap data confounders` (leaf) wrote of the examples",
    ),
    key("output", "required", "directory of the run"),
    key("seed", "0", "seed of batches, weights and noise"),
    key("steps", "1000", "optimizer steps"),
    key("batch.sequences", "16", "sequences of a step"),
    key("batch.tokens", "the model's positions, at most 1024", "tokens of a sequence"),
    key("batch.micro_sequences", "1", "sequences computed at once; divides batch.sequences"),
    key(
        "optimizer.learning_rate",
        "1e-4 with model, 2e-4 with train: lora, 1e-3 with init",
        "highest rate of the model's weights or factors",
    ),
    key("optimizer.gate_learning_rate", "1e-3", "highest rate of the gates' weights"),
    key("optimizer.betas", "[0.9, 0.99]", "decays of AdamW's two moments"),
    key("optimizer.epsilon", "1e-8", "AdamW's epsilon"),
    key("optimizer.weight_decay", "0", "decoupled weight decay"),
    key("optimizer.clip", "1", "norm that gradients are clipped to; 0 does not clip"),
    key("optimizer.warmup", "50, at most a tenth of the steps", "steps over which the rate rises"),
    key("optimizer.schedule", "cosine", "constant or cosine"),
    key("optimizer.floor", "0.02", "share of the rate left at the end of a cosine"),
    key(
        "train",
        "all",
        "which weights are trained: all, gates, or lora (thin factors beside the model's, and gates)",
    ),
    key("lora.rank", "16", "inner width of the factors"),
    key("lora.alpha", "32", "the factors' product is multiplied by alpha / rank"),
    key("lora.targets", "all linear layers", "names of the modules with factors, as [q_proj, v_proj]"),
    key("method", "dcp with model, none with init", "what is forgotten: none, window or dcp"),
    key("window.sinks", "4", "first tokens that are never forgotten (method: window)"),
    key("window.recent", "150", "latest tokens that are seen (method: window)"),
    key("gates.width", "16", "width of a gate that votes"),
    key("gates.per", "kv_head", "layer or kv_head: which heads share a gate"),
    key("gates.sinks", "4", "first tokens that are never forgotten"),
    key("gates.recent", "16", "latest tokens that are never forgotten"),
    key(
        "gates.rule",
        "hard",
        "soft (published), hard (as in inference), or birth (each token decides about its own entry)",
    ),
    key("gates.bias", "2", "bias that gates start with"),
    key("gates.alpha", "cosine_1.5_8_STEPS", "sharpness of soft gates: linear_, cosine_ or linearcosine_"),
    key(
        "gates.noise.start",
        "1",
        "scale of the noise on hard gates and gates at birth at the start; 0 for none",
    ),
    key("gates.noise.until", "0.85", "share of the steps after which there is no noise"),
    key("gates.scale", "rms", "none or rms: how the gates' input is scaled"),
    key("sparsity.gamma", "none", "weight of the sparsity term; or target_keep"),
    key("sparsity.form", "published", "published or paper: how gamma's term is normalised"),
    key("sparsity.target_keep", "0.2", "share of entries that the hard policy is to keep; or gamma"),
    key(
        "sparsity.trained_keep",
        "target_keep",
        "share that training leads to; biases are then set for target_keep",
    ),
    key("sparsity.ramp.from", "0.05", "share of the steps at which the target begins to fall"),
    key("sparsity.ramp.until", "0.6", "share of the steps at which it is reached"),
    key("sparsity.budgets", "probe", "probe, uniform, or a list with one share per layer"),
    key("distill", "0", "share of the loss that is the distance from the teacher's predictions"),
    key(
        "teacher",
        "the dense model itself",
        "another model with the same tokens to imitate: a directory, or a hub id",
    ),
    key("checkpoint.every", "100", "steps between two saved states"),
    key("checkpoint.keep", "2", "saved states that are kept"),
    key("checkpoint.activations", "false", "compute activations again in the backward pass: less memory"),
    key("evaluate.every", "100", "steps between two evaluations"),
    key("evaluate.windows", "16", "windows of held-out text"),
    key("watchdog.skip_steps", "5", "steps in a row without a finite loss before the run stops"),
    key("watchdog.keep_below", "0.005", "a layer that keeps less has collapsed"),
    key("watchdog.keep_above", "0.995", "a layer that keeps more forgets nothing"),
    key("watchdog.patience", "100", "steps in a row before such a layer is warned of"),
    key(
        "dtype",
        "the model's, f32 with init",
        "how the result stores weights (train: all): f32, bf16 or f16",
    ),
    key(
        "kv_dtype",
        "f32",
        "what the result's cache will be (generate --kv-dtype): f32, bf16 or f16; training rounds alike",
    ),
    key("device", "auto", "what to train on: auto (the first usable GPU, else the processor), cpu or cuda:N"),
    key(
        "precision",
        "bf16 on a GPU",
        "format of products on a GPU: bf16 or f32; sums, weights and moments are f32",
    ),
    key("threads", "all processors", "threads to compute with on the processor"),
];

/// Whether a path is a key.
pub(super) fn is_key(path: &str) -> bool {
    KEYS.iter().any(|key| key.path == path)
}

/// Whether a path is a section that holds keys.
pub(super) fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// What an unknown path was probably meant to be: a key or section beside it, or the same name elsewhere.
pub(super) fn meant(path: &str) -> Option<String> {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let inside = |full: &'static str| match section {
        "" => Some(full),
        section => full.strip_prefix(section)?.strip_prefix('.'),
    };
    let beside = KEYS.iter().filter_map(|key| inside(key.path)?.split('.').next());
    if let Some(found) = dropcap_methods::nearest(name, beside) {
        return Some(if section.is_empty() { found.to_owned() } else { format!("{section}.{found}") });
    }
    let last = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
    let elsewhere = dropcap_methods::nearest(name, KEYS.iter().map(|key| last(key.path)))?;
    KEYS.iter().find(|key| last(key.path) == elsewhere).map(|key| key.path.to_owned())
}
