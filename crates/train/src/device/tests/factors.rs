//! Factors beside held weights, on the device and on the processor.

use dropcap_kernels::cuda::Device;
use dropcap_kernels::{DType, Team};
use dropcap_model::{DecoderConfig, WeightPlan};
use dropcap_policy::Floors;

use super::{PARTS, SEQUENCES, TOKENS, Twins, VOCABULARY, agree, device, families};
use crate::backend::{Backend, DenseTeacher, Processor, Room};
use crate::device::{Cuda, Plan, Teacher};
use crate::network::{FactorForm, GateForm, Layout, Network, Pruning, initialize};

impl Twins {
    /// A model whose weights are held, with factors beside those that `form` names.
    fn beside(device: &Device, config: &DecoderConfig, form: &FactorForm) -> Self {
        let plan = WeightPlan::of(config, &|_| false);
        let gates = Some(GateForm::votes(config.kv_heads, 5));
        let room = Room { sequences: SEQUENCES / PARTS, tokens: TOKENS, recompute: false };
        let layout = Layout::new(config, &plan, gates).with_factors(form, &plan);
        let mut held = initialize(config, &plan, &layout, 3).unwrap();
        let mut state = 1_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        held.iter_mut().for_each(|value| *value += 0.1 * uniform());
        let mut trained = held.split_off(layout.trained().start);
        trained.iter_mut().for_each(|value| *value = 0.3 * uniform());
        let team = Team::new(2).unwrap();
        let network = Network::new(config, &plan, gates, &[]).unwrap().with_factors(form, &plan).unwrap();
        let dense = Network::new(config, &plan, None, &[]).unwrap();
        let taught = DenseTeacher::beneath(&team, dense, &held, room).unwrap();
        let device_plan = Plan {
            config,
            plan: &plan,
            gates,
            factors: Some(form),
            scales: &[],
            dtype: DType::F32,
            cache: DType::F32,
            room,
            layout: layout.clone(),
            held: &held,
            still: Vec::new(),
            teacher: Teacher::Student,
        };
        let mut on_device = Cuda::new(device, &device_plan).unwrap();
        let mut processor = Processor::new(team, network, Some(taught), room, Vec::new(), held);
        processor.load(&trained, None).unwrap();
        on_device.load(&trained, None).unwrap();
        let count = SEQUENCES * TOKENS;
        let ids = (0..count).map(|_| ((uniform() + 1.0) * 41.0) as u32).collect();
        let targets = (0..count).map(|i| (i * 5 % VOCABULARY) as u32).collect();
        Self { device: on_device, processor, ids, targets }
    }
}

#[test]
fn factors_learn_and_are_taught_as_on_the_processor_in_every_family() {
    let Some(device) = device("factors beside held weights") else { return };
    let floors = Floors { sinks: 2, recent: 5 };
    let some = |name: &str| name.contains("q_proj") || name.contains("v_proj") || name.contains("c_fc");
    for (name, config) in families() {
        let plan = WeightPlan::of(&config, &|_| false);
        let parts = || plan.products().flat_map(|matrix| &matrix.parts).map(|part| part.tensor.clone());
        for targets in [parts().collect::<Vec<_>>(), parts().filter(|name| some(name)).collect()] {
            let form = FactorForm { rank: 4, scale: 0.7, targets };
            let mut twins = Twins::beside(&device, &config, &form);
            for distill in [0.0, 0.5] {
                let pruning = Pruning::Hard { floors, shifts: &[0.1, -0.2], noise: None };
                agree(&format!("{name}, {} factors", form.targets.len()), &mut twins, &pruning, distill);
            }
        }
    }
}
