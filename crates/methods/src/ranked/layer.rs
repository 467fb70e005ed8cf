//! One layer of one sequence after attention, as scorers see it.

use std::ops::Range;

use dropcap_cache::{CacheError, Lane};
use dropcap_kernels::{AttentionRows, attention_mass};
use dropcap_policy::{Attended, LaneEditor, PolicyError, Span};

use super::live::Live;

/// Reads rows of some entries of a lane for one of its heads.
type ReadRows = fn(&Lane, &[usize], usize) -> Result<Vec<f32>, CacheError>;

/// Entries, and the queries that have just attended.
pub(crate) struct Layer<'a> {
    pub(super) seen: &'a Attended<'a>,
    pub(super) span: &'a Span,
    lanes: &'a LaneEditor<'a>,
    live: Vec<Live>,
    statistics: Range<usize>,
    kept: usize,
    taken: Option<&'a [Vec<f32>]>,
}

impl<'a> Layer<'a> {
    /// All entries as they lie, those that have not come yet among them: what is there to be summed up about. Statistics are
    /// those of an entry's row that the scorer owns.
    pub(super) fn all(
        seen: &'a Attended<'a>,
        span: &'a Span,
        lanes: &'a LaneEditor<'a>,
        statistics: Range<usize>,
    ) -> Self {
        let live = (0..lanes.groups()).map(|group| Live::all(lanes.lane(group)));
        Self { seen, span, lanes, live: live.collect(), statistics, kept: 0, taken: None }
    }

    /// The same with what was taken together with other sequences ([`super::Scorer::looks`]).
    pub(super) fn having(self, taken: Option<&'a [Vec<f32>]>) -> Self {
        Self { taken, ..self }
    }

