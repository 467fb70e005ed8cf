use dropcap_kernels::{AttentionRows, attention_mass};

use super::*;
use crate::{Attended, Cadence, LaneEditor, Needs, Observation, Stage};

const SCENE: Scene =
    Scene { layers: 2, kv_heads: 2, hidden: 4, sequences: 3, prompt: 70, decoded: 30, seed: 11 };
/// Entries that stay of each lane.
const KEPT: usize = 25;

/// Ends what got least attention so far, after every query behind the prompt, with what can be wrong with that.
#[derive(Debug, Clone, Copy)]
struct LeastSeen {
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Acts where steps end inside a prompt, wherever that is.
    ActsInChunks,
    /// Writes the statistic after its own.
    WritesBeside,
    /// Ranks tokens of its step that have not come yet.
    LooksAhead,
}

impl EvictionPolicy for LeastSeen {
    fn per_head(&self) -> bool {
        true
    }

    fn needs(&self) -> Needs {
        Needs { after: Cadence::EVERY_QUERY, statistics: 1, ..Needs::default() }
    }

    fn decide(&self, _: &Observation<'_>, _: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        Ok(())
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        for (span, lanes) in seen.spans.iter().zip(lanes) {
            let width = lanes.lane(0).statistics().len() / lanes.lane(0).len();
            let mut sums: Vec<Vec<f32>> = (0..lanes.groups())
                .map(|group| {
                    lanes
                        .statistics(group)
                        .iter()
                        .skip(seen.first_statistic)
                        .step_by(width)
                        .copied()
                        .collect()
                })
                .collect();
            let rows = AttentionRows {
                first_row: span.first_row,
                queries: span.queries,
                first_position: span.first_position,
                lanes: (0..lanes.groups()).map(|group| lanes.lane(group).view()).collect(),
            };
            let mut slices: Vec<&mut [f32]> = sums.iter_mut().map(Vec::as_mut_slice).collect();
            attention_mass(seen.team, &seen.shape, &[rows], seen.queries, seen.query_stride, &mut slices)?;
            let next = span.next_position();
            let acts = span.stage != Stage::Prompt || self.fault == Fault::ActsInChunks;
            for (group, sums) in sums.iter().enumerate() {
                let channel = seen.first_statistic + usize::from(self.fault == Fault::WritesBeside);
                let statistics = lanes.statistics(group).iter_mut().skip(channel).step_by(width);
                statistics.zip(sums).for_each(|(statistic, sum)| *statistic = *sum);
                let lane = lanes.lane(group);
                let mut order: Vec<usize> = (0..lane.len()).collect();
                order.retain(|&entry| {
                    let has_come = lane.positions()[entry] < next || self.fault == Fault::LooksAhead;
                    has_come && lane.expires_at()[entry] > next
                });
                order.sort_by(|&a, &b| {
                    sums[b].total_cmp(&sums[a]).then(lane.positions()[b].cmp(&lane.positions()[a]))
                });
                for &entry in order.iter().skip(KEPT).filter(|_| acts) {
                    lanes.lower(group, entry, next, next - 1);
                }
            }
        }
        Ok(())
    }
}

/// The same in prompts; of what follows it ends all but the first token of a step, and says nothing of it.
#[derive(Debug)]
struct Secretive(LeastSeen);

impl EvictionPolicy for Secretive {
    fn per_head(&self) -> bool {
        true
    }

    fn needs(&self) -> Needs {
        Needs { after: Cadence::Prompt, ..self.0.needs() }
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        for (span, lanes) in seen.spans.iter().zip(lanes).filter(|(span, _)| span.stage == Stage::Behind) {
            for group in 0..lanes.groups() {
                for entry in lanes.new_entries(group).skip(1) {
                    let position = lanes.lane(group).positions()[entry];
                    lanes.lower(group, entry, position + 1, span.first_position);
                }
            }
        }
        Ok(())
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.0.after(seen, lanes)
    }
}

fn rule(policy: &dyn EvictionPolicy) -> Option<&'static str> {
    match check(policy, &SCENE) {
        Ok(()) => None,
        Err(Violation::Rule { rule, .. }) => Some(rule),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn one_that_acts_after_every_query_passes_alone_and_combined() {
    let policy = LeastSeen { fault: Fault::None };
    assert_eq!(rule(&policy), None);
    assert_eq!(rule(&crate::Both::new(policy, policy)), None);
    assert_eq!(rule(&Protected::new(policy, 2, 9)), None);
    let lives = lifetimes(&policy, &SCENE).unwrap();
    assert!(
        lives.values().any(|(expires_at, _)| *expires_at > SCENE.prompt as u32 && *expires_at != u32::MAX)
    );
}

#[test]
fn each_fault_is_found() {
    let faulty = |fault| rule(&LeastSeen { fault });
    assert_eq!(faulty(Fault::ActsInChunks), Some("chunking changes nothing"));
    assert_eq!(faulty(Fault::WritesBeside), Some("a policy writes no statistic but its own"));
    let again = Some("generated tokens end alike when they go in again together");
    assert_eq!(faulty(Fault::LooksAhead), again);
    assert_eq!(rule(&Secretive(LeastSeen { fault: Fault::None })), again);
}
