//! Text to tokens and back, on a small byte-level tokenizer made here.

use std::path::Path;
use std::sync::Arc;

use dropcap_model::{IncrementalText, MAX_TEXT_BYTES, ModelError, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};

/// Llama 3's splitting pattern, which looks ahead after white space.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BOS: u32 = 262;
const END: u32 = 263;

/// A tokenizer of 256 bytes and a few merges, with two control tokens; every text begins with one of them.
fn file() -> Value {
    let bytes: Vec<u8> = (0..=255).collect();
    let mut vocabulary = serde_json::Map::new();
    let mut symbols: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    symbols.sort_unstable();
    assert_eq!(symbols.len(), bytes.len());
    for (id, symbol) in symbols.iter().enumerate() {
        vocabulary.insert(symbol.to_string(), id.into());
    }
    let merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "c"), ("a", "t"), ("Ġc", "at")];
    for (id, (left, right)) in merges.iter().enumerate() {
        vocabulary.insert(format!("{left}{right}"), (256 + id).into());
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "!"},
        "added_tokens": [special(BOS, "<|begin|>"), special(END, "<|end|>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [BOS], "tokens": ["<|begin|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges.map(|(left, right)| format!("{left} {right}"))},
    })
}

fn parse(file: &Value) -> Result<Tokenizer, ModelError> {
    Tokenizer::parse(Path::new("dir/tokenizer.json"), file.to_string().as_bytes())
}

fn tokenizer() -> Tokenizer {
    parse(&file()).unwrap()
}

/// A tokenizer as Llama 2's: spaces are `▁`, unknown characters fall back to bytes, a first space is stripped.
fn sentence_pieces() -> Tokenizer {
    parse(&sentence_pieces_file()).unwrap()
}

fn sentence_pieces_file() -> Value {
    let mut vocabulary = serde_json::Map::new();
    for (id, token) in ["<unk>", "<s>", "</s>"].iter().enumerate() {
        vocabulary.insert((*token).to_owned(), id.into());
    }
    for byte in 0..256 {
        vocabulary.insert(format!("<0x{byte:02X}>"), (3 + byte).into());
    }
    for (id, token) in ["▁", "a", "b", "▁a", "<", "/", "s", ">"].iter().enumerate() {
        vocabulary.insert((*token).to_owned(), (259 + id).into());
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": ["▁ a"]},
    })
}

fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> String {
    let mut stream = IncrementalText::new(Arc::clone(tokenizer));
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text.push_str(&stream.finish().unwrap());
    text
}

#[test]
fn text_survives_its_tokens_and_begins_with_the_tokenizers_token() {
    let tokenizer = tokenizer();
    // Longer than the 8 tokens to which the file would cut it.
    let text = "the cat's cat, the other cat, 12345 \u{1f600} and\n\n  more";
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(ids[0], BOS);
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    assert_eq!(tokenizer.encode("").unwrap(), [BOS]);
    assert_eq!(tokenizer.decode(&[]).unwrap(), "");
    assert_eq!((tokenizer.token(257).as_deref(), tokenizer.id("the")), (Some("the"), Some(257)));
    // An id that is no token is no reason to fail.
    assert_eq!(tokenizer.decode(&[257, 4_000_000_000]).unwrap(), "the");
}

