//! Queries and keys without the rotation of their positions.

use dropcap_kernels::rotate_back;
use dropcap_policy::PolicyError;

use super::Layer;

impl Layer<'_> {
    /// Cosines and sines of a position, `[rotary / 2]` each, of the pairs (i, i + rotary / 2); none where positions are learned.
    pub(crate) fn rotation(&self, position: u32) -> (Vec<f32>, Vec<f32>) {
        let Some(table) = self.seen.rope else { return Default::default() };
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        let part = |turn: fn(f64) -> f64| {
            table.inv_freq.iter().map(|f| turn(angle(f)) as f32 * table.attention_scaling).collect()
        };
        (part(f64::cos), part(f64::sin))
    }

    /// The last `window` queries as attention took them: of each KV head f32 `[group, w, d]`.
    pub(crate) fn queries_as_taken(&self, window: usize) -> Vec<Vec<f32>> {
        self.by_head(&self.rows_of_queries(window).1)
    }

    /// The same before their rotation.
    pub(crate) fn raw_queries(&self, window: usize) -> Result<Vec<Vec<f32>>, PolicyError> {
        let (positions, mut queries) = self.rows_of_queries(window);
        self.turn_back(&mut queries, self.seen.shape.query_heads, &positions)?;
        Ok(self.by_head(&queries))
    }

    /// Positions of the last `window` queries, and their rows `[w, h d]`.
    fn rows_of_queries(&self, window: usize) -> (Vec<u32>, Vec<f32>) {
        let (span, shape) = (self.span, &self.seen.shape);
        let width = shape.query_heads * shape.head_dim;
        let rows = span.queries.saturating_sub(window)..span.queries;
        let row = |row: usize| &self.seen.queries[(span.first_row + row) * self.seen.query_stride..][..width];
        let queries = rows.clone().flat_map(row).copied().collect();
        // Fits: the step's positions have been checked.
        (rows.map(|row| span.first_position + row as u32).collect(), queries)
    }

    /// Rows `[w, h d]` as `[group, w, d]` of each KV head.
    fn by_head(&self, queries: &[f32]) -> Vec<Vec<f32>> {
        let (group, width) = (self.group(), self.head_dim());
        let member = |member: usize| {
            let rows = queries.chunks_exact(self.seen.shape.query_heads * width);
            rows.flat_map(move |row| &row[member * width..][..width]).copied()
        };
        (0..self.heads()).map(|head| (head * group..(head + 1) * group).flat_map(member).collect()).collect()
    }

    /// The query of each entry's own token, turned by its position: of each KV head f32 `[group, e, d]`, zeros for tokens that
    /// came in an earlier step.
    pub(crate) fn queries_of_entries(&self) -> Vec<Vec<f32>> {
        let (span, width) = (self.span, self.head_dim());
        let head = |head: usize| {
            let mut queries = Vec::with_capacity(self.group() * self.positions(head).len() * width);
            for member in head * self.group()..(head + 1) * self.group() {
                for &position in self.positions(head) {
                    let row = position.checked_sub(span.first_position).map(|row| row as usize);
                    match row.filter(|&row| row < span.queries) {
                        Some(row) => {
                            let start = (span.first_row + row) * self.seen.query_stride + member * width;
                            queries.extend_from_slice(&self.seen.queries[start..start + width]);
                        }
                        None => queries.resize(queries.len() + width, 0.0),
                    }
                }
            }
            queries
        };
        (0..self.heads()).map(head).collect()
    }

    /// A head's keys before their rotation, f32 `[e, d]`: as exact as the cache holds them.
    pub(crate) fn raw_keys(&self, head: usize) -> Result<Vec<f32>, PolicyError> {
        let mut keys = self.keys(head)?;
        self.turn_back(&mut keys, 1, self.positions(head))?;
        Ok(keys)
    }

    /// Turns rows of heads back, in place.
    fn turn_back(&self, rows: &mut [f32], heads: usize, positions: &[u32]) -> Result<(), PolicyError> {
        let Some(table) = self.seen.rope else { return Ok(()) };
        let stride = heads * self.head_dim();
        rotate_back(self.seen.team, rows, stride, 0, heads, self.head_dim(), &table.angles(positions))?;
        // Turning scales by the table's factor both ways.
        let factor = table.attention_scaling * table.attention_scaling;
        if factor != 1.0 {
            let rotary = 2 * table.inv_freq.len();
            let heads = rows.chunks_exact_mut(self.head_dim());
            heads.for_each(|head| head[..rotary].iter_mut().for_each(|x| *x /= factor));
        }
        Ok(())
    }
}
