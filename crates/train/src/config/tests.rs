use dropcap_methods::GateKind;

use super::*;
use crate::network::GateForm;

const SHORT: &str = "model: m\ndata: {train: [a.txt]}\noutput: out\n";
const SCRATCH: &str = "
init: {family: llama, layers: 2, hidden: 64, heads: 4, kv_heads: 2, context: 128, vocabulary: 500, intermediate: 96}
tokenizer: t.json
data: {train: [a.txt], valid: [b.txt], cache: shards}
output: out
";

fn parse(text: &str, overrides: &[&str]) -> Result<Config, TrainError> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Config::parse("test.yaml", text, &overrides)
}

fn good(text: &str, overrides: &[&str]) -> Config {
    parse(text, overrides).unwrap_or_else(|error| panic!("{overrides:?}: {error}"))
}

fn refusal(text: &str, overrides: &[&str]) -> String {
    let error = parse(text, overrides).expect_err(&format!("{overrides:?}")).to_string();
    assert!(error.starts_with("test.yaml:\n"), "{error}");
    error
}

/// Every kind of run, with every key in one of them.
fn all_kinds() -> Vec<Config> {
    let threads = "threads=2";
    vec![
        good(SHORT, &[threads]),
        good(SHORT, &["gates.rule=soft", "sparsity.gamma=0.3", "batch.tokens=512"]),
        good(SHORT, &["gates.rule=birth", "gates.noise.start=0.5", "sparsity.trained_keep=0.15"]),
        good(SHORT, &["method=window", "dtype=bf16", "kv_dtype=f16"]),
        good(SHORT, &["train=lora", "method=none"]),
        good(SHORT, &["device=cuda:0", "precision=bf16"]),
        good(SHORT, &["data.select=coreset(share=0.1)", "data.scores=scores.jsonl"]),
        good(SHORT, &["data.select=leaf", "data.scores=confounders.jsonl", "teacher=large", "distill=1"]),
        good(SCRATCH, &[]),
        good(SCRATCH, &["method=dcp", "gates.per=kv_head", "sparsity.budgets=[0.5, 0.1]"]),
        good(
            SCRATCH,
            &["sparsity.budgets=probe", "init.family=gpt2", "init.kv_heads=", "optimizer.schedule=constant"],
        ),
    ]
}

#[test]
fn three_keys_make_a_run() {
    let config = good(SHORT, &[]);
    assert_eq!((config.method, config.train, config.steps), (Method::Dcp, Trained::All, 1000));
    assert_eq!(config.optimizer.learning_rate, 1e-4);
    assert_eq!(config.optimizer.warmup, 50);
    let ramp = Ramp { from: 0.05, until: 0.6 };
    let pressure = config.sparsity.as_ref().unwrap().pressure();
    let budgets = Budgets::Word(BudgetWord::Probe);
    assert_eq!(pressure, Pressure::Target { keep: 0.2, trained: 0.2, ramp, budgets });
    let less = good(SHORT, &["sparsity.trained_keep=0.15"]).sparsity.unwrap().pressure();
    assert!(matches!(less, Pressure::Target { keep: 0.2, trained: 0.15, .. }), "{less:?}");
    assert_eq!(config.cache(), Path::new("out/cache"));
    let scratch = good(SCRATCH, &["steps=40"]);
    assert_eq!((scratch.method, scratch.optimizer.learning_rate), (Method::None, 1e-3));
    assert_eq!((scratch.optimizer.warmup, scratch.gates), (4, None));
    let lora = good(SHORT, &["train=lora", "lora.targets=[q_proj]"]);
    let factors = Lora { targets: vec!["q_proj".into()], ..Lora::default() };
    assert_eq!((lora.lora, lora.optimizer.learning_rate), (Some(factors), 2e-4));
    assert_eq!(good(SHORT, &["window.recent=8"]).method, Method::Window);
    let soft = good(SHORT, &["gates.rule=soft", "steps=70", "sparsity.gamma=1"]).gates.unwrap();
    assert_eq!(soft.alpha.unwrap().to_string(), "cosine_1.5_8_70");
    let birth = good(SHORT, &["gates.rule=birth"]).gates.unwrap();
    assert_eq!((birth.width, birth.noise.clone()), (None, Some(Noise::default())));
    assert_eq!((birth.form(3), birth.form(3).kind), (GateForm::at_birth(3), GateKind::Birth));
    assert_eq!(good(SHORT, &[]).gates.unwrap().form(3), GateForm::votes(3, 16));
}

