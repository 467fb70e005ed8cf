//! "Did you mean": the known name closest to a mistyped one.

/// The candidate within two edits (or a third of the length) of `given`, if there is one.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names are short; what is much longer is not a slip of the fingers and not worth a quadratic comparison.
    if given.len() > 64 {
        return None;
    }
    let allowed = (given.chars().count() / 3).max(2);
    let distances = candidates.into_iter().map(|candidate| (edits(given, candidate), candidate));
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= allowed && distance < candidate.chars().count()).then_some(candidate)
}

/// Names of NVIDIA/kvpress for methods that have another here, as [`plain`] leaves them.
const ELSEWHERE: [(&str, &str); 6] = [
    ("adakv", "ada"),
    ("pyramidkv", "pyramid"),
    ("streamingllm", "streaming_llm"),
    ("squeezeattention", "squeeze"),
    ("leveragescore", "compactor"),
    ("noncausalattn", "compactor"),
];

/// The method that somebody means who writes it as kvpress does (`SnapKVPress`), or mistypes it.
pub(crate) fn nearest_method<'a>(
    given: &str,
    methods: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let asked = plain(given);
    let elsewhere = ELSEWHERE.iter().find(|(theirs, _)| *theirs == asked).map(|(_, ours)| *ours);
    let same = methods.clone().into_iter().find(|name| plain(name) == asked || Some(*name) == elsewhere);
    same.or_else(|| nearest(given, methods))
}

/// A name without case, marks and kvpress' ending.
fn plain(name: &str) -> String {
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let letters = letters.to_ascii_lowercase();
    letters.strip_suffix("press").map_or(letters.clone(), str::to_owned)
}

/// Levenshtein distance, case ignored.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let b: Vec<char> = b.chars().collect();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (row, left) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut above[0], row + 1);
        for (column, &right) in b.iter().enumerate() {
            let changed = diagonal + usize::from(left != right);
            diagonal = above[column + 1];
            above[column + 1] = changed.min(diagonal + 1).min(above[column] + 1);
        }
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_does_not() {
        let known = ["none", "dcp", "streaming_llm"];
        assert_eq!(nearest("streamingllm", known), Some("streaming_llm"));
        assert_eq!(nearest("DCP", known), Some("dcp"));
        assert_eq!(nearest("recant", ["recent", "sinks"]), Some("recent"));
        assert_eq!(nearest("quantize", known), None);
        assert_eq!(nearest(&"x".repeat(10_000), known), None);
    }

    #[test]
    fn names_of_kvpress_find_the_methods_here() {
        let known = || crate::METHODS.iter().map(|method| method.name);
        for (theirs, ours) in [
            ("SnapKVPress", "snapkv"),
            ("ExpectedAttentionPress", "expected_attention"),
            ("KnormPress", "knorm"),
            ("KeyDiffPress", "keydiff"),
            ("TOVAPress", "tova"),
            ("ObservedAttentionPress", "observed_attention"),
            ("LagKVPress", "lagkv"),
            ("CompactorPress", "compactor"),
            ("RandomPress", "random"),
            ("StreamingLLMPress", "streaming_llm"),
            ("DuoAttentionPress", "duo_attention"),
            ("AdaKVPress", "ada"),
            ("PyramidKVPress", "pyramid"),
            ("KeyRerotationPress", "key_rerotation"),
            ("SqueezeAttention", "squeeze"),
            ("h2o_press", "h2o"),
            ("snapvk", "snapkv"),
        ] {
            assert_eq!(nearest_method(theirs, known()), Some(ours), "{theirs}");
        }
        assert_eq!(nearest_method("press", known()), None);
    }
}
