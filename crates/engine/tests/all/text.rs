//! The text of a sequence, its stop strings and its special tokens, on a tokenizer made here.

use std::path::Path;
use std::sync::Arc;

use dropcap_engine::TextStream;
use dropcap_model::Tokenizer;
use serde_json::json;

/// Llama's way: `<unk>` 0, `</s>` 1, `<|im_end|>` 2, the 256 bytes from 3 on, then `a`, `b`.
fn tokenizer() -> Arc<Tokenizer> {
    let mut words = serde_json::Map::new();
    let special = ["<unk>", "</s>", "<|im_end|>"];
    let tokens = special.iter().map(|token| (*token).to_owned());
    let tokens = tokens.chain((0..256).map(|byte| format!("<0x{byte:02X}>"))).chain(["a".into(), "b".into()]);
    for (id, token) in tokens.enumerate() {
        words.insert(token, id.into());
    }
    let added: Vec<_> = special
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
            "vocab": words, "merges": []},
    });
    Arc::new(Tokenizer::parse(Path::new("tokenizer.json"), file.to_string().as_bytes()).unwrap())
}

const EOS: u32 = 1;
const IM_END: u32 = 2;
const A: u32 = 259;
const B: u32 = 260;

fn byte(byte: u8) -> u32 {
    3 + u32::from(byte)
}

/// The whole text, and how many tokens it took until a stop string ended it.
fn run(prompt: &[u32], stops: &[&str], stop_tokens: &[u32], ids: &[u32]) -> (String, Option<usize>) {
    let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
    let mut stream = TextStream::new(tokenizer(), prompt, stop_tokens, stops).unwrap();
    let mut text = String::new();
    for (index, &id) in ids.iter().enumerate() {
        let (piece, stopped) = stream.push(id).unwrap();
        text.push_str(&piece);
        if stopped {
            let (rest, still) = stream.finish().unwrap();
            assert!(rest.is_empty() && still, "nothing follows a stop string");
            return (text, Some(index + 1));
        }
    }
    text.push_str(&stream.finish().unwrap().0);
    (text, None)
}

#[test]
fn a_stop_string_that_is_a_special_token_ends_the_text() {
    assert_eq!(run(&[A], &["<|im_end|>"], &[], &[A, B, IM_END, A]), ("ab".into(), Some(3)));
    assert_eq!(run(&[A], &["b<|im_end|>"], &[EOS], &[A, B, IM_END, A]), ("a".into(), Some(3)));
    assert_eq!(run(&[A], &["<|im_end|></s>"], &[], &[IM_END, A, IM_END, EOS, A]), ("a".into(), Some(4)));
    // Another one is passed over, and so is a part of it.
    assert_eq!(run(&[A], &["</s>", "end", "b"], &[], &[A, IM_END, A]), ("aa".into(), None));
}

#[test]
fn a_character_before_a_special_token_is_not_lost() {
    let open = [A, byte(0xf0), byte(0x9f), IM_END];
    assert_eq!(run(&[A], &["<|im_end|>"], &[], &open), ("a\u{fffd}".into(), Some(4)));
    assert_eq!(run(&[A], &[], &[], &open), ("a\u{fffd}".into(), None));
}

#[test]
fn a_stop_token_ends_without_text() {
    assert_eq!(run(&[A], &[], &[EOS], &[A, EOS]), ("a".into(), None));
}

#[test]
fn nothing_of_the_prompt_is_in_the_text() {
    let mark = [byte(0xef), byte(0xbf), byte(0xbd)];
    assert_eq!(run(&mark, &[], &[], &[A]), ("a".into(), None));
    assert_eq!(run(&mark, &[], &[], &[]), (String::new(), None));
    assert_eq!(run(&[A, byte(0xff)], &[], &[], &[B]), ("b".into(), None));
    assert_eq!(run(&mark, &[], &[], &mark), ("\u{fffd}".into(), None));
}

#[test]
fn nothing_after_a_stop_string_is_shown() {
    // The piece that completes it also opens a character.
    let ids = [A, B, byte(0xf0)];
    assert_eq!(run(&[A], &["b"], &[], &ids), ("a".into(), Some(2)));
}