#[test]
fn a_resolved_configuration_reads_as_itself() {
    for config in all_kinds() {
        let text = config.to_yaml().unwrap();
        let again = good(&text, &[]);
        assert_eq!(again, config, "{text}");
        assert_eq!(again.to_yaml().unwrap(), text);
        assert_eq!(again.digest(), config.digest());
    }
    let exact = good(
        SHORT,
        &["optimizer.learning_rate=1.2345678901234567e-5", "sparsity.target_keep=0.30000000000000004"],
    );
    assert_eq!(good(&exact.to_yaml().unwrap(), &[]), exact, "every bit of a number survives");
}

#[test]
fn every_key_is_listed_and_every_listed_key_exists() {
    let mut found = std::collections::BTreeSet::new();
    for config in all_kinds() {
        found.extend(differences::flat(&config).into_keys());
    }
    found.extend(
        ["version", "output", "device", "threads", "data.cache", "checkpoint.every", "checkpoint.keep"]
            .map(String::from),
    );
    let listed: std::collections::BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    assert_eq!(found, listed);
    assert_eq!(listed.len(), KEYS.len(), "no key is listed twice");
}

#[test]
fn a_configuration_of_a_later_version_is_refused_by_name_before_its_keys_are_read() {
    let error = refusal(SHORT, &["version=2", "key_of_the_future=1"]);
    assert!(error.contains("format version 2") && error.contains("reads up to 1"), "{error}");
    assert!(!error.contains("key_of_the_future"), "{error}");
    assert_eq!(good(SHORT, &["version=1"]), good(SHORT, &[]), "what names no version is of the first");
    assert!(refusal(SHORT, &["version=one"]).contains("version is \"one\""));
}

