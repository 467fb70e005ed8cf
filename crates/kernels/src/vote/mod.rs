//! The votes of the learned gates: which query is the first to refuse an entry.
//!
//! Source: Anagnostidis et al. 2023, arXiv 2305.15805, the hard rule: `raw[n, j] = q_n . k_j / sqrt(r) + bias`, and
//! entry j is gone from the first later query n on whose raw vote is not positive.

mod cpu;
mod cuda;
mod plan;
#[cfg(test)]
mod reference;

use std::sync::{Mutex, PoisonError};

use crate::error::{check_length, checked_size};
use crate::simd::Isa;
use crate::{KernelError, LaneView, PAGE_ENTRIES, Team};
use cpu::Gates;

pub use cuda::DeviceVotes;
pub(crate) use cuda::SOURCE as VOTE_SOURCE;

const OP: &str = "first_refusals";

/// Pages that one task of a step with few queries looks at: less would be over before a thread has joined.
const TASK_PAGES: usize = 8;

/// One sequence's queries against one lane.
#[derive(Debug)]
pub struct VoteJob<'a> {
    /// Row of the first query's gate in `query_gates`.
    pub first_row: usize,
    /// Number of queries, at positions `first_position..`.
    pub queries: usize,
    /// Position of the first query.
    pub first_position: u32,
    /// The entries that are voted on.
    pub lane: LaneView<'a>,
    /// The side channel that holds their key gates `[e, r]`.
    pub channel: usize,
    /// Written: per entry `[e]` the position of the first query that refuses it, or `u32::MAX`.
    pub refused_by: &'a mut [u32],
}

/// Sets `refused_by[i]` of every job to the smallest query position n of the job with `position < n < expires_at`
/// and not `q_n . k_i / sqrt(r) + bias > 0`, or to `u32::MAX` where there is none. A NaN refuses, because the
/// published rule keeps on `raw > 0`.
///
/// `query_gates` is `[t, r]`, where r is the width of every job's side channel. A raw vote is one chain of f32
/// operations over r, whatever the number of queries and whichever slot the entry is in: prefill, chunks and decode
/// decide alike, bit for bit.
///
/// Errors: channels that do not exist or differ in width, slices too short, positions beyond `u32::MAX - 1`.
pub fn first_refusals(
    team: &Team,
    query_gates: &[f32],
    bias: f32,
    jobs: &mut [VoteJob<'_>],
) -> Result<(), KernelError> {
    first_refusals_with(Isa::best(), team, query_gates, bias, jobs)
}

/// [`first_refusals`] with the given instruction set, or the portable one where the machine lacks it.
///
/// Errors: as [`first_refusals`].
pub fn first_refusals_with(
    isa: Isa,
    team: &Team,
    query_gates: &[f32],
    bias: f32,
    jobs: &mut [VoteJob<'_>],
) -> Result<(), KernelError> {
    let Some(width) = check(query_gates, jobs)? else { return Ok(()) };
    let gates: Vec<Gates> = jobs
        .iter()
        .map(|job| Gates::pack(isa, &query_gates[job.first_row * width..][..job.queries * width], width))
        .collect();
    let mut tasks = Vec::new();
    for (job, gates) in jobs.iter_mut().zip(&gates) {
        // Many queries make a page a task of its own, so that one lane can occupy a team.
        let pages = if job.queries < crate::panel::MAX_TILE_ROWS { TASK_PAGES } else { 1 };
        let votes = cpu::Votes {
            isa,
            gates,
            first_position: job.first_position,
            lane: &job.lane,
            channel: job.channel,
            bias,
        };
        let pieces = job.refused_by.chunks_mut(pages * PAGE_ENTRIES).enumerate();
        tasks.extend(pieces.map(|(i, piece)| (votes, i * pages, Mutex::new(piece))));
    }
    team.run(tasks.len(), &|task| {
        let (votes, first_page, refused_by) = &tasks[task];
        // Each piece has one task: the lock only hands it over to that task's thread.
        votes.collect(*first_page, &mut refused_by.lock().unwrap_or_else(PoisonError::into_inner));
    });
    Ok(())
}

/// The width of the gates, if there is a job.
fn check(query_gates: &[f32], jobs: &[VoteJob<'_>]) -> Result<Option<usize>, KernelError> {
    let mut common = None;
    for job in jobs {
        job.lane.check(OP)?;
        let (_, width) = job.lane.layout.side(OP, job.channel)?;
        if *common.get_or_insert(width) != width {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!("side channels of one width, {}", common.unwrap_or(width)),
                got: width.to_string(),
            });
        }
        check_length(OP, "refused_by", job.lane.len(), job.refused_by.len())?;
        let rows = job.first_row.saturating_add(job.queries);
        let expected = checked_size(OP, &[rows, width])?;
        if query_gates.len() < expected {
            return Err(KernelError::Length {
                op: OP,
                what: "query_gates",
                expected,
                got: query_gates.len(),
            });
        }
        if job.queries > (u32::MAX - job.first_position) as usize {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!("positions below {}", u32::MAX),
                got: format!("{} queries from position {}", job.queries, job.first_position),
            });
        }
    }
    Ok(common)
}

#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;
