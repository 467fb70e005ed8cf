//! Reading a gate file: nothing is believed, and nothing large is read before every shape is known to fit.

use std::path::Path;

use dropcap_kernels::DType;
use dropcap_policy::{Floors, SettledFor};
use dropcap_weights::{Fingerprint, StoredType, TensorFile};

use super::layout::{BIRTH, FORMAT, VERSION, is_published_gate};
use super::{GateKind, GateLayout, Gates, LayerGates, MAX_GATE_WIDTH};
use crate::{MAX_COUNT, MethodError};

/// Differences shown in one message; a file for another model differs in every tensor.
const MAX_SHOWN: usize = 24;

impl Gates {
    /// Reads the gates of a model of `layers` layers and `kv_heads` KV heads over hidden states of width `hidden`, in
    /// either [`GateLayout`]. F16 and BF16 are widened.
    ///
    /// With `model`, a file of our own layout must have been trained for exactly that model; the published layout
    /// names no model and is checked by its shapes alone. The file is read, not mapped, so replacing it later
    /// harms nobody.
    ///
    /// # Errors
    /// What [`TensorFile`] refuses; neither layout; another version or rule; missing, unknown or misshapen tensors, all at
    /// once; another model, field by field; NaN or infinity, with tensor and index.
    pub fn load(
        path: &Path,
        layers: usize,
        kv_heads: usize,
        hidden: usize,
        model: Option<&Fingerprint>,
    ) -> Result<Self, MethodError> {
        let file = TensorFile::open(path)?;
        let layout = layout_of(&file)?;
        if let (GateLayout::Dropcap, Some(model)) = (layout, model) {
            check_fingerprint(&file, model)?;
        }
        let kind = kind_of(&file, layout)?;
        let width = check_shapes(&file, layout, kind, [layers, kv_heads, hidden])?;
        let floors = floors_of(&file, layout)?;
        let settled = settled_for(&file, layout)?;
        let mut gates = Vec::with_capacity(layers);
        for index in 0..layers {
            let [query, key, bias] = layout.names(index);
            let queries = Some(&query).filter(|_| kind.votes());
            for name in queries.into_iter().chain([&key, &bias]) {
                if let Some(found) = file.first_non_finite(name)? {
                    return Err(MethodError::GateNotFinite { path: path.into(), found });
                }
            }
            let query = if kind.votes() { file.read_f32(&query)? } else { Vec::new() };
            gates.push(LayerGates { query, key: file.read_f32(&key)?, bias: file.read_f32(&bias)? });
        }
        Ok(Self { settled, ..Self::checked(kind, hidden, width, gates)?.under(floors) })
    }
}

fn layout_of(file: &TensorFile) -> Result<GateLayout, MethodError> {
    let (path, metadata) = (file.path(), file.metadata());
    if metadata.get("format").is_some_and(|format| format == FORMAT) {
        let found = metadata.get("version").cloned().unwrap_or_default();
        if found != VERSION.to_string() {
            return Err(MethodError::GateVersion { path: path.into(), expected: VERSION, found });
        }
        return Ok(GateLayout::Dropcap);
    }
    if file.names().any(is_published_gate) {
        return Ok(GateLayout::Published);
    }
    let mut found = format!("{} tensors", file.names().len());
    if let Some(first) = file.names().next() {
        found.push_str(&format!(", the first named {}", quoted(first)));
    }
    Err(MethodError::NoGates { path: path.into(), found })
}

fn check_fingerprint(file: &TensorFile, model: &Fingerprint) -> Result<(), MethodError> {
    let differences = match file.metadata().get("fingerprint").map(|text| text.parse::<Fingerprint>()) {
        Some(Ok(found)) => model.differences(&found),
        Some(Err(error)) => vec![error.to_string()],
        None => vec![format!("fingerprint: expected {model}, found none")],
    };
    if differences.is_empty() {
        return Ok(());
    }
    Err(MethodError::GateFingerprint { path: file.path().into(), differences })
}

/// When gates of our own layout decide; those that say nothing vote.
fn kind_of(file: &TensorFile, layout: GateLayout) -> Result<GateKind, MethodError> {
    let expected = "birth, or no such entry for gates that vote";
    let stated = stated(file, layout, "rule", expected, |text| (text == BIRTH).then_some(GateKind::Birth))?;
    Ok(stated.unwrap_or(GateKind::Votes))
}

