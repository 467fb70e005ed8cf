//! The sums of attention for all sequences of a step at once: more work to share out than one sequence has.

use dropcap_kernels::{AttentionRows, attention_mass};
use dropcap_policy::{Attended, LaneEditor, PolicyError};

use super::{Looks, Ranked};

/// Of one sequence and each KV head f32 `[k, e]`.
type Sums = Vec<Vec<f32>>;

impl Ranked {
    /// What the scorer asks for of each span; none where it asks for nothing.
    pub(super) fn take_looks(
        &self,
        seen: &Attended<'_>,
        lanes: &[LaneEditor<'_>],
    ) -> Result<Vec<Option<Sums>>, PolicyError> {
        let needs = self.wants();
        let heads = seen.shape.kv_heads;
        let mut taken: Vec<Option<Sums>> = Vec::with_capacity(lanes.len());
        let mut rows = Vec::new();
        for (number, (span, lanes)) in seen.spans.iter().zip(lanes).enumerate() {
            let looks =
                if needs.heeds(span) { self.scorer.looks(span, needs.acts(span)) } else { Looks::Nowhere };
            let place = (seen.layer, seen.layers);
            let similarities = seen.similarities.get(number).map_or(&[][..], Vec::as_slice);
            let kept = self.budget.kept_knowing(span.next_position(), span.budget, place, similarities);
            // Where nothing goes, nobody asks what for.
            let all_stay = (0..lanes.groups()).all(|group| lanes.lane(group).len() <= kept as usize);
            let looks = match looks {
                Looks::Last { .. } if all_stay && !self.waits(span) => Looks::Nowhere,
                looks => looks,
            };
            let lane = |head: usize| lanes.lane(head.min(lanes.groups() - 1));
            let (window, sums): (usize, Sums) = match looks {
                Looks::Nowhere => {
                    taken.push(None);
                    continue;
                }
                Looks::Adds => {
                    let first = |head| {
                        let (lane, place) = (lane(head), seen.first_statistic);
                        let row = lane.statistics().len() / lane.len().max(1);
                        lane.statistics().chunks_exact(row.max(1)).map(|row| row[place]).collect()
                    };
                    (usize::MAX, (0..heads).map(first).collect())
                }
                Looks::Last { window, apart } => {
                    let rows = if apart { seen.shape.query_heads / heads } else { 1 };
                    (window, (0..heads).map(|head| vec![0.0; rows * lane(head).len()]).collect())
                }
            };
            let skipped = span.queries.saturating_sub(window);
            rows.push(AttentionRows {
                first_row: span.first_row + skipped,
                queries: span.queries - skipped,
                // Fits: the step's positions have been checked.
                first_position: span.first_position + skipped as u32,
                lanes: (0..lanes.groups()).map(|group| lanes.lane(group).view()).collect(),
            });
            taken.push(Some(sums));
        }
        let mut sums: Vec<&mut [f32]> = taken.iter_mut().flatten().flatten().map(Vec::as_mut_slice).collect();
        attention_mass(seen.team, &seen.shape, &rows, seen.queries, seen.query_stride, &mut sums)?;
        Ok(taken)
    }
}
