//! The fuzz body on seeded inputs.

use dropcap_train::fuzzing;

const VALID: [&str; 3] = [
    "version: 1\nmodel: m\ndata: {train: [a.txt], valid: [b.txt]}\noutput: out\nkv_dtype: bf16\nthreads: 2\n\
     optimizer: {learning_rate: 1e-4, betas: [0.9, 0.99], warmup: 5, schedule: cosine}\n\
     gates: {rule: hard, per: kv_head, width: 16, sinks: 4, recent: 12, noise: {start: 1.0, until: 0.5}}\n\
     sparsity: {target_keep: 0.2, ramp: {from: 0.1, until: 0.6}, budgets: [0.5, 0.1]}\n",
    "model: org/name\ndata:\n  train: [a.txt]\noutput: out\ngates:\n  rule: soft\n  alpha: cosine_1.5_8_1000\n\
     sparsity:\n  gamma: 0.3\n  form: paper\ncheckpoint: {every: 10, keep: 2, activations: true}\n\
     evaluate: {every: 10, windows: 4}\nwatchdog: {skip_steps: 3}\n",
    "init: {family: llama, layers: 2, hidden: 64, heads: 4, kv_heads: 2, context: 128, vocabulary: 500}\n\
     tokenizer: t.json\ndata: {train: [a.txt], cache: shards}\noutput: out\nmethod: window\n\
     window: {sinks: 4, recent: 60}\ndtype: f16\ntrain: all\ndistill: 0\nseed: 3\nsteps: 40\n\
     batch: {sequences: 8, tokens: 128, micro_sequences: 2}\n",
];
const PIECES: [&str; 24] = [
    "0",
    "1",
    "-1",
    "1e999",
    "1e-320",
    ".nan",
    ".inf",
    "0x10",
    "18446744073709551615",
    "null",
    "~",
    "true",
    "[",
    "]",
    "{",
    "}",
    ": ",
    "\n",
    "\n  ",
    "&a ",
    "*a",
    "!!str ",
    "'",
    "<<: ",
];

#[test]
fn random_bytes_never_panic_the_configuration() {
    dropcap_mutation::random_bytes(1000, fuzzing::run_yaml);
}

#[test]
fn a_changed_configuration_is_refused_or_reads_as_it_was_resolved() {
    VALID.iter().for_each(|text| fuzzing::run_yaml(text.as_bytes()));
    dropcap_mutation::changed(3000, &VALID, &PIECES, fuzzing::run_yaml);
}
