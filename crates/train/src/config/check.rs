//! What makes no sense, alone or together.

use dropcap_kernels::DType;
use dropcap_methods::MAX_GATE_WIDTH;
use dropcap_model::{MAX_HEADS, MAX_HIDDEN, MAX_INTERMEDIATE, MAX_LAYERS, MAX_POSITIONS, MAX_VOCABULARY};
use serde_json::{Map, Value};

use super::choices::{Decay, Family, GateRule, Method, Trained};
use super::sparsity::Budgets;
use super::{Config, Init, Lora, Select};

/// Whether a key was given, by its path.
fn given(root: &Map<String, Value>, path: &str) -> bool {
    let mut names = path.split('.');
    let first = names.next().and_then(|name| root.get(name));
    names.fold(first, |value, name| value?.get(name)).is_some()
}

/// Keys that are missing, and keys that were given and exclude each other.
pub(super) fn presence(root: &Map<String, Value>, problems: &mut Vec<String>) {
    let has = |path: &str| given(root, path);
    let mut say = |wrong: bool, words: &str| {
        if wrong {
            problems.push(words.to_owned());
        }
    };
    say(!has("model") && !has("init"), "neither `model` nor `init` is given: say what to start from");
    say(has("model") && has("init"), "both `model` and `init` are given: start from one of them");
    say(
        has("init") && !has("model") && !has("tokenizer"),
        "`init` needs a `tokenizer`: make one with `dropcap tokenizer train`",
    );
    say(has("model") && has("tokenizer"), "`tokenizer` goes with `init`; a `model` brings its own");
    say(!has("data.train"), "`data.train` is missing: name the files to train on");
    say(!has("output"), "`output` is missing: name the directory of the run");
    let word = |path: &str| root.get(path).and_then(Value::as_str);
    let method = word("method");
    if let Some(method) = method.filter(|method| *method != "window") {
        say(has("window"), &format!("`window` goes with `method: window`, and the method is {method}"));
    }
    for section in ["gates", "sparsity"] {
        if let Some(method) = method.filter(|method| *method != "dcp") {
            say(has(section), &format!("`{section}` goes with `method: dcp`, and the method is {method}"));
        }
        let both = method.is_none() && has("window") && has(section);
        say(both, &format!("both `window` and `{section}` are given: choose a `method`"));
    }
    let train = word("train").unwrap_or("all");
    say(train != "lora" && has("lora"), &format!("`lora` goes with `train: lora`, and train is {train}"));
    if train != "all" {
        say(
            has("init"),
            &format!(
                "`train: {train}` goes with `model`: an adapter of random weights has nothing to lie over"
            ),
        );
        say(
            has("dtype"),
            &format!(
                "`dtype` goes with `train: all`: with {train} the model's weights stay as they are stored"
            ),
        );
    }
    let gamma = has("sparsity.gamma");
    say(
        gamma && has("sparsity.target_keep"),
        "both `sparsity.gamma` and `sparsity.target_keep` are given: a target finds its own pressure, so choose one",
    );
    for name in ["ramp", "budgets", "trained_keep"] {
        let path = format!("sparsity.{name}");
        say(gamma && has(&path), &format!("`{path}` goes with `sparsity.target_keep`, not with gamma"));
    }
    say(
        !gamma && has("sparsity.form"),
        "`sparsity.form` says how gamma's term is normalised, and there is no `sparsity.gamma`",
    );
    let rule = root.get("gates").and_then(|gates| gates.get("rule")).and_then(Value::as_str);
    let soft = rule == Some("soft");
    say(!soft && has("gates.alpha"), "`gates.alpha` goes with `gates.rule: soft`; hard gates do not sharpen");
    say(soft && has("gates.noise"), "`gates.noise` goes with `gates.rule: hard` or `birth`");
    say(
        rule == Some("birth") && has("gates.width"),
        "`gates.width` goes with gates that vote (`gates.rule: hard` or `soft`); at birth a token has one number for each gate head",
    );
    let constant = root.get("optimizer").and_then(|section| section.get("schedule")).and_then(Value::as_str)
        == Some("constant");
    // A resolved configuration has every key of the section, so only a floor that is not the default can be meant.
    let floor = root.get("optimizer").and_then(|section| section.get("floor")).and_then(Value::as_f64);
    let meant = floor.is_some_and(|floor| floor != 0.02);
    say(constant && meant, "`optimizer.floor` goes with `optimizer.schedule: cosine`");
}

