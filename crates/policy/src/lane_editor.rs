//! The lanes of one sequence in one layer, as an editor that enforces the floors.

use std::ops::Range;

use dropcap_cache::Lane;

use crate::{Floors, PolicyError, Span};

/// What a policy may do to one sequence's entries in one layer: write their side channels, lower their lifetimes.
///
/// Whatever is asked of it, a lifetime never grows, no token ends before the query after its own, nothing ends before
/// the first query that may still be told (this step's first before attention, the one after its last behind it), and
/// the floors hold: a policy with poisoned parameters can forget too much, never the
/// sinks or the recent window.
#[derive(Debug)]
pub struct LaneEditor<'a> {
    lanes: &'a mut [Lane],
    appended: usize,
    first_query: u32,
    floors: Floors,
    among: Option<&'a [bool]>,
}

impl<'a> LaneEditor<'a> {
    /// An editor of `lanes` (one, or one per KV head), whose last entries are the new tokens of `span`.
    #[must_use]
    pub fn new(lanes: &'a mut [Lane], span: &Span) -> Self {
        let (appended, first_query) = (span.queries, span.first_position);
        Self { lanes, appended, first_query, floors: Floors::default(), among: None }
    }

    /// An editor of `lanes` after the queries of `span` have attended: what it ends, they have seen.
    #[must_use]
    pub fn after(lanes: &'a mut [Lane], span: &Span) -> Self {
        Self { lanes, appended: 0, first_query: span.next_position(), floors: Floors::default(), among: None }
    }

    /// The same lanes under higher floors, until the borrow ends; floors can be raised here, never lowered.
    #[must_use]
    pub fn guarded(&mut self, floors: Floors) -> LaneEditor<'_> {
        let &mut Self { ref mut lanes, appended, first_query, floors: own, among } = self;
        LaneEditor { lanes, appended, first_query, floors: own.and(floors), among }
    }

    /// The same lanes, of which those that `heads` `[g]` does not name keep everything.
    #[must_use]
    pub fn among(self, heads: Option<&'a [bool]>) -> Self {
        Self { among: heads.or(self.among), ..self }
    }

    /// How many lanes there are: one for the layer, or one per KV head.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.lanes.len()
    }

    /// The entries of one lane, to read.
    ///
    /// # Panics
    /// If `group` is not below [`groups`](Self::groups).
    #[must_use]
    pub fn lane(&self, group: usize) -> &Lane {
        &self.lanes[group]
    }

    /// This step's entries within a lane, in the order of their positions: always the lane's last ones. None after
    /// attention.
    ///
    /// # Panics
    /// If `group` is not below [`groups`](Self::groups).
    #[must_use]
    pub fn new_entries(&self, group: usize) -> Range<usize> {
        self.lanes[group].newest(self.appended)
    }

    /// Stores this step's rows in one side channel of one lane: row i belongs to the i-th new entry and starts
    /// at `rows[i * stride]`.
    ///
    /// # Errors
    /// A channel that the pages do not have, or too few numbers.
    pub fn write_side(
        &mut self,
        group: usize,
        channel: usize,
        rows: &[f32],
        stride: usize,
    ) -> Result<(), PolicyError> {
        let entries = self.new_entries(group);
        Ok(self.lanes[group].write_side(entries, channel, rows, stride)?)
    }

    /// The statistics of a lane's entries, all that the lane has, to be changed: f32 `[e, s]`, of which a policy owns
    /// those from [`crate::Attended::first_statistic`] on that it declared.
    ///
    /// # Panics
    /// If `group` is not below [`groups`](Self::groups).
    pub fn statistics(&mut self, group: usize) -> &mut [f32] {
        self.lanes[group].statistics_mut()
    }

    /// Lets an entry end at the query `expires_at` and notes which query decided so; false if the entry was to end
    /// no later anyway, or is of a head that is left alone, and then nothing changes.
    ///
    /// The entry ends at its floor if that is later, and not before the first query that may still be told:
    /// earlier ones have seen it. `killer` stays who decided, however long ago.
    ///
    /// # Panics
    /// If `group` or `entry` is out of range.
    pub fn lower(&mut self, group: usize, entry: usize, expires_at: u32, killer: u32) -> bool {
        if self.among.is_some_and(|heads| !heads.get(group).is_some_and(|acts| *acts)) {
            return false;
        }
        let lane = &mut self.lanes[group];
        let floor = self.floors.of(lane.positions()[entry]);
        lane.lower(entry, expires_at.max(floor).max(self.first_query), killer)
    }
}

#[cfg(test)]
mod tests;