/// The floors that a file of our own layout names; none without.
fn floors_of(file: &TensorFile, layout: GateLayout) -> Result<Floors, MethodError> {
    let expected = format!("a count up to {MAX_COUNT}");
    let read = |key: &str| {
        let floor =
            stated(file, layout, key, &expected, |text| text.parse().ok().filter(|&n| n <= MAX_COUNT));
        Ok::<u32, MethodError>(floor?.unwrap_or(0))
    };
    Ok(Floors { sinks: read("sinks")?, recent: read("recent")? })
}

/// What a file of our own layout was settled for, as far as it says.
fn settled_for(file: &TensorFile, layout: GateLayout) -> Result<SettledFor, MethodError> {
    let kv_dtype = stated(file, layout, "kv_dtype", "f32, bf16 or f16", |text| text.parse::<DType>().ok())?;
    let tokens = stated(file, layout, "tokens", "a count of at least 1", |text| {
        text.parse().ok().filter(|&tokens: &usize| tokens > 0)
    })?;
    Ok(SettledFor { kv_dtype, tokens })
}

/// What an entry of the metadata says, where the layout has such entries and the file has this one.
fn stated<T>(
    file: &TensorFile,
    layout: GateLayout,
    key: &str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, MethodError> {
    let text = file.metadata().get(key).filter(|_| layout == GateLayout::Dropcap);
    let read = |text: &String| {
        read(text).ok_or_else(|| {
            let found = format!("metadata `{key}`: expected {expected}, found {}", quoted(text));
            MethodError::GateShape { path: file.path().into(), differences: vec![found] }
        })
    };
    text.map(read).transpose()
}

/// Compares every tensor with what the model asks for and gives the gate width r, the same in all layers.
fn check_shapes(
    file: &TensorFile,
    layout: GateLayout,
    kind: GateKind,
    [layers, kv_heads, hidden]: [usize; 3],
) -> Result<usize, MethodError> {
    let mut differences = Vec::new();
    let first = layout.names(0);
    let first_size = |name| file.info(name).and_then(|info| info.shape.first().copied());
    let mut heads = first_size(&first[2]).unwrap_or(1);
    if heads != 1 && (heads != kv_heads || layout == GateLayout::Published) {
        let one = if layout == GateLayout::Published { "1".to_owned() } else { format!("1 or {kv_heads}") };
        differences.push(format!("{}: expected {one} gate heads, found {heads}", first[2]));
        heads = 1;
    }
    let width = match kind {
        GateKind::Votes => first_size(&first[0]).unwrap_or_default() / heads,
        GateKind::Birth => 1,
    };
    if !(1..=MAX_GATE_WIDTH).contains(&width) && file.info(&first[0]).is_some() {
        differences
            .push(format!("{}: expected a gate width from 1 to {MAX_GATE_WIDTH}, found {width}", first[0]));
    }
    let absent = usize::from(!kind.votes());
    let mut expected_names = std::collections::HashSet::new();
    for layer in 0..layers {
        for (part, name) in layout.names(layer).into_iter().enumerate().skip(absent) {
            let shape = if part == 2 { vec![heads] } else { vec![heads * width, hidden] };
            match file.info(&name) {
                None => differences.push(format!("{name}: expected {shape:?}, found no such tensor")),
                Some(info) if info.shape != shape => {
                    differences.push(format!("{name}: expected {shape:?}, found {:?}", info.shape));
                }
                Some(info) if !matches!(info.dtype, StoredType::F32 | StoredType::F16 | StoredType::Bf16) => {
                    differences.push(format!("{name}: expected F32, F16 or BF16, found {}", info.dtype));
                }
                Some(_) => {}
            }
            expected_names.insert(name);
        }
    }
    for name in file.names().filter(|name| layout.claims(name) && !expected_names.contains(*name)) {
        let when = if kind.votes() { "" } else { " whose entries are judged at birth" };
        differences.push(format!("{}: not a gate of a model of {layers} layers{when}", quoted(name)));
    }
    if differences.is_empty() {
        return Ok(width);
    }
    if differences.len() > MAX_SHOWN {
        let more = differences.len() - MAX_SHOWN;
        differences.truncate(MAX_SHOWN);
        differences.push(format!("and {more} more"));
    }
    Err(MethodError::GateShape { path: file.path().into(), differences })
}

/// A name from a file as it may stand in a message.
fn quoted(name: &str) -> String {
    format!("{:?}", name.chars().take(120).collect::<String>())
}