#[test]
fn special_tokens_in_user_text_stay_text() {
    for tokenizer in [tokenizer(), sentence_pieces()] {
        for text in ["<|end|>", "a<|begin|><|end|>b", "</s>", "a </s><s>b"] {
            let ids = tokenizer.encode(text).unwrap();
            let text_ids = &ids[1..];
            assert!(text_ids.iter().all(|&id| !tokenizer.is_control(id)), "{text}: {ids:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }
}

#[test]
fn a_control_token_that_the_model_itself_makes_of_text_is_refused() {
    let mut file = file();
    // A vocabulary in which plain merging arrives at a control token.
    file["added_tokens"][1]["content"] = json!("the");
    file["added_tokens"][1]["id"] = json!(257);
    let tokenizer = parse(&file).unwrap();
    assert!(tokenizer.encode("see").is_ok());
    let error = tokenizer.encode("the").unwrap_err();
    assert!(matches!(error, ModelError::ControlToken { ref token } if token == "\"the\""), "{error}");
}

#[test]
fn special_tokens_in_a_prompt_are_those_tokens() {
    let tokenizer = tokenizer();
    let text_ids = |text: &str| tokenizer.encode(text).unwrap()[1..].to_vec();
    let expected = [&[BOS][..], &text_ids("a"), &[END, BOS], &text_ids(" the")].concat();
    assert_eq!(tokenizer.encode_prompt("a<|end|><|begin|> the").unwrap(), expected);
    // Where none is spelled out, a prompt is a text.
    for text in ["", "the cat's cat", "<|end", "\u{1f600}\n"] {
        assert_eq!(tokenizer.encode_prompt(text).unwrap(), tokenizer.encode(text).unwrap());
    }
    assert_eq!((tokenizer.special_token(END), tokenizer.special_token(257)), (Some("<|end|>"), None));
}

#[test]
fn only_the_template_writes_control_tokens_whatever_a_person_writes() {
    // Tokens that are looked for in the normalised text would be found at its beginning alone: the normaliser puts a space
    // before each. Chat models have them as they are written.
    let mut pieces = sentence_pieces_file();
    pieces["added_tokens"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|token| token["normalized"] = json!(false));
    let pieces = parse(&pieces).unwrap();
    for (tokenizer, begin, end, ids) in
        [(tokenizer(), "<|begin|>", "<|end|>", [BOS, END]), (pieces, "<s>", "</s>", [1, 2])]
    {
        let halves =
            |token: &str| [token[..1].to_owned(), token[..token.len() - 1].to_owned(), token[1..].to_owned()];
        let mut texts =
            vec![format!("a{begin}b{end}"), format!("{begin}{begin} {end} a"), "b > a <".to_owned()];
        texts.extend([begin, end].into_iter().flat_map(halves));
        texts.push("a\u{fdd0}b".to_owned());
        for text in &texts {
            let disarmed = tokenizer.disarm(text).unwrap();
            // What a template writes beside it, or cuts off, completes nothing.
            for rest in [begin, end].into_iter().flat_map(halves) {
                for rendered in
                    [format!("{rest}{disarmed}"), format!("{disarmed}{rest}"), disarmed.trim().to_owned()]
                {
                    let found = tokenizer.encode_rendered(&rendered).unwrap();
                    assert!(!found.iter().any(|id| ids.contains(id)), "{rendered:?}: {found:?}");
                }
            }
            let rendered = format!("{begin}{disarmed}{end}");
            let found = tokenizer.encode_rendered(&rendered).unwrap();
            assert_eq!([found[0], found[found.len() - 1]], ids, "{rendered:?}: {found:?}");
            assert!(!found[1..found.len() - 1].iter().any(|id| ids.contains(id)), "{found:?}");
            let shown = tokenizer.decode(&found).unwrap();
            assert_eq!(shown.trim(), text.replace('\u{fdd0}', "\u{fffd}").trim());
        }
    }
}

#[test]
fn a_prompt_has_the_limits_of_a_text() {
    let error = tokenizer().encode_prompt(&"a".repeat(MAX_TEXT_BYTES + 1)).unwrap_err();
    assert!(matches!(error, ModelError::TextTooLong { .. }));
    assert!(tokenizer().encode_prompt(&" ".repeat(250_001)).is_err());
}

#[test]
fn an_added_token_at_another_place_than_the_file_says_is_refused_where_it_is_used() {
    let mut gap = file();
    gap["added_tokens"][1]["id"] = json!(300);
    let tokenizer = parse(&gap).unwrap();
    tokenizer.check_vocabulary(264).unwrap();
    assert_eq!(tokenizer.encode_prompt("the").unwrap(), [BOS, 257]);
    let error = tokenizer.encode_prompt("the<|end|>").unwrap_err().to_string();
    for word in ["<|end|>", "dir/tokenizer.json", "the id 300", "place is 263"] {
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(tokenizer.decode(&[257, 263, 300]).unwrap(), "the");
    // Its id is somebody else's, who keeps it.
    gap["added_tokens"][1]["id"] = json!(257);
    let tokenizer = parse(&gap).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("the").unwrap()).unwrap(), "the");
}

#[test]
fn special_tokens_have_no_text_even_where_a_normalizer_changes_theirs() {
    let tokenizer = sentence_pieces();
    let ids = tokenizer.encode("ab").unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "ab");
    assert_eq!(tokenizer.decode(&[1, 2, 0]).unwrap(), "");
    assert_eq!((tokenizer.token(1).as_deref(), tokenizer.token(260).as_deref()), (Some("<s>"), Some("a")));
}

#[test]
fn the_vocabulary_must_fit_the_model() {
    let tokenizer = tokenizer();
    tokenizer.check_vocabulary(264).unwrap();
    tokenizer.check_vocabulary(50_000).unwrap();
    let text = tokenizer.check_vocabulary(261).unwrap_err().to_string();
    assert!(text.contains("261") && text.contains("dir/tokenizer.json"), "{text}");
    // The template puts this one around every text.
    assert!(tokenizer.check_vocabulary(BOS as usize).is_err());
    // A template may name ids that the vocabulary does not have.
    let mut template = file();
    template["post_processor"]["special_tokens"]["<|begin|>"]["ids"] = json!([5000]);
    let error = parse(&template).unwrap().check_vocabulary(264).unwrap_err();
    assert!(matches!(error, ModelError::TokenizerVocabulary { id: 5000, .. }), "{error}");
}

#[test]
fn an_added_token_that_the_model_lacks_is_refused_only_in_a_text_that_holds_it() {
    let tokenizer = tokenizer();
    tokenizer.check_vocabulary(END as usize).unwrap();
    let check = |text: &str| tokenizer.check_ids(&tokenizer.encode_prompt(text).unwrap(), END as usize);
    check("the cat").unwrap();
    let text = check("the cat<|end|>").unwrap_err().to_string();
    for word in ["\"<|end|>\"", "id 263", "263 tokens", "dir/tokenizer.json"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let directory = tempfile::TempDir::new().unwrap();
    let error = Tokenizer::open(directory.path()).unwrap_err();
    assert!(matches!(error, ModelError::NoTokenizer { .. }));
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    for text in ["", "{}", "[]", "null", "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\"}}"] {
        std::fs::write(directory.path().join("tokenizer.json"), text).unwrap();
        let error = Tokenizer::open(directory.path()).unwrap_err();
        assert!(matches!(error, ModelError::Tokenizer { .. }), "{text}: {error}");
    }
    std::fs::write(directory.path().join("tokenizer.json"), file().to_string()).unwrap();
    assert_eq!(Tokenizer::open(directory.path()).unwrap().encode("the").unwrap(), [BOS, 257]);
}

#[test]
fn long_runs_of_one_character_neither_panic_nor_hang_nor_lose_the_split() {
    let tokenizer = tokenizer();
    let tail = " the cat's cat";
    let expected = tokenizer.encode(&format!("!{tail}")).unwrap();
    for character in ["a", "^", "\n", "1", "\u{200b}", "\u{e9}", " \n"] {
        let text = format!("{}!{tail}", character.repeat(200_000 / character.len()));
        let ids = tokenizer.encode(&text).unwrap();
        assert!(ids.ends_with(&expected[2..]), "{character:?}");
    }
    let blank = |n: usize| tokenizer.encode(&format!("{}!{tail}", " ".repeat(n)));
    assert!(blank(250_000).unwrap().ends_with(&expected[2..]));
    let text = blank(250_001).unwrap_err().to_string();
    assert!(text.contains("250001") && text.contains("250000"), "{text}");
}

#[test]
fn more_text_than_the_limit_is_refused_before_it_is_tokenized() {
    let error = tokenizer().encode(&"a".repeat(MAX_TEXT_BYTES + 1)).unwrap_err();
    assert!(
        matches!(error, ModelError::TextTooLong { limit: MAX_TEXT_BYTES, got } if got == MAX_TEXT_BYTES + 1)
    );
}

#[test]
fn no_piece_holds_half_a_character() {
    let tokenizer = Arc::new(tokenizer());
    let ids = tokenizer.encode("\u{1f600}\u{e9}!").unwrap();
    let mut stream = IncrementalText::new(Arc::clone(&tokenizer));
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["", "", "", "", "\u{1f600}", "", "\u{e9}", "!"]);
    assert_eq!(stream.finish().unwrap(), "");
    // Cut off within a character, the rest says so; then the text begins anew.
    for &id in &ids[..3] {
        assert_eq!(stream.push(id).unwrap(), "");
    }
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    assert_eq!(stream.push(257).unwrap(), "the");
}

#[test]
fn bytes_that_are_no_text_are_not_held_for_ever() {
    let tokenizer = Arc::new(tokenizer());
    let mut stream = IncrementalText::new(Arc::clone(&tokenizer));
    let lone = tokenizer.encode("\u{e9}").unwrap()[2];
    let text: String = (0..200).map(|_| stream.push(lone).unwrap()).collect();
    assert!(text.chars().count() >= 128 && text.chars().all(|c| c == '\u{fffd}'), "{text:?}");
}

#[test]
fn control_tokens_give_no_text_and_cost_nothing() {
    let tokenizer = Arc::new(tokenizer());
    let mut ids = vec![257];
    ids.extend(vec![END; 20_000]);
    ids.extend([258, 4_000_000_000, 258]);
    assert_eq!(streamed(&tokenizer, &ids), "the the the");
}

/// The byte tokens of [`sentence_pieces`].
fn byte_tokens(bytes: &[u8]) -> Vec<u32> {
    bytes.iter().map(|&byte| 3 + u32::from(byte)).collect()
}

#[test]
fn a_broken_byte_costs_one_mark_and_no_whole_character() {
    let tokenizer = Arc::new(sentence_pieces());
    let x = tokenizer.encode("b").unwrap().pop().unwrap();
    let emoji = "\u{1f600}".as_bytes();
    for (bytes, text) in [
        ([emoji, b"\xf0\x9f"].concat(), "\u{1f600}\u{fffd}b"),
        ([b"\xff", "\u{4e2d}\u{6587}".as_bytes()].concat(), "\u{fffd}\u{4e2d}\u{6587}b"),
        ([b"\xe4\xb8", emoji, b"\x80"].concat(), "\u{fffd}\u{1f600}\u{fffd}b"),
        ("\u{fffd}".as_bytes().to_vec(), "\u{fffd}b"),
    ] {
        let ids = [byte_tokens(&bytes), vec![x]].concat();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(streamed(&tokenizer, &ids), text);
    }
}

#[test]
fn only_what_follows_a_prompt_is_its_continuation() {
    let byte_level = Arc::new(tokenizer());
    for prompt in ["x\u{fffd}", "\u{fffd}\u{fffd}", "the", " ", ""] {
        let ids = byte_level.encode(prompt).unwrap();
        let follow = |ids: &[u32], more: &[u32]| {
            let mut stream = IncrementalText::after(byte_level.clone(), ids).unwrap();
            let text: String = more.iter().map(|&id| stream.push(id).unwrap()).collect();
            text + &stream.finish().unwrap()
        };
        assert_eq!(follow(&ids, &[]), "");
        assert_eq!(follow(&ids, &[258]), " the");
        assert_eq!(follow(&ids, &byte_level.encode("\u{fffd}").unwrap()[1..]), "\u{fffd}");
    }
    // The character that a prompt leaves open is the continuation's.
    let emoji = byte_level.encode("a\u{1f600}").unwrap();
    let mut stream = IncrementalText::after(byte_level.clone(), &emoji[..emoji.len() - 2]).unwrap();
    assert_eq!(stream.push(emoji[emoji.len() - 2]).unwrap(), "");
    assert_eq!(stream.push(emoji[emoji.len() - 1]).unwrap(), "\u{1f600}");
}

proptest! {
    #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]

    #[test]
    fn pieces_together_are_the_text(text in "(the|cat| |a|b|\n|é|😀|▁|\u{fffd}|.){0,20}") {
        for tokenizer in [tokenizer(), sentence_pieces()] {
            let tokenizer = Arc::new(tokenizer);
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids).unwrap());
        }
    }

    #[test]
    fn prompts_have_the_librarys_tokens(text in r"(the|a|b| |\n|é|<\|begin\|>|<\|end\|>|<s>|</s>|<unk>|<|\.){0,12}") {
        for file in [file(), sentence_pieces_file()] {
            let mut library = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
            library.with_padding(None).with_truncation(None).unwrap();
            let ours = parse(&file).unwrap().encode_prompt(&text).unwrap();
            prop_assert_eq!(ours, library.encode(text.as_str(), true).unwrap().get_ids().to_vec());
            library.set_encode_special_tokens(true);
            let ours = parse(&file).unwrap().encode(&text).unwrap();
            prop_assert_eq!(ours, library.encode(text.as_str(), true).unwrap().get_ids().to_vec());
        }
    }

    #[test]
    fn pieces_of_any_tokens_are_their_text(ids in proptest::collection::vec(0u32..270, 0..80)) {
        for tokenizer in [tokenizer(), sentence_pieces()] {
            let tokenizer = Arc::new(tokenizer);
            prop_assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids).unwrap());
        }
    }

    #[test]
    fn bytes_decode_as_the_standard_library_does(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0xe0u8..=0xf4, 0x80u8..=0xbf], 1..80)
    ) {
        // A first token that is no byte, since a space there would be stripped.
        let expected = format!("a{}", String::from_utf8_lossy(&bytes));
        let pieces = Arc::new(sentence_pieces());
        let ids = [vec![260], byte_tokens(&bytes)].concat();
        prop_assert_eq!(pieces.decode(&ids).unwrap(), expected.clone());
        prop_assert_eq!(streamed(&pieces, &ids), expected);
    }
}
