//! What a download leaves in the cache, and what a second one asks for.

use std::fs;
use std::path::PathBuf;

use dropcap_model::hub::{Freshness, HubOptions, Origin, resolve};

use crate::server::{FIRST, Hub, MODEL, SECOND, etag, one_file_model, sharded_model, weights};
use crate::{Setting, commit};

#[test]
fn a_download_has_pythons_layout() {
    let setting = Setting::new();
    let model = setting.resolve();
    assert_eq!(model.directory, setting.repo().join("snapshots").join(FIRST));
    assert_eq!(commit(&model), FIRST);
    assert_eq!(fs::read_to_string(setting.repo().join("refs/main")).unwrap(), FIRST);
    let mut expected = vec!["refs/main".to_owned()];
    for name in ["chat_template.jinja", "pruning.safetensors", "tokenizer_config.json"] {
        expected.push(format!(".no_exist/{FIRST}/{name}"));
    }
    let files = one_file_model();
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        let tag = etag(name, &files[name]);
        let pointer = model.directory.join(name);
        assert_eq!(fs::read_link(&pointer).unwrap(), PathBuf::from(format!("../../blobs/{tag}")));
        assert_eq!(fs::read(&pointer).unwrap(), files[name], "{name}");
        expected.push(format!("blobs/{tag}"));
        expected.push(format!("snapshots/{FIRST}/{name}"));
    }
    expected.sort();
    assert_eq!(setting.files(), expected, "nothing unwanted is fetched and nothing unfinished is left");
}

#[test]
fn a_second_call_asks_for_no_file() {
    let setting = Setting::new();
    let first = setting.resolve();
    setting.hub.seen();
    assert_eq!(setting.resolve(), first);
    let seen = setting.hub.seen();
    assert_eq!(seen.len(), 1, "the listing only: {seen:?}");
    assert!(seen[0].path.starts_with("/api/"));
}

#[test]
fn a_whole_model_at_a_commit_asks_nothing() {
    let setting = Setting::new();
    let options = HubOptions { revision: Some(FIRST.to_owned()), ..setting.options() };
    let first = resolve(MODEL, &options).unwrap();
    assert!(!setting.repo().join("refs").exists(), "a commit needs no reference");
    setting.hub.seen();
    assert_eq!(resolve(MODEL, &options).unwrap(), first);
    assert_eq!(setting.hub.seen().len(), 0);
}

#[test]
fn a_moved_branch_fetches_only_what_changed() {
    let setting = Setting::new();
    setting.resolve();
    let mut files = one_file_model();
    files.insert("config.json".to_owned(), b"{\"model_type\":\"gpt2\",\"n_layer\":2}".to_vec());
    setting.hub.publish("main", SECOND, files);
    setting.hub.seen();
    let model = setting.resolve();
    let seen = setting.hub.seen();
    assert_eq!(commit(&model), SECOND);
    assert_eq!(seen.len(), 2, "the listing and config.json: {seen:?}");
    assert_eq!(fs::read(model.directory.join("model.safetensors")).unwrap(), weights(1));
    assert!(fs::read_to_string(model.directory.join("config.json")).unwrap().contains("n_layer"));
    assert_eq!(fs::read_to_string(setting.repo().join("refs/main")).unwrap(), SECOND);
    assert!(setting.repo().join("snapshots").join(FIRST).join("config.json").exists());
}

#[test]
fn the_revision_that_is_asked_for_is_the_one_that_comes() {
    let setting = Setting::new();
    let mut files = one_file_model();
    files.insert("model.safetensors".to_owned(), weights(9));
    files.insert("chat_template.jinja".to_owned(), b"{{ messages }}".to_vec());
    setting.hub.publish("refs/pr/7", SECOND, files);
    let options = HubOptions { revision: Some("refs/pr/7".to_owned()), ..setting.options() };
    let model = resolve(MODEL, &options).unwrap();
    assert_eq!(fs::read(model.directory.join("model.safetensors")).unwrap(), weights(9));
    assert!(model.directory.join("chat_template.jinja").is_file());
    assert_eq!(fs::read_to_string(setting.repo().join("refs/refs/pr/7")).unwrap(), SECOND);
    assert!(!setting.repo().join("refs/main").exists());
    assert_eq!(commit(&setting.resolve()), FIRST);
}

#[test]
fn the_shards_that_the_index_names_are_fetched_and_no_others() {
    let setting = Setting::new();
    let mut files =
        sharded_model(["model-00001-of-00002.safetensors", "part/model-00002-of-00002.safetensors"]);
    files.insert("consolidated.safetensors".to_owned(), weights(5));
    setting.hub.publish("main", FIRST, files);
    let model = setting.resolve();
    assert_eq!(fs::read(model.directory.join("model-00001-of-00002.safetensors")).unwrap(), weights(3));
    assert_eq!(fs::read(model.directory.join("part/model-00002-of-00002.safetensors")).unwrap(), weights(4));
    assert!(!model.directory.join("consolidated.safetensors").exists());
}

#[test]
fn a_mirror_that_lists_names_only_is_asked_for_each_files_size() {
    let setting = Setting::new();
    let python = Setting::new();
    python.resolve();
    setting.hub.list_names_only();
    let model = setting.resolve();
    assert_eq!(setting.files(), python.files(), "the same blobs under the same names");
    assert_eq!(fs::read(model.directory.join("model.safetensors")).unwrap(), weights(1));
    let seen = setting.hub.seen();
    assert!(seen.iter().any(|seen| seen.method == "HEAD") && Hub::requests_for(&seen, "config.json") == 1);
    assert!(!seen.iter().any(|seen| seen.content_network && seen.method == "HEAD"));
}

#[test]
fn a_blob_that_was_cut_short_is_fetched_again() {
    let setting = Setting::new();
    let model = setting.resolve();
    let blob = fs::canonicalize(model.directory.join("model.safetensors")).unwrap();
    fs::write(&blob, &weights(1)[..1000]).unwrap();
    setting.resolve();
    assert_eq!(fs::read(&blob).unwrap(), weights(1));
}

#[test]
fn an_existing_directory_wins_and_asks_nothing() {
    let setting = Setting::new();
    let folder = setting.folder.path().join("tiny-org").join("tiny-model");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    let model = resolve(folder.to_str().unwrap(), &setting.options()).unwrap();
    assert_eq!(model.directory, folder);
    assert_eq!(model.origin, Origin::Local);
    resolve(folder.to_str().unwrap(), &HubOptions::default()).unwrap();
    assert_eq!(setting.hub.seen().len(), 0);
}

#[test]
fn a_hub_that_is_down_leaves_a_cached_model_usable_and_says_so() {
    let setting = Setting::new();
    let first = setting.resolve();
    setting.hub.stop();
    let model = setting.resolve();
    assert_eq!(model.directory, first.directory);
    let Origin::Hub { freshness: Freshness::Stale(reason), .. } = model.origin else { panic!("{model:?}") };
    assert!(reason.contains("cannot be reached"), "{reason}");
}
