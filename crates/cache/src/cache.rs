//! The cache of one sequence.

use dropcap_kernels::LaneView;

use crate::error::check_rows;
use crate::lane::metadata_bytes;
use crate::range::Overflow;
use crate::{CacheError, Death, KvReport, Lane, LayerIdx, PagePool};

/// Keys and values of t new tokens, as they lie in a wider activation such as the fused `[q | k | v]`.
#[derive(Debug, Clone, Copy)]
pub struct KeyValueRows<'a> {
    /// The activation, from the first of the tokens' rows on.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
    /// First element of the keys `[g * d]` in a row.
    pub key_offset: usize,
    /// First element of the values `[g * d]` in a row.
    pub value_offset: usize,
    /// Tokens t.
    pub count: usize,
}

/// All lanes of one sequence: `layers` times `groups`, where a group is the whole layer or one KV head.
///
/// A step of t tokens is, per layer: [`KvCache::append`], then the policy on [`KvCache::lanes_mut`], then
/// attention on [`KvCache::views`], then [`KvCache::reclaim`]; and after the last layer [`KvCache::advance`].
/// A step that failed before a layer was reclaimed is undone by [`KvCache::rewind`] to [`KvCache::next_position`],
/// but for lifetimes that it lowered. What a reclaim has freed does not come back: a cache whose step failed later is
/// of no more use.
#[derive(Debug)]
pub struct KvCache {
    pool: PagePool,
    layers: Vec<Vec<Lane>>,
    groups: usize,
    next_position: u32,
    /// What [`KvCache::shift`] says.
    shift: u32,
    /// Of each layer the keys that [`KvCache::keep_keys`] kept, f32 `[tokens, g * d]`.
    kept_keys: Vec<Vec<f32>>,
    /// Of each layer the sum of cosines, and of how many tokens.
    similarities: Vec<(f64, u32)>,
    /// The first number that the pages could not hold, and its layer.
    overflow: Option<(LayerIdx, Overflow)>,
}

impl KvCache {
    /// The empty cache of a sequence; it takes pages from the pool as it grows. The pool's layout says how many
    /// KV heads a group holds.
    pub fn new(pool: &PagePool, layers: usize, groups: usize) -> Self {
        let lanes = || (0..groups).map(|_| Lane::new(pool)).collect();
        Self {
            pool: pool.clone(),
            layers: (0..layers).map(|_| lanes()).collect(),
            groups,
            next_position: 0,
            shift: 0,
            kept_keys: vec![Vec::new(); layers],
            similarities: vec![(0.0, 0); layers],
            overflow: None,
        }
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Lanes of each layer.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// A layer's lanes `[groups]`; none where there is no such layer.
    pub fn lanes(&self, layer: LayerIdx) -> &[Lane] {
        self.layers.get(layer.0).map_or(&[], Vec::as_slice)
    }

    /// A layer's lanes `[groups]`, to be changed; none where there is no such layer.
    pub fn lanes_mut(&mut self, layer: LayerIdx) -> &mut [Lane] {
        self.layers.get_mut(layer.0).map_or(&mut [], Vec::as_mut_slice)
    }

    /// The lanes of every layer, from the embedding on `[layers][groups]`, to be changed.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut [Lane]> {
        self.layers.iter_mut().map(Vec::as_mut_slice)
    }

