use super::*;

/// A tokenizer of bytes-as-letters with special tokens, and what it puts around a text.
fn tokenizer(special: &[&str], before: &[&str], behind: &[&str]) -> Tokenizer {
    let letters = ["a", "b", "c", "z"];
    let vocabulary: serde_json::Map<String, Value> = special
        .iter()
        .chain(&letters)
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), Value::from(id)))
        .collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            serde_json::json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let piece = |token: &&str| serde_json::json!({"SpecialToken": {"id": token, "type_id": 0}});
    let mut single: Vec<Value> = before.iter().map(piece).collect();
    single.push(serde_json::json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(behind.iter().map(piece));
    let tokens: serde_json::Map<String, Value> = before
        .iter()
        .chain(behind)
        .map(|token| {
            let entry = serde_json::json!({"id": token, "ids": [vocabulary[*token]], "tokens": [token]});
            ((*token).to_owned(), entry)
        })
        .collect();
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": null, "decoder": null,
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": [
            {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
        ], "special_tokens": tokens},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    Tokenizer::parse(Path::new("tokenizer.json"), json.to_string().as_bytes()).unwrap()
}

/// Special tokens, what the tokenizer puts before and behind, the model's stops, the end that is named; then what must
/// stand before and behind documents.
type Case<'a> =
    (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [u32], Option<&'a str>, &'a [u32], &'a [u32]);

#[test]
fn documents_begin_and_end_as_texts_do_in_inference() {
    let llama = ["<unk>", "<s>", "</s>", "<|eot|>"];
    let cases: [Case<'_>; 9] = [
        // Llama: a token before, the model's own behind.
        (&llama, &["<s>"], &[], &[2], Some("</s>"), &[1], &[2]),
        // The tokenizer's configuration says nothing.
        (&llama, &["<s>"], &[], &[2], None, &[1], &[2]),
        // Several ends: the named one, else the first.
        (&llama, &[], &[], &[2, 3], Some("<|eot|>"), &[], &[3]),
        (&llama, &[], &[], &[2, 3], None, &[], &[2]),
        // One that the tokenizer does not have, or that the model does not stop at.
        (&llama, &[], &[], &[700, 3], None, &[], &[3]),
        (&llama, &[], &[], &[2], Some("<|eot|>"), &[], &[2]),
        // The model names none: the tokenizer's configuration does, or the tokenizer ends every text itself.
        (&llama, &[], &[], &[], Some("</s>"), &[], &[2]),
        (&llama, &["<s>"], &["</s>"], &[2], None, &[1], &[2]),
        // Nobody names any.
        (&llama, &[], &[], &[], None, &[], &[]),
    ];
    for (index, (special, before, behind, stops, named, begin, end)) in cases.into_iter().enumerate() {
        let found = Borders::of(&tokenizer(special, before, behind), stops, named).unwrap();
        assert_eq!((&*found.begin, &*found.end), (begin, end), "case {index}");
    }
    let own = tokenizer(&["<x>", END_OF_TEXT], &[], &[]);
    assert_eq!(Borders::of(&own, &[], None).unwrap().end, [1], "our own tokenizers'");
}

#[test]
fn the_end_token_is_read_in_either_form_and_of_either_file() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = folder.path().join("tokenizer.json");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    assert_eq!(named_end(&tokenizer).unwrap(), None);
    write("special_tokens_map.json", r#"{"eos_token": {"content": "</s>", "lstrip": false}}"#);
    assert_eq!(named_end(&tokenizer).unwrap().as_deref(), Some("</s>"));
    write("tokenizer_config.json", r#"{"eos_token": null}"#);
    assert_eq!(named_end(&tokenizer).unwrap().as_deref(), Some("</s>"));
    write("tokenizer_config.json", r#"{"eos_token": "<|eot|>"}"#);
    assert_eq!(named_end(&tokenizer).unwrap().as_deref(), Some("<|eot|>"));
    write("tokenizer_config.json", "{");
    assert!(named_end(&tokenizer).unwrap_err().to_string().contains("tokenizer_config.json"));
}