#[test]
fn overrides_win_and_empty_ones_restore_the_default() {
    let text = "model: m\ndata: {train: [a.txt]}\noutput: out\nsteps: 7\nbatch: {sequences: 3}\n";
    let config = good(
        text,
        &["steps=", "batch.sequences=8", "batch.micro_sequences=4", "data.valid=[b.txt, c d.txt]"],
    );
    assert_eq!((config.steps, config.batch.sequences, config.batch.micro_sequences), (1000, 8, 4));
    assert_eq!(config.data.valid, [PathBuf::from("b.txt"), PathBuf::from("c d.txt")]);
    assert_eq!(good("", &["model=m", "data.train=[a]", "output=o"]).output, Path::new("o"));
    for (given, words) in [
        ("steps", "no key=value"),
        ("=3", "names no key"),
        ("batch..tokens=3", "names no key"),
        ("steps.x=3", "no section"),
        ("data.train=[a", "no YAML"),
    ] {
        assert!(refusal(SHORT, &["steps=3", given]).contains(words), "{given}");
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    for (given, words) in [
        ("optimizer.learningrate=1", "`optimizer.learningrate` (did you mean `optimizer.learning_rate`?)"),
        ("learning_rate=1", "(did you mean `optimizer.learning_rate`?)"),
        ("modle=1", "(did you mean `model`?)"),
        ("sparsity.ramp.form=1", "(did you mean `sparsity.ramp.from`?)"),
        ("sparsety.gamma=1", "(did you mean `sparsity`?)"),
        ("zebra=1", "there is no key `zebra`"),
        ("batch=3", "batch is a section"),
    ] {
        let error = refusal(SHORT, &[given, "unrelated_key_too=1"]);
        assert!(error.contains(words) && error.contains("unrelated_key_too"), "{given}: {error}");
    }
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let cases: [(&str, &[&str], &str); 28] = [
        (SHORT, &["init.layers=2"], "both `model` and `init`"),
        (SHORT, &["model="], "neither `model` nor `init`"),
        (SHORT, &["tokenizer=t"], "`tokenizer` goes with `init`"),
        (SCRATCH, &["tokenizer="], "`init` needs a `tokenizer`"),
        (SHORT, &["sparsity.gamma=0.3", "sparsity.target_keep=0.2"], "both `sparsity.gamma` and"),
        (SHORT, &["sparsity.form=paper"], "there is no `sparsity.gamma`"),
        (SHORT, &["sparsity.gamma=1", "sparsity.ramp.from=0.1"], "`sparsity.ramp` goes with"),
        (SHORT, &["method=none", "gates.width=3"], "`gates` goes with `method: dcp`"),
        (SHORT, &["method=window", "sparsity.gamma=1"], "`sparsity` goes with `method: dcp`"),
        (SHORT, &["method=dcp", "window.recent=3"], "`window` goes with `method: window`"),
        (SHORT, &["window.recent=3", "gates.width=3"], "choose a `method`"),
        (SHORT, &["gates.alpha=cosine_1_8_10"], "`gates.rule: soft`"),
        (SHORT, &["gates.rule=soft", "gates.noise.start=1"], "`gates.rule: hard`"),
        (SHORT, &["gates.rule=birth", "gates.width=16"], "`gates.width` goes with gates that vote"),
        (SHORT, &["gates.rule=birth", "gates.alpha=cosine_1_8_10"], "`gates.rule: soft`"),
        (SHORT, &["method=none", "gates.rule=birth"], "`gates` goes with `method: dcp`"),
        (SHORT, &["optimizer.schedule=constant", "optimizer.floor=0.1"], "`optimizer.floor` goes with"),
        (SHORT, &["method=none", "train=gates"], "`train: gates` goes with"),
        (SHORT, &["lora.rank=4"], "`lora` goes with `train: lora`, and train is all"),
        (SHORT, &["train=lora", "dtype=bf16"], "`dtype` goes with `train: all`"),
        (SCRATCH, &["train=lora"], "`train: lora` goes with `model`"),
        (SCRATCH, &["train=gates", "method=dcp"], "`train: gates` goes with `model`"),
        (SCRATCH, &["distill=0.5"], "distill goes with `model`"),
        (SHORT, &["data.valid=[a.txt]"], "both data.train and data.valid"),
        (SHORT, &["output=m"], "the model's own directory"),
        (SHORT, &["batch.sequences=16", "batch.micro_sequences=3"], "does not divide"),
        (SHORT, &["steps=50", "optimizer.warmup=50"], "nothing is left to decay"),
        (SHORT, &["batch.tokens=20"], "gates.sinks + gates.recent is 20"),
    ];
    for (text, overrides, words) in cases {
        let error = refusal(text, overrides);
        assert!(error.contains(words), "{overrides:?}: {error}");
    }
}

#[test]
fn values_out_of_range_are_refused_with_key_and_value() {
    for given in [
        "steps=0",
        "batch.sequences=0",
        "batch.tokens=0",
        "optimizer.learning_rate=0",
        "optimizer.learning_rate=.nan",
        "optimizer.betas=[0.9, 1]",
        "optimizer.betas=[0.9]",
        "optimizer.clip=-1",
        "optimizer.floor=2",
        "sparsity.target_keep=0",
        "sparsity.target_keep=1.5",
        "sparsity.trained_keep=0",
        "sparsity.trained_keep=0.21",
        "sparsity.gamma=-1",
        "sparsity.ramp.from=0.7",
        "sparsity.budgets=[0.5, 2]",
        "sparsity.budgets=some",
        "gates.width=0",
        "gates.width=100000",
        "gates.recent=-1",
        "gates.noise.until=0",
        "gates.rule=firm",
        "watchdog.keep_below=0.999",
        "checkpoint.keep=0",
        "distill=1.1",
        "threads=0",
        "steps=many",
        "seed=-1",
        "data.train=[]",
        "method=h2o",
        "kv_dtype=int8",
        "version=0",
    ] {
        let (key, value) = given.split_once('=').unwrap();
        let error = refusal(SHORT, &[given]);
        let name = key.split('.').next().unwrap();
        assert!(error.contains(name), "{given}: {error}");
        assert!(
            value.starts_with('[') || error.to_lowercase().contains(value.trim_start_matches('.')),
            "{given}: {error}"
        );
    }
    for given in ["lora.rank=0", "lora.rank=5000", "lora.alpha=0", "lora.alpha=.inf", "lora.targets=q_proj"] {
        assert!(refusal(SHORT, &["train=lora", given]).contains("lora."), "{given}");
    }
    for given in [
        "init.hidden=66",
        "init.layers=0",
        "init.kv_heads=3",
        "init.family=gpt2",
        "init.context=0",
        "init.heads=64",
    ] {
        assert!(refusal(SCRATCH, &[given]).contains("init."), "{given}");
    }
    assert!(refusal(SCRATCH, &["sparsity.budgets=[0.1]"]).contains("one per layer"));
    assert!(refusal(SCRATCH, &["batch.tokens=129"]).contains("128 positions"));
    assert!(refusal(SHORT, &["gates.rule=soft", "gates.alpha=cosin_1_2_3"]).contains("linearcosine_<start>"));
}

#[test]
fn what_is_no_configuration_is_refused() {
    for text in ["[1, 2]", "just words", "a: b: c", "model: m\nmodel: n\n", "{", "\u{0}"] {
        refusal(text, &[]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.yaml");
    assert!(Config::resolve(&path, &[]).is_err());
    std::fs::write(&path, SHORT).unwrap();
    assert_eq!(Config::resolve(&path, &[]).unwrap(), good(SHORT, &[]));
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(Config::resolve(&path, &[]).unwrap_err().to_string().contains("longer than"));
    std::fs::write(&path, b"\xff").unwrap();
    assert!(Config::resolve(&path, &[]).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn a_resumed_run_hears_what_was_changed() {
    let run = good(SHORT, &[]);
    let same = good(SHORT, &["output=elsewhere", "threads=7", "checkpoint.every=3", "data.cache=c"]);
    assert!(run.differences(&same).is_empty());
    assert_eq!(run.digest(), same.digest());
    let other = good(SHORT, &["optimizer.learning_rate=3e-4", "seed=1", "sparsity.gamma=0.3"]);
    let lines = run.differences(&other);
    assert!(
        lines.contains(&"optimizer.learning_rate: the run has 0.0001, now 0.0003 is given".to_owned()),
        "{lines:?}"
    );
    assert!(lines.contains(&"sparsity.gamma: the run has nothing, now 0.3 is given".to_owned()), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("seed: ")) && run.digest() != other.digest());
}

#[test]
fn sequences_fit_the_model() {
    let config = good(SHORT, &[]);
    assert_eq!(config.sequence_tokens(512).unwrap(), 512);
    assert_eq!(config.sequence_tokens(1 << 17).unwrap(), 1024);
    assert!(config.sequence_tokens(20).unwrap_err().to_string().contains("nothing could be forgotten"));
    let stated = good(SHORT, &["batch.tokens=700"]);
    let error = stated.sequence_tokens(512).unwrap_err().to_string();
    assert!(error.contains("700") && error.contains("512"), "{error}");
}

#[test]
fn targets_and_noise_follow_the_steps() {
    let ramp = Ramp { from: 0.05, until: 0.6 };
    assert_eq!(ramp.target(0.2, 0, 1000), 1.0);
    assert_eq!(ramp.target(0.2, 50, 1000), 1.0);
    assert!((ramp.target(0.2, 325, 1000) - 0.2_f64.sqrt()).abs() < 1e-12);
    assert_eq!(ramp.target(0.2, 600, 1000), 0.2);
    assert_eq!(Ramp { from: 0.5, until: 0.5 }.target(0.2, 501, 1000), 0.2);
    let noise = Noise { start: 2.0, until: 0.5 };
    assert_eq!(
        (noise.at(0, 100), noise.at(25, 100), noise.at(50, 100), noise.at(90, 100)),
        (2.0, 1.0, 0.0, 0.0)
    );
}
