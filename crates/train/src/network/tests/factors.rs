//! Thin factors beside held weights: the forward pass of the merged weight, and its gradient projected.

use dropcap_kernels::Orientation;
use dropcap_model::{DecoderConfig, LowRank, MatrixPlan, WeightPlan, peft_factor};
use dropcap_policy::Floors;

use super::super::{FactorForm, Group, Pruning};
use super::families::{Scene, families};

const RANK: usize = 3;
const SCALE: f32 = 0.7;
/// Both ways sum the same products in other orders.
const TOLERANCE: f64 = 2e-5;

/// A scene in whose weights random factors are merged as inference merges them, and one that has them beside its weights.
fn scenes(config: &DecoderConfig, targets: &dyn Fn(&str) -> bool) -> (WeightPlan, FactorForm, Scene, Scene) {
    let plan = WeightPlan::of(config, &|_| false);
    let tensors = plan.products().flat_map(|matrix| &matrix.parts).map(|part| part.tensor.clone());
    let form =
        FactorForm { rank: RANK, scale: SCALE, targets: tensors.filter(|name| targets(name)).collect() };
    let (mut merged, mut beside) = (Scene::new(config, 2), Scene::new(config, 2));
    beside.network = beside.network.with_factors(&form, &plan).unwrap();
    let factors = beside.network.layout().group(Group::Factors);
    let mut state = 5_u32;
    beside.values.extend(factors.map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        0.4 * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    }));
    for (matrix, part) in parts(&plan, &form) {
        let values = |half: char| -> Vec<f32> { factor(&plan, &part.tensor, half, &beside).to_vec() };
        let product = LowRank {
            a: values('A').into(),
            b: values('B').into(),
            rank: RANK,
            inputs: matrix.inputs,
            orientation: part.orientation,
            scale: SCALE,
        };
        let rows = match part.orientation {
            Orientation::OutputsByInputs => part.outputs,
            Orientation::InputsByOutputs => matrix.inputs,
        };
        let range = merged.network.layout().range(&part.tensor).unwrap();
        product.add_to_rows(0..rows, &mut merged.values[range]);
    }
    (plan, form, merged, beside)
}

fn parts<'a>(
    plan: &'a WeightPlan,
    form: &'a FactorForm,
) -> impl Iterator<Item = (&'a MatrixPlan, &'a dropcap_model::MatrixPart)> {
    let parts = plan.products().flat_map(|matrix| matrix.parts.iter().map(move |part| (matrix, part)));
    parts.filter(|(_, part)| form.targets.contains(&part.tensor))
}

fn factor<'a>(plan: &WeightPlan, tensor: &str, half: char, scene: &'a Scene) -> &'a [f32] {
    &scene.values[scene.network.layout().range(&peft_factor(plan, tensor, half)).unwrap()]
}

/// The loss and the gradients of what is trained.
fn run(scene: &mut Scene, pruning: &Pruning<'_>) -> (f64, Vec<f32>) {
    let (values, mut gradients) = (scene.values.clone(), vec![0.0; scene.network.layout().trained().len()]);
    (scene.loss(&values, pruning, Some(&mut gradients)), gradients)
}

#[test]
fn factors_compute_as_the_merged_weight_and_learn_its_gradient_projected_in_every_family() {
    let pruning = Pruning::Hard { floors: Floors { sinks: 1, recent: 2 }, shifts: &[0.1, -0.2], noise: None };
    let all = |_: &str| true;
    let some = |name: &str| name.contains("q_proj") || name.contains("v_proj") || name.contains("c_fc");
    let choices: [&dyn Fn(&str) -> bool; 2] = [&all, &some];
    for (name, config) in families() {
        for targets in choices {
            let (plan, form, mut merged, mut beside) = scenes(&config, targets);
            let (loss, full) = run(&mut merged, &pruning);
            let (found, gradients) = run(&mut beside, &pruning);
            assert_eq!(loss, found, "{name}: the forward pass is that of the merged weight");
            let layout = beside.network.layout();
            let held = layout.trained().start;
            let of = |range: std::ops::Range<usize>| &gradients[range.start - held..range.end - held];
            let gates = layout.group(Group::Gates);
            assert_eq!(of(gates.clone()), &full[gates], "{name}");
            for (matrix, part) in parts(&plan, &form) {
                let whole = &full[merged.network.layout().range(&part.tensor).unwrap()];
                let (outputs, inputs) = (part.outputs, matrix.inputs);
                let whole = |output: usize, input: usize| {
                    f64::from(match part.orientation {
                        Orientation::OutputsByInputs => whole[output * inputs + input],
                        Orientation::InputsByOutputs => whole[input * outputs + output],
                    })
                };
                let (a, b) =
                    (factor(&plan, &part.tensor, 'A', &beside), factor(&plan, &part.tensor, 'B', &beside));
                let da = of(layout.range(&peft_factor(&plan, &part.tensor, 'A')).unwrap());
                let db = of(layout.range(&peft_factor(&plan, &part.tensor, 'B')).unwrap());
                let scale = f64::from(SCALE);
                for k in 0..RANK {
                    for input in 0..inputs {
                        let sum: f64 =
                            (0..outputs).map(|o| whole(o, input) * f64::from(b[o * RANK + k])).sum();
                        let off = f64::from(da[k * inputs + input]) - scale * sum;
                        assert!(off.abs() < TOLERANCE, "{name} {} A: {off}", part.tensor);
                    }
                    for output in 0..outputs {
                        let sum: f64 =
                            (0..inputs).map(|i| whole(output, i) * f64::from(a[k * inputs + i])).sum();
                        let off = f64::from(db[output * RANK + k]) - scale * sum;
                        assert!(off.abs() < TOLERANCE, "{name} {} B: {off}", part.tensor);
                    }
                }
                assert!(da.iter().chain(db).any(|&gradient| gradient.abs() > 1e-4), "{name} {}", part.tensor);
            }
        }
    }
}
