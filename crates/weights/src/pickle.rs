//! Files that run code when they are read.

/// Whether a file of this name holds pickled weights, which are never read.
///
/// Other files of a training run that end in `.bin` or `.pt` hold no weights and are passed over.
pub fn is_pickle(name: &str) -> bool {
    const ENDINGS: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json"];
    const OTHER: [&str; 3] = ["training_args.bin", "optimizer.pt", "scheduler.pt"];
    let name = name.to_ascii_lowercase();
    let base = name.rsplit('/').next().unwrap_or(&name);
    ENDINGS.iter().any(|end| base.ends_with(end)) && !OTHER.contains(&base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pickled_weights_are_known_by_their_names() {
        for name in ["pytorch_model.bin", "a/Model.PT", "x.ckpt", "pytorch_model.bin.index.json"] {
            assert!(is_pickle(name), "{name}");
        }
        for name in ["model.safetensors", "training_args.bin", "old/optimizer.pt", "config.json", ""] {
            assert!(!is_pickle(name), "{name}");
        }
    }
}