    /// A layer's lanes as the attention kernel reads them `[groups]`.
    pub fn views(&self, layer: LayerIdx) -> Vec<LaneView<'_>> {
        self.lanes(layer).iter().map(Lane::view).collect()
    }

    /// Position of the next token: the number of tokens that went through all layers.
    pub fn next_position(&self) -> u32 {
        self.next_position
    }

    /// Counts `tokens` more tokens, after all layers have them.
    pub fn advance(&mut self, tokens: usize) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.next_position = self.next_position.saturating_add(tokens);
    }

    /// How far the angles that keys and queries are turned by lie behind the positions of their tokens: 0 until keys were
    /// turned to consecutive positions, and from then on the number of tokens that are missing before each new one.
    pub fn shift(&self) -> u32 {
        self.shift
    }

    /// Notes that the keys of all lanes are turned as those of the first `kept` tokens of a text, so that the next token's is
    /// turned by `kept`. Keys are for the caller to turn; a rewind to before this leaves a cache that is of no more use.
    pub fn renumber(&mut self, kept: u32) {
        self.shift = self.next_position.saturating_sub(kept);
    }

    /// Keeps the keys of new tokens below `end` a second time, in f32 and beside the pages, for whoever turns them anew again and again.
    /// Tokens come in the order of their positions, from the first on; `rows` are theirs.
    ///
    /// Errors: [`CacheError::Rows`] where rows are not as long as they say; then nothing has changed.
    pub fn keep_keys(&mut self, layer: LayerIdx, rows: KeyValueRows<'_>, end: u32) -> Result<(), CacheError> {
        let width = self.pool.layout().heads() * self.groups * self.pool.layout().head_dim();
        let count = rows.count.min(end.saturating_sub(self.next_position) as usize);
        let keys = rows.data.get(rows.key_offset..).unwrap_or_default();
        check_rows("keep keys", count, width, rows.stride, keys.len())?;
        if let Some(kept) = self.kept_keys.get_mut(layer.0) {
            // What a failed step left behind comes again.
            kept.truncate(self.next_position as usize * width);
            (0..count).for_each(|row| kept.extend_from_slice(&keys[row * rows.stride..][..width]));
        }
        Ok(())
    }

    /// What was kept of a layer, f32 `[tokens, g * d]` from position 0 on.
    pub fn kept_keys(&self, layer: LayerIdx) -> &[f32] {
        self.kept_keys.get(layer.0).map_or(&[], Vec::as_slice)
    }

    /// Counts tokens of a prompt among those whose residual stream a layer's attention left so similar: a cosine for each.
    pub fn note_similarities(&mut self, layer: LayerIdx, cosines: impl Iterator<Item = f64>) {
        if let Some((sum, tokens)) = self.similarities.get_mut(layer.0) {
            for cosine in cosines {
                *sum += cosine;
                *tokens += 1;
            }
        }
    }

    /// The mean of what was noted of each layer, `[L]`; 0 where nothing was.
    pub fn similarities(&self) -> Vec<f64> {
        self.similarities.iter().map(|&(sum, tokens)| sum / f64::from(tokens.max(1))).collect()
    }

    /// Appends t tokens from [`KvCache::next_position`] on to all lanes of a layer; group i gets the i-th part
    /// of the keys and values. In each lane they are [`Lane::newest`]`(t)`.
    ///
    /// Errors: as [`Lane::append`], and [`CacheError::Bounds`] without such a layer; then nothing has changed.
    pub fn append(
        &mut self,
        layer: LayerIdx,
        rows: KeyValueRows<'_>,
        window: Option<u32>,
    ) -> Result<(), CacheError> {
        let width = self.pool.layout().heads() * self.pool.layout().head_dim();
        let position = self.next_position;
        let lanes = self.layer_mut("append", layer)?;
        for group in 0..lanes.len() {
            let part = |offset: usize| {
                rows.data.get(offset.saturating_add(group.saturating_mul(width))..).unwrap_or_default()
            };
            let (keys, values) = (part(rows.key_offset), part(rows.value_offset));
            if let Err(error) = lanes[group].append(position, rows.count, keys, values, rows.stride, window) {
                // The rows of the lanes before are their newest.
                for lane in &mut lanes[..group] {
                    lane.truncate(lane.newest(rows.count).start);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Frees what no query from `now` on sees in a layer, tells `died` of the group and death of each, and gives
    /// their number; after a step of t tokens `now` is `next_position() + t`.
    ///
    /// Errors: as [`Lane::reclaim`], and [`CacheError::Bounds`] without such a layer.
    pub fn reclaim(
        &mut self,
        layer: LayerIdx,
        now: u32,
        died: &mut dyn FnMut(usize, Death),
    ) -> Result<usize, CacheError> {
        let (mut freed, mut overflow) = (0, None);
        for (group, lane) in self.layer_mut("reclaim", layer)?.iter_mut().enumerate() {
            overflow = overflow.or(lane.take_overflow());
            freed += lane.reclaim(now, &mut |death| died(group, death))?;
        }
        self.overflow = self.overflow.or(overflow.map(|found| (layer, found)));
        Ok(freed)
    }

    /// Whether the pages could hold every number that they were given, up to the last reclaim of each layer.
    ///
    /// Errors: [`CacheError::Range`] with the first that they could not: what the sequence does from then on is wrong,
    /// whether or not its logits show it.
    pub fn check_range(&self) -> Result<(), CacheError> {
        let Some((layer, Overflow { what, position, number })) = self.overflow else { return Ok(()) };
        Err(CacheError::Range { layer, what, position, number, dtype: self.pool.layout().format() })
    }

    /// Pages that the lanes hold, those included that they share with a fork.
    pub fn pages(&self) -> usize {
        self.layers.iter().flatten().map(Lane::pages).sum()
    }

    /// Pages that a step of `tokens` tokens takes from the pool at most: what a scheduler asks before it starts
    /// one. What the step itself frees is not counted, but the copies are that its reclaim may make of pages that a
    /// fork shares.
    pub fn pages_wanted(&self, tokens: usize) -> usize {
        self.layers.iter().flatten().map(|lane| lane.pages_wanted(tokens) + lane.copies_wanted(tokens)).sum()
    }

    /// Pages that an append of `tokens` tokens takes from the pool at most: [`KvCache::pages_wanted`] of a sequence of which
    /// nothing is ever freed.
    pub fn pages_appended(&self, tokens: usize) -> usize {
        self.layers.iter().flatten().map(|lane| lane.pages_wanted(tokens)).sum()
    }

    /// Forgets every token from `position` on in all lanes, as [`Lane::rewind`] does.
    ///
    /// Errors: as [`Lane::rewind`]; lanes before the one that failed have been rewound, and rewinding again goes
    /// on from there.
    pub fn rewind(&mut self, position: u32) -> Result<(), CacheError> {
        self.layers.iter_mut().flatten().try_for_each(|lane| lane.rewind(position))?;
        self.next_position = self.next_position.min(position);
        self.overflow.take_if(|(_, found)| found.position >= position);
        Ok(())
    }

    /// A second sequence with the same past, which shares all pages until one of both writes them.
    pub fn fork(&self) -> Self {
        let layers = self.layers.iter().map(|lanes| lanes.iter().map(Lane::fork).collect()).collect();
        Self {
            pool: self.pool.clone(),
            layers,
            groups: self.groups,
            next_position: self.next_position,
            shift: self.shift,
            kept_keys: self.kept_keys.clone(),
            similarities: self.similarities.clone(),
            overflow: self.overflow,
        }
    }

    /// How much memory the sequence takes and spares.
    pub fn report(&self) -> KvReport {
        let lanes = || self.layers.iter().flatten();
        let layout = self.pool.layout();
        let live_entries = lanes().map(Lane::len).sum::<usize>() as u64;
        let logical_entries = u64::from(self.next_position) * (self.layers.len() * self.groups) as u64;
        let kept = self.kept_keys.iter().map(|keys| size_of_val(keys.as_slice())).sum::<usize>();
        KvReport {
            logical_entries,
            live_entries,
            live_bytes: live_entries * (layout.entry_bytes() + metadata_bytes(&self.pool)) as u64,
            held_bytes: (lanes().map(Lane::held_bytes).sum::<usize>() + kept) as u64,
            dense_bytes: logical_entries * layout.key_value_bytes() as u64,
        }
    }

    fn layer_mut(&mut self, op: &'static str, layer: LayerIdx) -> Result<&mut [Lane], CacheError> {
        let limit = self.layers.len();
        let lanes = self.layers.get_mut(layer.0).map(Vec::as_mut_slice);
        lanes.ok_or(CacheError::Bounds { op, what: "a layer", limit, got: layer.0 })
    }
}