/// Values out of range, and values that exclude each other.
pub(super) fn values(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let mut say = |wrong: bool, words: String| {
        if wrong {
            problems.push(words);
        }
    };
    let share = |value: f64| (0.0..=1.0).contains(&value);
    let positive = |value: f64| value > 0.0 && value.is_finite();
    say(config.data.train.is_empty(), "data.train is an empty list: name the files to train on".to_owned());
    let is_coreset = matches!(config.data.select, Some(Select::Coreset { .. }));
    let is_leaf = matches!(config.data.select, Some(Select::Leaf { .. }));
    say(
        is_coreset && config.data.scores.is_none(),
        "data.select is a coreset, and data.scores names no scores: write some with `dropcap data score`"
            .to_owned(),
    );
    say(
        is_leaf && config.data.scores.is_none(),
        "data.select is leaf, and data.scores names no confounders: write some with `dropcap data confounders`"
            .to_owned(),
    );
    say(
        is_leaf && config.teacher.is_none(),
        "data.select is leaf, which compares with a `teacher`: name a model".to_owned(),
    );
    say(
        config.teacher.is_some() && config.distill == 0.0,
        "there is a teacher, and distill is 0: say what share of the loss is to imitate it, such as distill: 1"
            .to_owned(),
    );
    say(
        !is_coreset && !is_leaf && config.data.scores.is_some(),
        "data.scores goes with `data.select: coreset(...)` or `leaf(...)`".to_owned(),
    );
    for file in config.data.train.iter().filter(|file| config.data.valid.contains(file)) {
        say(
            true,
            format!(
                "{} is in both data.train and data.valid: held-out text must be other text",
                file.display()
            ),
        );
    }
    let soft = config.gates.as_ref().is_some_and(|gates| gates.rule == GateRule::Soft);
    let target = config.sparsity.as_ref().is_some_and(|sparsity| sparsity.target_keep.is_some());
    say(
        soft && target && config.data.valid.is_empty(),
        "sparsity.target_keep of soft gates follows held-out text: name some in data.valid, or give sparsity.gamma"
            .to_owned(),
    );
    say(
        config.precision == Some(DType::F16),
        "precision is f16, whose exponents are too few for gradients: choose bf16 or f32".to_owned(),
    );
    say(
        config.model.as_ref() == Some(&config.output),
        "output is the model's own directory: choose another".to_owned(),
    );
    let batch = &config.batch;
    for (path, count) in [
        ("steps", config.steps),
        ("batch.sequences", batch.sequences as u64),
        ("batch.micro_sequences", batch.micro_sequences as u64),
        ("batch.tokens", batch.tokens.unwrap_or(1) as u64),
        ("checkpoint.every", config.checkpoint.every),
        ("checkpoint.keep", config.checkpoint.keep as u64),
        ("evaluate.every", config.evaluate.every),
        ("evaluate.windows", config.evaluate.windows as u64),
        ("watchdog.patience", config.watchdog.patience),
        ("threads", config.threads.unwrap_or(1) as u64),
    ] {
        say(count == 0, format!("{path} is 0; at least 1 is needed"));
        say(count > 1 << 40, format!("{path} is {count}; the limit is {}", 1_u64 << 40));
    }
    say(
        !batch.sequences.is_multiple_of(batch.micro_sequences.max(1)),
        format!(
            "batch.sequences is {}, which batch.micro_sequences, {}, does not divide",
            batch.sequences, batch.micro_sequences
        ),
    );
    let optimizer = &config.optimizer;
    for (path, value) in [
        ("learning_rate", optimizer.learning_rate),
        ("gate_learning_rate", optimizer.gate_learning_rate),
        ("epsilon", optimizer.epsilon),
    ] {
        say(!positive(value), format!("optimizer.{path} is {value}; a positive number is needed"));
    }
    for (path, value) in [("weight_decay", optimizer.weight_decay), ("clip", optimizer.clip)] {
        say(
            !(value >= 0.0 && value.is_finite()),
            format!("optimizer.{path} is {value}; 0 or more is needed"),
        );
    }
    for beta in optimizer.betas {
        say(
            !(0.0..1.0).contains(&beta),
            format!("optimizer.betas holds {beta}; from 0 to below 1 is allowed"),
        );
    }
    say(!share(optimizer.floor), format!("optimizer.floor is {}; from 0 to 1 is allowed", optimizer.floor));
    let late = optimizer.schedule == Decay::Cosine && optimizer.warmup >= config.steps && config.steps > 0;
    say(
        late,
        format!(
            "optimizer.warmup is {} and steps is {}: nothing is left to decay",
            optimizer.warmup, config.steps
        ),
    );
    say(!share(config.distill), format!("distill is {}; from 0 to 1 is allowed", config.distill));
    say(
        config.distill > 0.0 && config.init.is_some() && config.teacher.is_none(),
        "distill goes with `model`: random weights have nothing to teach".to_owned(),
    );
    say(
        config.train == Trained::Gates && config.method != Method::Dcp,
        "`train: gates` goes with `method: dcp`: there are no other gates to train".to_owned(),
    );
    let dog = &config.watchdog;
    say(
        !(share(dog.keep_below) && share(dog.keep_above) && dog.keep_below < dog.keep_above),
        format!(
            "watchdog.keep_below is {} and keep_above {}; 0 <= below < above <= 1 is needed",
            dog.keep_below, dog.keep_above
        ),
    );
    problems.extend(config.init.as_ref().map(init).unwrap_or_default());
    problems.extend(config.lora.as_ref().map(Lora::problems).unwrap_or_default());
    problems.extend(forgetting(config));
    if let Some(count) = config.batch.tokens {
        let positions = config.init.as_ref().map_or(MAX_POSITIONS, |init| init.context);
        problems.extend(tokens(config, count, positions));
    }
    problems
}

