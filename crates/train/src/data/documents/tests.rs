use std::io::Write;

use super::*;

fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn read(name: &str, bytes: &[u8]) -> Result<Vec<(String, u64)>, TrainError> {
    let (_folder, path) = write(name, bytes);
    Documents::open(&path)?
        .map(|found| found.map(|document| (document.said.text().into_owned(), document.line)))
        .collect()
}

fn refusal(name: &str, bytes: &[u8]) -> String {
    let message = read(name, bytes).unwrap_err().to_string();
    assert!(message.contains(name), "{message}");
    message
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    writer.write_all(text).unwrap();
    writer.finish().unwrap()
}

const TWO: &str = "One.\n\nStill one.\n\n<|endoftext|>\nTwo,\r\nlonger.\n";

#[test]
fn documents_end_at_separators() {
    let expected = vec![("One.\n\nStill one.".to_owned(), 1), ("Two,\nlonger.".to_owned(), 6)];
    assert_eq!(read("a.txt", TWO.as_bytes()).unwrap(), expected);
    let padded = format!("\u{feff}\n \n<|endoftext|>\n\n{TWO}\n\n<|endoftext|>\n \n<|endoftext|>\n");
    let lines: Vec<u64> =
        read("a.txt", padded.as_bytes()).unwrap().into_iter().map(|found| found.1).collect();
    assert_eq!(lines, [5, 10]);
    // Within a line the separator is text.
    assert_eq!(read("a.txt", b"a <|endoftext|> b").unwrap().len(), 1);
}

#[test]
fn packed_files_read_like_plain_ones() {
    assert_eq!(read("a.txt.xz", &packed(TWO.as_bytes())).unwrap(), read("a.txt", TWO.as_bytes()).unwrap());
    let json = b"{\"text\": \"a\\nb\", \"id\": 3}\n\n{\"text\": \" c \"}";
    let expected = vec![("a\nb".to_owned(), 1), ("c".to_owned(), 3)];
    assert_eq!(read("a.jsonl", json).unwrap(), expected);
    assert_eq!(read("a.jsonl.xz", &packed(json)).unwrap(), expected);
    // Packed one after the other, as `cat a.xz b.xz` does.
    let twice = [packed(b"a\n"), packed(b"b\n")].concat();
    assert_eq!(read("a.txt.xz", &twice).unwrap(), [("a\nb".to_owned(), 1)]);
}

#[test]
fn what_holds_no_text_is_refused() {
    assert!(refusal("a.txt", b"").contains("is empty"));
    assert!(refusal("a.txt", b"\n<|endoftext|>\n \n\n<|endoftext|>\n").contains("no text in its 5 lines"));
    assert!(refusal("a.jsonl", b"{\"text\": \"\"}\n").contains("no text in its 1 lines"));
    let folder = tempfile::tempdir().unwrap();
    let message = Documents::open(folder.path()).err().unwrap().to_string();
    assert!(message.contains("is no file"), "{message}");
    assert!(Documents::open(&folder.path().join("none.txt")).is_err());
}

#[test]
fn bad_lines_are_named_by_file_and_number() {
    assert!(refusal("a.txt", b"fine\nbad \xff\n").contains("line 2: byte 5 of the line (0xff) is not UTF-8"));
    assert!(
        refusal("a.jsonl", b"{\"text\": \"a\"}\n{\"content\": \"b\"}\n").contains("line 2: has no `text`")
    );
    assert!(refusal("a.jsonl", b"{\"text\": 3}").contains("line 1: is no JSON object"));
    assert!(refusal("a.jsonl", b"{\"text\": \"a\"}\n[1]").contains("line 2: is no JSON object"));
    assert!(
        refusal("a.jsonl", b"{\"content\": \"b\", \"id\": 1}\n").contains("this one has \"content\", \"id\"")
    );
    assert!(refusal("a.txt", b"h\0i\0").contains("line 1: byte 2 of the line is zero"));
    let long = vec![b'x'; crate::data::MAX_LINE_BYTES + 2];
    assert!(refusal("a.txt", &long).contains("line 1: the line is longer than"));
}

#[test]
fn damaged_packing_is_an_error_and_no_panic() {
    let whole = packed(TWO.repeat(100).as_bytes());
    assert!(refusal("a.txt.xz", b"no xz at all").contains("line 1"));
    for cut in [1, 12, whole.len() / 2, whole.len() - 1] {
        assert!(read("a.txt.xz", &whole[..cut]).is_err(), "cut to {cut} of {}", whole.len());
    }
    for at in (0..whole.len()).step_by(3) {
        let mut garbled = whole.clone();
        garbled[at] ^= 0x55;
        let _ = read("a.txt.xz", &garbled);
    }
}

#[test]
fn nothing_follows_an_error() {
    let (_folder, path) = write("a.txt", b"a\n<|endoftext|>\n\xff\n<|endoftext|>\nb\n");
    let mut documents = Documents::open(&path).unwrap();
    assert!(documents.next().unwrap().is_ok());
    assert!(documents.next().unwrap().is_err());
    assert!(documents.next().is_none());
}

#[test]
fn prompts_with_completions_and_conversations_are_read_and_one_form_a_file() {
    let said = |line: &str| {
        let (_folder, path) = write("a.jsonl", line.as_bytes());
        let first = Documents::open(&path).unwrap().next().unwrap();
        first.map(|document| document.said)
    };
    let pair = said(r#"{"prompt": " Why?\n", "completion": " Because.", "id": 3}"#).unwrap();
    assert_eq!(pair, Said::Pair { prompt: " Why?\n".into(), completion: " Because.".into() });
    assert_eq!(pair.text(), " Why?\n Because.");
    let chat = said(
        r#"{"prompt": "unused", "messages": [{"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "weight": 1}]}"#
            .replace('\n', " ")
            .as_str(),
    );
    let chat = chat.unwrap();
    assert_eq!((chat.form(), &*chat.text()), (Form::Chat, "Be brief.\n\na\nb\n\nc"));
    for (lines, words) in [
        (r#"{"prompt": "a", "completion": " "}"#, "line 1: has an empty `completion`"),
        (
            r#"{"prompt": ["a"], "completion": "b"}"#,
            "line 1: has a `prompt` or a `completion` that is no text",
        ),
        (r#"{"prompt": "a"}"#, "line 1: has no `text`"),
        (r#"{"messages": []}"#, "no message of the assistant"),
        (r#"{"messages": 3}"#, "is no JSON object"),
        (r#"{"messages": [{"role": "bot", "content": "a"}]}"#, "a message (number 0) of the role \"bot\""),
        (r#"{"messages": [{"content": "a"}]}"#, "without a `role`"),
        (r#"{"messages": [{"role": "user"}]}"#, "without `content`"),
        (r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#, "type \"image_url\""),
        (
            "{\"text\": \"a\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}",
            "line 2: the file begins with texts, and here are prompts",
        ),
    ] {
        assert!(refusal("a.jsonl", lines.as_bytes()).contains(words), "{lines}");
    }
    let many = format!("{{\"messages\": [{}]}}", vec![r#"{"role": "user", "content": "a"}"#; 1025].join(","));
    assert!(refusal("a.jsonl", many.as_bytes()).contains("has 1025 messages: a conversation may have 1024"));
    assert!(refusal("a.txt", br#"{"messages": []}"#).contains("with a `messages`; name it .jsonl"));
}
