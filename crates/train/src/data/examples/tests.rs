use std::path::Path;

use dropcap_model::Tokenizer;
use dropcap_model::chat::{ChatTemplate, Role};

use super::*;
use crate::data::Borders;

/// Letters, of which `ab` and `bc` are joined, in this order of preference; `<s>` and `</s>` stand around texts.
fn tokenizer() -> Tokenizer {
    let json = serde_json::json!({
        "version": "1.0", "normalizer": null, "pre_tokenizer": null, "decoder": null, "post_processor": null,
        "added_tokens": [
            {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        ],
        "model": {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "ab": 5, "bc": 6},
                  "merges": ["a b", "b c"]},
    });
    Tokenizer::parse(Path::new("tokenizer.json"), json.to_string().as_bytes()).unwrap()
}

fn encoded(said: Said, template: Option<&str>) -> Result<Example, String> {
    let template = template.map(|source| ChatTemplate::new(source.to_owned(), None, None).unwrap());
    let (tokenizer, borders) = (tokenizer(), Borders { begin: vec![0], end: vec![1] });
    let language =
        Language { tokenizer: &tokenizer, borders: &borders, stops: &[1], template: Ok(template.as_ref()) };
    encode(&language, &Document { said, line: 1 })
}

fn pair(prompt: &str, completion: &str) -> Example {
    encoded(Said::Pair { prompt: prompt.into(), completion: completion.into() }, None).unwrap()
}

#[test]
fn the_answer_of_a_pair_is_learned_with_its_end_and_the_prompt_is_that_of_inference() {
    for (prompt, completion, ids, first) in [
        // Together as apart.
        ("ca", "abc", vec![0, 4, 2, 5, 4, 1], 3),
        ("", "bc", vec![0, 6, 1], 1),
        // Together a token would cross the border, or the prompt would become other tokens: apart.
        ("ca", "bc", vec![0, 4, 2, 6, 1], 3),
        ("a", "b", vec![0, 2, 3, 1], 2),
        ("b", "c", vec![0, 3, 4, 1], 2),
    ] {
        let example = pair(prompt, completion);
        assert_eq!(
            (&example.ids, &example.answers),
            (&ids, &vec![first..ids.len()]),
            "{prompt} {completion}"
        );
        let asked = tokenizer().encode_piece(prompt).unwrap();
        assert!(asked.iter().map(|(id, _)| id).eq(&example.ids[1..first]), "{prompt}");
    }
}

#[test]
fn a_conversation_ends_with_a_stop_token_whoever_writes_it() {
    let chat = || {
        let said = |role, text: &str| Message::text(role, text.to_owned());
        Said::Chat(vec![said(Role::User, "a"), said(Role::Assistant, "b")])
    };
    let open =
        "{% for m in messages %}{{ 'c' + m.content }}{% endfor %}{% if add_generation_prompt %}c{% endif %}";
    let example = encoded(chat(), Some(open)).unwrap();
    assert_eq!((example.ids, example.answers), (vec![4, 2, 4, 3, 1], vec![3..5]));
    let closed = "{% for m in messages %}{{ 'c' + m.content + '</s>c' }}{% endfor %}{% if add_generation_prompt %}c{% endif %}";
    let example = encoded(chat(), Some(closed)).unwrap();
    assert_eq!((example.ids, example.answers), (vec![4, 2, 1, 4, 4, 3, 1, 4], vec![5..7]));
    let lost =
        "{% for m in messages %}c{{ m.content }}{% endfor %}{% if add_generation_prompt %}a{% endif %}";
    assert!(encoded(chat(), Some(lost)).unwrap_err().contains("does not tell where an answer begins"));
    assert!(encoded(chat(), None).unwrap_err().contains("no chat template"));
}