fn init(init: &Init) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, value, limit) in [
        ("layers", init.layers, MAX_LAYERS),
        ("hidden", init.hidden, MAX_HIDDEN),
        ("heads", init.heads, MAX_HEADS),
        ("kv_heads", init.kv_heads(), MAX_HEADS),
        ("context", init.context, MAX_POSITIONS),
        ("vocabulary", init.vocabulary.unwrap_or(1), MAX_VOCABULARY),
        ("intermediate", init.intermediate.unwrap_or(1), MAX_INTERMEDIATE),
    ] {
        if !(1..=limit).contains(&value) {
            problems.push(format!("init.{name} is {value}; from 1 to {limit} is allowed"));
        }
    }
    if !problems.is_empty() {
        return problems;
    }
    let Init { hidden, heads, family, .. } = *init;
    if !hidden.is_multiple_of(heads) {
        problems.push(format!("init.hidden is {hidden}, which init.heads, {heads}, does not divide"));
    } else if family == Family::Llama && !(hidden / heads).is_multiple_of(2) {
        problems.push(format!(
            "init.hidden / init.heads is {}; positions rotate pairs, so it must be even",
            hidden / heads
        ));
    }
    if family == Family::Gpt2 && init.kv_heads() != heads {
        problems.push("init.kv_heads goes with `family: llama`; gpt2 has one KV head per head".to_owned());
    } else if !heads.is_multiple_of(init.kv_heads()) {
        problems.push(format!(
            "init.heads is {heads}, which init.kv_heads, {}, does not divide",
            init.kv_heads()
        ));
    }
    problems
}

