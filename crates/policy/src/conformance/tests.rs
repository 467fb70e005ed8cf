use super::*;
use crate::{Both, KeepAll, LaneEditor, Observation, Peak, SideChannel, TextSize};

const SCENE: Scene =
    Scene { layers: 2, kv_heads: 2, hidden: 4, sequences: 3, prompt: 90, decoded: 40, seed: 7 };

/// A window, with what can be wrong with one.
#[derive(Debug, Clone, Copy)]
struct Window {
    recent: u32,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Looks at the step instead of at the sequence.
    DependsOnChunks,
    /// Writes into the channel after its own.
    WritesBeside,
    /// Treats the lanes of a layer differently.
    PrefersALane,
    /// Says that lanes stay emptier than they do.
    PromisesLess,
    /// Says that lanes get fuller than they do.
    PromisesMore,
}

impl EvictionPolicy for Window {
    fn side_channels(&self) -> Vec<SideChannel> {
        vec![SideChannel { name: "mark", width: 1 }]
    }

    fn peak(&self, TextSize { tokens, .. }: TextSize) -> Peak {
        let recent = self.recent.max(1) as usize;
        match self.fault {
            Fault::None => Peak::exactly(recent.min(tokens)),
            Fault::PromisesLess => Peak::exactly((recent - 1).min(tokens)),
            Fault::PromisesMore => Peak::exactly((recent + 1).min(tokens)),
            _ => Peak::unknown(tokens),
        }
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        for (span, lanes) in seen.spans.iter().zip(lanes) {
            for group in 0..lanes.groups() {
                let channel = seen.first_channel + usize::from(self.fault == Fault::WritesBeside);
                lanes.write_side(group, channel, &vec![-1.0; span.queries], 1)?;
                for entry in lanes.new_entries(group) {
                    let position = lanes.lane(group).positions()[entry];
                    let recent = match self.fault {
                        Fault::DependsOnChunks => span.queries as u32,
                        Fault::PrefersALane => self.recent + group as u32,
                        _ => self.recent,
                    };
                    lanes.lower(group, entry, position + recent, position + recent);
                }
            }
        }
        Ok(())
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
fn an_honest_window_passes_alone_and_combined() {
    let window = Window { recent: 20, fault: Fault::None };
    assert_eq!(rule(&KeepAll), None);
    assert_eq!(rule(&window), None);
    assert_eq!(rule(&Both::new(window, Window { recent: 10, ..window })), None);
    assert_eq!(rule(&Both::new(KeepAll, Protected::new(window, 2, 30))), None);
}

#[test]
fn a_window_of_nothing_still_lets_every_token_see_itself() {
    assert_eq!(rule(&Window { recent: 0, fault: Fault::None }), None);
}

#[test]
fn each_fault_is_found() {
    let faulty = |fault| rule(&Window { recent: 20, fault });
    assert_eq!(faulty(Fault::DependsOnChunks), Some("chunking changes nothing"));
    assert_eq!(faulty(Fault::WritesBeside), Some("a policy writes no side channel but its own"));
    assert_eq!(faulty(Fault::PrefersALane), Some("a layer-wise policy treats every lane of a layer alike"));
    assert_eq!(faulty(Fault::PromisesLess), Some("a lane is never fuller than its policy says"));
    assert_eq!(faulty(Fault::PromisesMore), Some("a lane gets as full as its policy says at least"));
}
