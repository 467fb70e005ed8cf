//! What is refused, and that it is refused before it costs anything.

use std::fs;

use dropcap_model::hub::{HubError, HubOptions};

use crate::server::{FIRST, MODEL, one_file_model, sharded_model};
use crate::{Setting, fails};

#[test]
fn a_repository_of_pickles_is_refused_with_the_way_out() {
    let setting = Setting::new();
    let mut files = one_file_model();
    files.remove("model.safetensors");
    setting.hub.publish("main", FIRST, files);
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(error, HubError::PickleOnly { .. }), "{text}");
    assert!(text.contains("pytorch_model.bin") && text.contains("safe_serialization=True"), "{text}");
    assert_eq!(setting.hub.seen().len(), 1, "only the listing");

    let folder = setting.folder.path().join("local");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("pytorch_model-00001-of-00002.bin"), "x").unwrap();
    assert!(matches!(fails(folder.to_str().unwrap(), &setting.options()).0, HubError::PickleOnly { .. }));
}

#[test]
fn a_model_without_a_file_that_it_needs_is_refused_before_its_weights() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let setting = Setting::new();
        let mut files = one_file_model();
        files.retain(|name, _| name != file && name != "pytorch_model.bin");
        setting.hub.publish("main", FIRST, files);
        let (error, text) = setting.fails(&setting.options());
        assert!(matches!(error, HubError::MissingFile { .. } | HubError::NoWeights { .. }), "{text}");
        assert!(text.contains(file), "{text}");
        assert_eq!(setting.hub.seen().len(), 1, "only the listing");
    }
}

#[test]
fn a_shard_that_leaves_the_directory_is_refused() {
    for name in ["../../../../evil.safetensors", "/tmp/evil.safetensors"] {
        let setting = Setting::new();
        setting.hub.publish("main", FIRST, sharded_model(["a.safetensors", name]));
        let (error, text) = setting.fails(&setting.options());
        assert!(
            matches!(&error, HubError::Index(dropcap_weights::WeightsError::UnsafeShard { .. })),
            "{text}"
        );
        assert!(text.contains(name), "{text}");
        assert!(!setting.hub.seen().iter().any(|seen| seen.path.contains("a.safetensors")));
    }
}

#[test]
fn a_shard_that_the_repository_lacks_is_named() {
    let setting = Setting::new();
    let mut files = sharded_model(["a.safetensors", "b.safetensors"]);
    files.remove("b.safetensors");
    setting.hub.publish("main", FIRST, files);
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(&error, HubError::MissingFile { file, .. } if file == "b.safetensors"), "{text}");
    assert!(
        !setting.hub.seen().iter().any(|seen| seen.path.contains("a.safetensors")),
        "no shard is fetched"
    );
}

#[test]
fn a_listing_cannot_write_outside_the_cache() {
    let sibling = |tag: &str| format!(r#"{{"rfilename":"config.json","size":2,"blobId":"{tag}"}}"#);
    let rest = r#"{"rfilename":"tokenizer.json","size":2,"blobId":"aa"},{"rfilename":"model.safetensors"}"#;
    for (commit, tag) in
        [("../../../evil", "aa"), (FIRST, "../../../evil"), (FIRST, ""), (FIRST, "a/b"), ("", "aa")]
    {
        let setting = Setting::new();
        setting.hub.replace_listing(&format!(r#"{{"sha":"{commit}","siblings":[{},{rest}]}}"#, sibling(tag)));
        let (error, text) = setting.fails(&setting.options());
        assert!(matches!(error, HubError::BadReply { .. }), "{commit} {tag}: {text}");
        assert!(!setting.repo().join("blobs").exists());
    }
    for text in ["", "<html>", "[]", "{\"siblings\":[]}"] {
        let setting = Setting::new();
        setting.hub.replace_listing(text);
        assert!(matches!(setting.fails(&setting.options()).0, HubError::BadReply { .. }), "{text}");
    }
}

#[test]
fn what_is_neither_a_directory_nor_an_id_is_refused_without_a_request() {
    let setting = Setting::new();
    for model in ["", "../x", "/no/such/dir", "gpt2", "a/b/c", "a b/c", "./x"] {
        assert!(matches!(fails(model, &setting.options()).0, HubError::BadModel { .. }), "{model:?}");
    }
    let file = setting.folder.path().join("model.safetensors");
    fs::write(&file, "x").unwrap();
    assert!(matches!(fails(file.to_str().unwrap(), &setting.options()).0, HubError::NotADirectory { .. }));
    for revision in ["", "../main", "a b"] {
        let options = HubOptions { revision: Some(revision.to_owned()), ..setting.options() };
        assert!(matches!(fails(MODEL, &options).0, HubError::BadRevision { .. }), "{revision:?}");
    }
    let nowhere = HubOptions { cache_dir: None, ..setting.options() };
    assert!(matches!(fails(MODEL, &nowhere).0, HubError::NoCacheDirectory));
    let odd = HubOptions { endpoint: Some("hub.example".to_owned()), ..setting.options() };
    assert!(matches!(fails(MODEL, &odd).0, HubError::BadEndpoint { .. }));
    assert_eq!(setting.hub.seen().len(), 0);
}
