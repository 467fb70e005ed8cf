//! `adapter_config.json`: which kind of adapter, and how its factors are scaled.

use std::path::Path;

use serde_json::Value;

use crate::config_json::ConfigJson;
use crate::error::ModelError;

/// Largest rank of a factor.
const MAX_RANK: usize = 1 << 16;

/// Keys of PEFT that make an adapter more than a product of two matrices added to a weight, and so must be unset.
const MUST_BE_UNSET: [(&str, &str); 12] = [
    ("use_dora", "adapters with magnitudes (DoRA) are not supported"),
    ("use_qalora", "adapters over pooled inputs (QALoRA) are not supported"),
    ("lora_bias", "adapters with a bias of their own are not supported"),
    ("modules_to_save", "adapters that replace whole modules are not supported: merge it with PEFT first"),
    ("layer_replication", "adapters that repeat layers are not supported"),
    ("trainable_token_indices", "adapters that change embeddings are not supported"),
    ("target_parameters", "adapters of bare parameters are not supported"),
    ("alora_invocation_tokens", "adapters that begin at a token (aLoRA) are not supported"),
    ("arrow_config", "routed adapters are not supported"),
    ("monteclora_config", "sampled adapters are not supported"),
    ("kasa_config", "adapters of singular values (KaSA) are not supported"),
    ("use_bdlora", "adapters of block-diagonal factors are not supported"),
];

/// Initialisations that change the base weights too, so that the factors mean nothing over the published ones.
const CHANGE_THE_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// What of an adapter's configuration decides its weights.
#[derive(Debug)]
pub(crate) struct AdapterConfig {
    /// The base model, as the writer called it.
    pub(super) base: Option<String>,
    rank: usize,
    alpha: f64,
    /// Whether the scale is `alpha / sqrt(r)` (rank-stabilised, Kalajdzievski 2023, arXiv 2312.03732).
    stabilised: bool,
    ranks: Vec<(String, usize)>,
    alphas: Vec<(String, f64)>,
}

impl AdapterConfig {
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let missing = || ModelError::io("open", path, std::io::ErrorKind::NotFound.into());
        Self::read(&ConfigJson::open(path)?.ok_or_else(missing)?)
    }

    /// Reads the text of an `adapter_config.json`; `path` is only for messages.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, ModelError> {
        Self::read(&ConfigJson::parse(path, text)?)
    }

    fn read(json: &ConfigJson) -> Result<Self, ModelError> {
        if json.text("peft_type")? != Some("LORA") {
            return Err(json.unsupported("peft_type", "the kind supported is LORA"));
        }
        if !matches!(json.text("task_type")?, None | Some("CAUSAL_LM")) {
            return Err(json.unsupported("task_type", "the task supported is CAUSAL_LM"));
        }
        for (key, supported) in MUST_BE_UNSET {
            let unset = match json.get(key) {
                None | Some(Value::Bool(false)) => true,
                Some(Value::Array(list)) => list.is_empty(),
                Some(Value::Object(object)) => object.is_empty(),
                Some(_) => false,
            };
            if !unset {
                return Err(json.unsupported(key, supported));
            }
        }
        if !matches!(json.text("bias")?, None | Some("none")) {
            return Err(json.unsupported("bias", "adapters that train biases are not supported"));
        }
        if let Some(Value::String(kind)) = json.get("init_lora_weights")
            && CHANGE_THE_BASE.iter().any(|name| kind.starts_with(name))
        {
            let supported = "this initialisation changes the base weights too: convert the adapter to plain LoRA with PEFT";
            return Err(json.unsupported("init_lora_weights", supported));
        }
        let rank = json.count("r", MAX_RANK)?;
        let patterns = |key: &str| pattern(json, key);
        let mut ranks = Vec::new();
        for (name, value) in patterns("rank_pattern")? {
            let rank =
                value.as_u64().and_then(|r| usize::try_from(r).ok()).filter(|r| (1..=MAX_RANK).contains(r));
            let refuse = || json.refuse("rank_pattern", format!("ranks from 1 to {MAX_RANK}"));
            ranks.push((name, rank.ok_or_else(refuse)?));
        }
        let mut alphas = Vec::new();
        for (name, value) in patterns("alpha_pattern")? {
            let alpha = value.as_f64().filter(|alpha| alpha.is_finite());
            alphas.push((name, alpha.ok_or_else(|| json.refuse("alpha_pattern", "finite numbers"))?));
        }
        Ok(Self {
            base: json.text("base_model_name_or_path")?.map(str::to_owned),
            rank,
            // PEFT's default.
            alpha: json.number_or("lora_alpha", f64::MIN, f64::MAX, 8.0)?,
            stabilised: json.flag_or("use_rslora", false)?,
            ranks,
            alphas,
        })
    }

    /// The inner width of a module's factors.
    pub(crate) fn rank(&self, module: &str) -> usize {
        of_module(&self.ranks, module).unwrap_or(self.rank)
    }

    /// What the product of a module's factors is multiplied by.
    pub(crate) fn scale(&self, module: &str) -> f32 {
        let (rank, alpha) = (self.rank(module) as f64, of_module(&self.alphas, module).unwrap_or(self.alpha));
        (if self.stabilised { alpha / rank.sqrt() } else { alpha / rank }) as f32
    }
}

/// An object from names of modules to values. PEFT takes the names as regular expressions; only plain ones are understood
/// here, and others are refused rather than taken wrongly.
fn pattern(json: &ConfigJson, key: &str) -> Result<Vec<(String, Value)>, ModelError> {
    let object = match json.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Object(object)) => object,
        Some(_) => return Err(json.refuse(key, "an object from names of modules to numbers")),
    };
    let plain = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if !object.keys().all(plain) {
        return Err(json.unsupported(key, "names of modules, with no regular expressions"));
    }
    // Which of two would be meant depends on the order in which they are written, and an object has none.
    if object.keys().any(|name| object.keys().any(|other| name != other && ends_with(other, name))) {
        return Err(json.unsupported(key, "names of which none is the end of another"));
    }
    Ok(object.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The value of the name that is the module's, or its end; PEFT searches in the same way.
fn of_module<T: Copy>(values: &[(String, T)], module: &str) -> Option<T> {
    values.iter().find(|(name, _)| ends_with(module, name)).map(|&(_, value)| value)
}

/// Whether a module's dotted name ends with whole words that `end` is.
fn ends_with(module: &str, end: &str) -> bool {
    module.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
