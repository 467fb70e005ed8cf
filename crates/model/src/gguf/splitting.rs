//! How text is split into words before tokens are looked for, by the name that llama.cpp gives to it.

use serde_json::{Value, json};

/// Letters with a mark before them, single digits, marks, white space: Qwen2.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with up to three digits together: Llama 3.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words that end where small letters give way to capitals: Mistral's Tekken.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How words of one kind of tokenizer are found.
pub(super) struct Splitting {
    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub(super) pre_tokenizer: Value,
    /// The `normalizer`.
    pub(super) normalizer: Value,
    /// Whether a word that is a token is taken without merging.
    pub(super) ignore_merges: bool,
    /// Whether a text begins with the token for it where the file does not say.
    pub(super) begins: bool,
}

/// The names that [`splitting`] knows, for messages.
pub(super) const KNOWN: &str =
    "one of gpt-2, smollm, llama-bpe, qwen2 and tekken, or a name of the same rules";

/// The rules of a name; none for one that is not known.
pub(super) fn splitting(name: &str) -> Option<Splitting> {
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let by = |pattern: &str| {
        let split =
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes]})
    };
    let plain = |pre_tokenizer: Value| Splitting {
        pre_tokenizer,
        normalizer: Value::Null,
        ignore_merges: false,
        begins: false,
    };
    Some(match name {
        "gpt-2" => plain(bytes),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => plain(json!({
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes],
        })),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" => {
            Splitting { ignore_merges: true, begins: true, ..plain(by(LLAMA3)) }
        }
        "qwen2" | "deepseek-r1-qwen" => Splitting { normalizer: json!({"type": "NFC"}), ..plain(by(QWEN2)) },
        "tekken" => Splitting { ignore_merges: true, begins: true, ..plain(by(TEKKEN)) },
        _ => return None,
    })
}