    /// What [`super::Scorer::looks`] asked for, if it did: of each KV head f32 `[k, e]` in the order of the lanes.
    pub(crate) fn taken(&self) -> Option<&'a [Vec<f32>]> {
        self.taken
    }

    /// The entries that the next query would see, of which `kept` are to stay of each head on average; `ordered` sorts them by
    /// position, otherwise they come as they lie.
    pub(super) fn next(self, ordered: bool, kept: usize) -> Self {
        let next = self.span.next_position();
        let live = (0..self.lanes.groups()).map(|group| Live::of(self.lanes.lane(group), next, ordered));
        Self { live: live.collect(), kept, ..self }
    }

    /// What is shown of each lane.
    pub(super) fn into_live(self) -> Vec<Live> {
        self.live
    }

    /// Lanes of the layer: one, or one per KV head.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.groups()
    }

    /// Entries that are to stay of each head, on average.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Position of the first of the queries that have just attended.
    pub(crate) fn first_position(&self) -> u32 {
        self.span.first_position
    }

    /// First query position that does not see an entry of a head, as it is known now.
    pub(crate) fn expires_at(&self, head: usize, entry: usize) -> u32 {
        self.lane(head).0.expires_at()[self.live(head).entries[entry]]
    }

    /// KV heads g.
    pub(crate) fn heads(&self) -> usize {
        self.seen.shape.kv_heads
    }

    /// Query heads per KV head.
    pub(crate) fn group(&self) -> usize {
        self.seen.shape.query_heads / self.seen.shape.kv_heads
    }

    /// Width d of a head.
    pub(crate) fn head_dim(&self) -> usize {
        self.seen.shape.head_dim
    }

    /// Tokens of the sequence so far.
    pub(crate) fn tokens(&self) -> usize {
        self.span.next_position() as usize
    }

    /// Queries that have just attended.
    pub(crate) fn queries(&self) -> usize {
        self.span.queries
    }

    /// Index of the layer.
    pub(crate) fn index(&self) -> usize {
        self.seen.layer
    }

    /// Factor of every dot product in attention.
    pub(crate) fn scale(&self) -> f32 {
        self.seen.shape.scale
    }

    /// What is shown of a head.
    pub(crate) fn live(&self, head: usize) -> &Live {
        &self.live[head.min(self.live.len() - 1)]
    }

    /// Positions of a head's entries `[e]`.
    pub(crate) fn positions(&self, head: usize) -> &[u32] {
        &self.live(head).positions
    }

    /// Positions of the entries that any head has, in the order of the lane where there is but one.
    pub(crate) fn all_positions(&self) -> Vec<u32> {
        Live::all_positions(&self.live)
    }

    /// Adds up numbers of each head's entries, f32 `[k, e]` for any k, over all rows and heads: in the order of
    /// [`all_positions`](Self::all_positions).
    pub(crate) fn over_heads(&self, rows: &[Vec<f32>]) -> Vec<f32> {
        let all = self.all_positions();
        let mut sums = vec![0.0; all.len()];
        for (head, rows) in rows.iter().enumerate() {
            let positions = self.positions(head);
            for row in rows.chunks_exact(positions.len().max(1)) {
                for (index, (&number, position)) in row.iter().zip(positions).enumerate() {
                    let place = if self.live.len() == 1 { Ok(index) } else { all.binary_search(position) };
                    if let Ok(place) = place {
                        sums[place] += number;
                    }
                }
            }
        }
        sums
    }

    /// Keys of a head's entries as the cache holds them, turned by their positions, f32 `[e, d]`.
    pub(crate) fn keys(&self, head: usize) -> Result<Vec<f32>, PolicyError> {
        self.read(head, Lane::read_keys)
    }

    /// Values of a head's entries as the cache holds them, f32 `[e, d]`.
    pub(crate) fn values(&self, head: usize) -> Result<Vec<f32>, PolicyError> {
        self.read(head, Lane::read_values)
    }

    /// A head's statistics, f32 `[e, s]`.
    pub(crate) fn statistics(&self, head: usize) -> Vec<f32> {
        let lane = self.lane(head).0;
        let width = lane.statistics().len() / lane.len().max(1);
        let row = |&entry: &usize| &lane.statistics()[entry * width..][self.statistics.clone()];
        self.live(head).entries.iter().flat_map(row).copied().collect()
    }

    /// What [`super::Looks::Last`] asked for of the entries shown: of each KV head f32 `[k, e]`.
    pub(crate) fn mass(&self) -> Vec<Vec<f32>> {
        let shown = |(head, sums): (usize, &Vec<f32>)| {
            let rows = sums.chunks_exact(self.lane(head).0.len().max(1));
            rows.flat_map(|row| self.live(head).entries.iter().map(move |&entry| row[entry])).collect()
        };
        self.taken.unwrap_or_default().iter().enumerate().map(shown).collect()
    }

    /// Adds what some of the step's queries gave each entry to sums of each KV head, f32 `[group, e]` or `[1, e]` in the
    /// order of the lanes.
    pub(crate) fn add_mass(&self, queries: Range<usize>, sums: &mut [Vec<f32>]) -> Result<(), PolicyError> {
        // Fits: the step's positions have been checked.
        let first_position = self.span.first_position + queries.start as u32;
        let rows = AttentionRows {
            first_row: self.span.first_row + queries.start,
            queries: queries.len(),
            first_position,
            lanes: (0..self.lanes.groups()).map(|group| self.lanes.lane(group).view()).collect(),
        };
        let mut sums: Vec<&mut [f32]> = sums.iter_mut().map(Vec::as_mut_slice).collect();
        let Attended { team, shape, queries, query_stride, .. } = self.seen;
        Ok(attention_mass(team, shape, &[rows], queries, *query_stride, &mut sums)?)
    }

    /// The lane of a KV head, and the head's number in it.
    fn lane(&self, head: usize) -> (&Lane, usize) {
        if self.lanes.groups() == 1 { (self.lanes.lane(0), head) } else { (self.lanes.lane(head), 0) }
    }

    fn read(&self, head: usize, rows: ReadRows) -> Result<Vec<f32>, PolicyError> {
        let (lane, index) = self.lane(head);
        Ok(rows(lane, &self.live(head).entries, index)?)
    }
}
