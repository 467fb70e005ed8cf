use super::*;
use crate::disk::LocalDisk;
use dropcap_files::faulty::{Fault, FaultyDisk};

fn facts(vocabulary: u64) -> ShardFacts {
    ShardFacts { vocabulary, tokenizer: Digest::of(b"tokenizer"), source: Digest::of(b"source") }
}

fn shard(vocabulary: u64, count: usize) -> TokenShard {
    let ids = (0..count as u64).map(|at| (at * 7919 % vocabulary) as u32).collect();
    TokenShard::new("x".as_ref(), facts(vocabulary), ids, None).unwrap()
}

#[test]
fn a_shard_survives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tokens");
    for (vocabulary, count, width) in
        [(1 << 16, 0, 2), (300, 5, 2), (1 << 16, 3 * PIECE + 17, 2), ((1 << 16) + 1, PIECE + 1, 4)]
    {
        let shard = shard(vocabulary, count);
        shard.write(&LocalDisk, &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (HEADER_BYTES + count * width) as u64);
        assert_eq!(TokenShard::open(&path).unwrap(), shard);
        let mut read = Vec::new();
        shard.read(count.saturating_sub(3), 100, &mut read);
        assert_eq!(read.len(), count.min(3));
    }
}

#[test]
fn ids_beyond_the_vocabulary_are_refused() {
    let error =
        TokenShard::new("a.tokens".as_ref(), facts(300), vec![299, 300], None).unwrap_err().to_string();
    assert!(error.contains("a.tokens") && error.contains("token 1 has the id 300"), "{error}");
}

/// A shard some of whose tokens are answers.
fn answered(vocabulary: u64, count: usize) -> TokenShard {
    let answers = Answers { starts: vec![0, 4], spans: vec![2..4, 6..7, 7..count as u64], unplaced: 3 };
    let ids = (0..count as u64).map(|at| (at * 7919 % vocabulary) as u32).collect();
    TokenShard::new("x".as_ref(), facts(vocabulary), ids, Some(answers)).unwrap()
}

#[test]
fn answers_survive_their_file_and_those_of_other_tokens_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tokens");
    for vocabulary in [300, 1 << 17] {
        let shard = answered(vocabulary, 9);
        shard.write(&LocalDisk, &path).unwrap();
        let read = TokenShard::open(&path).unwrap();
        assert_eq!((&read, read.answers().unwrap().tokens()), (&shard, 5));
    }
    let beyond = Answers { starts: vec![0], spans: vec![2..10], unplaced: 0 };
    let error = TokenShard::new("a.tokens".as_ref(), facts(300), vec![1; 9], Some(beyond)).unwrap_err();
    assert!(matches!(error, TrainError::Shard { .. }), "{error}");
}

#[test]
fn any_damaged_byte_and_any_cut_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tokens");
    for shard in [shard(300, 9), answered(300, 9)] {
        shard.write(&LocalDisk, &path).unwrap();
        damage_everywhere(&path);
    }
}

fn damage_everywhere(path: &Path) {
    let whole = std::fs::read(path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(path, damaged).unwrap();
        let error = TokenShard::open(path).unwrap_err();
        // A byte of the version may as well say a later one.
        let newer = (8..12).contains(&at) && matches!(error, TrainError::NewerFormat { .. });
        assert!(newer || matches!(error, TrainError::Shard { .. }), "byte {at}: {error}");
        std::fs::write(path, &whole[..at]).unwrap();
        assert!(matches!(TokenShard::open(path), Err(TrainError::Shard { .. })), "cut to {at}");
    }
    std::fs::write(path, [&whole[..], b"x"].concat()).unwrap();
    assert!(TokenShard::open(path).unwrap_err().to_string().contains("delete it"));
}

#[test]
fn an_interrupted_write_leaves_the_old_shard() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tokens");
    let (old, new) = (shard(300, 5), shard(300, 9));
    for fault in [Fault::Killed, Fault::Full] {
        for allowed in 0.. {
            old.write(&LocalDisk, &path).unwrap();
            let result = new.write(&FaultyDisk::new(fault, allowed), &path);
            let found = TokenShard::open(&path).unwrap();
            assert!(found == old || found == new);
            if result.is_ok() {
                assert_eq!(found, new);
                break;
            }
        }
    }
}

#[test]
fn a_shard_of_a_later_version_is_refused_by_name_and_one_of_an_earlier_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tokens");
    shard(300, 9).write(&LocalDisk, &path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&(ANSWERS_VERSION + 6).to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = TokenShard::open(&path).unwrap_err();
    assert!(matches!(error, TrainError::NewerFormat { found: 9, known: 3, .. }), "{error}");
    assert!(error.to_string().contains("a.tokens has the format version 9"), "{error}");
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = TokenShard::open(&path).unwrap_err();
    assert!(matches!(error, TrainError::Shard { .. }) && error.to_string().contains("version 1"), "{error}");
}
