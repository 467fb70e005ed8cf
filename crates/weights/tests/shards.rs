//! Directories of weights: shards, links, pickles, digests.

#![cfg(test)]

use std::path::Path;

use dropcap_files::FileError;
use dropcap_weights::{ContentDigest, ShardedTensors, WeightsError};
use safetensors::tensor::TensorView;
use tempfile::TempDir;

/// Writes a file of f32 vectors, every element of a vector the same.
fn write(path: &Path, tensors: &[(&str, f32)]) {
    let data: Vec<(&str, Vec<u8>)> = tensors
        .iter()
        .map(|&(name, x)| (name, [x; 600].iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = data
        .iter()
        .map(|(name, bytes)| (*name, TensorView::new(safetensors::Dtype::F32, vec![30, 20], bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn index(dir: &Path, map: &[(&str, &str)]) {
    let map: std::collections::BTreeMap<_, _> = map.iter().copied().collect();
    let text = format!("{{\"metadata\":{{\"total_size\":1}},\"weight_map\":{map:?}}}");
    std::fs::write(dir.join("model.safetensors.index.json"), text).unwrap();
}

fn two_shards(dir: &Path) {
    write(&dir.join("m-1.safetensors"), &[("a", 1.0), ("b", 2.0)]);
    write(&dir.join("m-2.safetensors"), &[("c", 3.0)]);
    index(dir, &[("a", "m-1.safetensors"), ("b", "m-1.safetensors"), ("c", "m-2.safetensors")]);
}

fn digest(tensors: &ShardedTensors) -> u128 {
    let mut digest = ContentDigest::new();
    for name in tensors.names() {
        digest.tensor(name, tensors, name).unwrap();
    }
    digest.finish()
}

#[test]
fn a_model_reads_the_same_from_shards_and_from_one_file() {
    let (one, many) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write(&one.path().join("model.safetensors"), &[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
    two_shards(many.path());
    let (one, many) = (ShardedTensors::open(one.path()).unwrap(), ShardedTensors::open(many.path()).unwrap());
    assert_eq!((one.files().len(), many.files().len()), (1, 2));
    assert_eq!(one.names().collect::<Vec<_>>(), many.names().collect::<Vec<_>>());
    assert_eq!(one.read_f32("c").unwrap(), many.read_f32("c").unwrap());
    assert_eq!(digest(&one), digest(&many));
}

#[test]
fn other_weights_have_another_digest() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    write(&path, &[("a", 1.0), ("b", 2.0)]);
    let before = digest(&ShardedTensors::single(&path).unwrap());
    write(&path, &[("a", 1.0), ("b", 2.0000002)]);
    assert_ne!(before, digest(&ShardedTensors::single(&path).unwrap()));
    write(&path, &[("a", 1.0), ("x", 2.0)]);
    assert_ne!(before, digest(&ShardedTensors::single(&path).unwrap()));
}

#[test]
fn a_missing_shard_is_named() {
    let dir = TempDir::new().unwrap();
    two_shards(dir.path());
    std::fs::remove_file(dir.path().join("m-2.safetensors")).unwrap();
    let error = ShardedTensors::open(dir.path()).unwrap_err();
    assert!(matches!(error, WeightsError::MissingShard { .. }));
    assert!(error.to_string().contains("m-2.safetensors"), "{error}");
}

#[test]
fn a_shard_outside_the_directory_is_refused() {
    let outer = TempDir::new().unwrap();
    let dir = outer.path().join("model");
    std::fs::create_dir(&dir).unwrap();
    let secret = outer.path().join("secret.safetensors");
    write(&secret, &[("a", 1.0)]);
    let absolute = secret.to_str().unwrap();
    for name in
        ["../secret.safetensors", "x/../../secret.safetensors", absolute, "", "..", "./../secret.safetensors"]
    {
        index(&dir, &[("a", name)]);
        let error = ShardedTensors::open(&dir).unwrap_err();
        assert!(matches!(error, WeightsError::UnsafeShard { .. }), "{name}: {error}");
    }
    std::os::unix::fs::symlink(&secret, dir.join("link.safetensors")).unwrap();
    index(&dir, &[("a", "link.safetensors")]);
    assert!(matches!(ShardedTensors::open(&dir), Err(WeightsError::File(FileError::LeavesDirectory { .. }))));
    std::os::unix::fs::symlink(&secret, dir.join("model.safetensors")).unwrap();
    assert!(matches!(ShardedTensors::open(&dir), Err(WeightsError::File(FileError::LeavesDirectory { .. }))));
}

#[test]
fn links_into_the_blobs_of_the_hub_cache_are_followed() {
    let cache = TempDir::new().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/abc"));
    std::fs::create_dir(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    write(&blobs.join("0f"), &[("a", 1.0)]);
    std::os::unix::fs::symlink("../../blobs/0f", snapshot.join("model.safetensors")).unwrap();
    assert_eq!(ShardedTensors::open(&snapshot).unwrap().names().len(), 1);
    // The directory itself may be reached through a link.
    let alias = cache.path().join("alias");
    std::os::unix::fs::symlink(&snapshot, &alias).unwrap();
    assert_eq!(ShardedTensors::open(&alias).unwrap().names().len(), 1);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let dir = TempDir::new().unwrap();
    two_shards(dir.path());
    write(&dir.path().join("m-2.safetensors"), &[("c", 3.0), ("b", 2.0)]);
    let error = ShardedTensors::open(dir.path()).unwrap_err();
    assert!(matches!(error, WeightsError::TensorInTwoShards { .. }), "{error}");
}

#[test]
fn a_tensor_that_is_not_in_its_shard_is_refused() {
    let dir = TempDir::new().unwrap();
    two_shards(dir.path());
    write(&dir.path().join("m-1.safetensors"), &[("a", 1.0)]);
    let error = ShardedTensors::open(dir.path()).unwrap_err();
    assert!(matches!(error, WeightsError::NotInShard { .. }), "{error}");
}

#[test]
fn an_index_that_is_not_one_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors.index.json");
    for text in [
        "",
        "[]",
        "{}",
        "{\"weight_map\":{}}",
        "{\"weight_map\":{\"a\":1}}",
        "{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}",
    ] {
        std::fs::write(&path, text).unwrap();
        let error = ShardedTensors::open(dir.path()).unwrap_err();
        assert!(matches!(error, WeightsError::Index { .. }), "{text}: {error}");
    }
    let names: Vec<String> = (0..1001).map(|i| format!("{i}.safetensors")).collect();
    let map: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    index(dir.path(), &map);
    assert!(matches!(ShardedTensors::open(dir.path()), Err(WeightsError::TooManyShards { got: 1001, .. })));
}

#[test]
fn pickles_are_refused_with_a_way_to_convert_them() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(ShardedTensors::open(dir.path()), Err(WeightsError::NoWeights { .. })));
    for name in ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth", "model.pt"] {
        std::fs::write(dir.path().join(name), b"cos\nsystem\n").unwrap();
        let text = ShardedTensors::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("safe_serialization=True"), "{text}");
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
}

#[test]
fn a_directory_that_is_not_there_is_an_error_of_the_system() {
    let dir = TempDir::new().unwrap();
    let error = ShardedTensors::open(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(error, WeightsError::File(FileError::Io { .. })), "{error}");
    assert!(error.to_string().contains("absent"), "{error}");
}