fn forgetting(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let mut say = |wrong: bool, words: String| {
        if wrong {
            problems.push(words);
        }
    };
    if let Some(window) = &config.window {
        say(window.recent == 0, "window.recent is 0; a token sees at least itself, 1".to_owned());
    }
    if let Some(gates) = &config.gates {
        say(
            !(1..=MAX_GATE_WIDTH).contains(&gates.width()),
            format!("gates.width is {}; from 1 to {MAX_GATE_WIDTH} is allowed", gates.width()),
        );
        say(!gates.bias.is_finite(), format!("gates.bias is {}; a finite number is needed", gates.bias));
        if let Some(noise) = &gates.noise {
            say(
                !(noise.start >= 0.0 && noise.start.is_finite()),
                format!("gates.noise.start is {}; 0 or more is needed", noise.start),
            );
            say(
                !(noise.until > 0.0 && noise.until <= 1.0),
                format!("gates.noise.until is {}; above 0 and up to 1 is allowed", noise.until),
            );
        }
        say(
            gates.rule == GateRule::Soft && gates.alpha.is_none(),
            "gates.rule is soft and there is no gates.alpha".to_owned(),
        );
    }
    let Some(sparsity) = &config.sparsity else { return problems };
    if let Some(gamma) = sparsity.gamma {
        say(!(gamma >= 0.0 && gamma.is_finite()), format!("sparsity.gamma is {gamma}; 0 or more is needed"));
    }
    if let Some(keep) = sparsity.target_keep {
        say(
            !(keep > 0.0 && keep <= 1.0),
            format!("sparsity.target_keep is {keep}; above 0 and up to 1 is allowed"),
        );
        if let Some(trained) = sparsity.trained_keep {
            say(
                !(trained > 0.0 && trained <= keep),
                format!(
                    "sparsity.trained_keep is {trained}; above 0 and up to target_keep, {keep}, is allowed"
                ),
            );
        }
    }
    if let Some(ramp) = sparsity.ramp {
        let fine = 0.0 <= ramp.from && ramp.from <= ramp.until && ramp.until <= 1.0;
        say(
            !fine,
            format!(
                "sparsity.ramp goes from {} until {}; 0 <= from <= until <= 1 is needed",
                ramp.from, ramp.until
            ),
        );
    }
    if let Some(Budgets::Prior(shares)) = &sparsity.budgets {
        let wrong = shares.iter().find(|share| !(**share > 0.0 && **share <= 1.0));
        say(
            wrong.is_some(),
            format!(
                "sparsity.budgets holds {}; above 0 and up to 1 is allowed",
                wrong.copied().unwrap_or(0.0)
            ),
        );
        let layers = config.init.as_ref().map_or(shares.len().max(1), |init| init.layers);
        say(
            shares.len() != layers,
            format!("sparsity.budgets has {} shares; one per layer is needed, {layers}", shares.len()),
        );
    }
    problems
}

/// Whether sequences of so many tokens fit the model and leave something to forget.
pub(super) fn tokens(config: &Config, tokens: usize, positions: usize) -> Vec<String> {
    let mut problems = Vec::new();
    if tokens > positions {
        problems.push(format!("batch.tokens is {tokens}, and the model has {positions} positions"));
    }
    let floors = match (&config.window, &config.gates) {
        (Some(window), _) => Some(("window", u64::from(window.sinks) + u64::from(window.recent))),
        (None, Some(gates)) => Some(("gates", u64::from(gates.sinks) + u64::from(gates.recent))),
        (None, None) => None,
    };
    if let Some((section, floor)) = floors.filter(|(_, floor)| *floor >= tokens as u64) {
        problems.push(format!(
            "{section}.sinks + {section}.recent is {floor}, and a sequence has {tokens} tokens (batch.tokens): nothing could be forgotten"
        ));
    }
    problems
}
