//! The loss on the device against the processor's.

use super::{IGNORE, RowLoss, Shares, TrainCrossEntropy, cross_entropy};
use crate::cuda::DeviceBuffer;
use crate::cuda::rounding::{assert_close, last_bits, numbers_of, plain, poisoned_f32};
use crate::cuda::testing::device;
use crate::testing::Random;
use crate::{DType, Team};

/// f32 sums of exponentials in another order.
const TOLERANCE: f64 = 2e-6;

#[test]
fn cuda_losses_and_their_gradients_agree_with_the_processor() {
    let Some(device) = device("cuda_losses_and_their_gradients_agree_with_the_processor") else { return };
    let team = Team::new(1).unwrap();
    let mut random = Random(81);
    for dtype in [DType::F32, DType::Bf16] {
        let loss = TrainCrossEntropy::new(&device, &plain(dtype, 8)).unwrap();
        for (rows, vocabulary, stride) in
            [(1, 1, 8), (5, 37, 64), (7, 2048, 2048), (9, 5001, 5056), (3, 4099, 4101)]
        {
            let spread = |random: &mut Random| -> Vec<f32> {
                random.row(rows * stride).iter().map(|x| x * 8.0).collect()
            };
            let (logits, teacher) = (spread(&mut random), spread(&mut random));
            let mut targets: Vec<u32> = (0..rows).map(|_| random.below(vocabulary) as u32).collect();
            if rows > 2 {
                targets[1] = IGNORE;
            }
            let dense = |all: &[f32]| -> Vec<f32> {
                all.chunks(stride).flat_map(|row| row[..vocabulary].to_vec()).collect()
            };
            for distill in [None, Some(0.0), Some(0.7), Some(1.0)] {
                let (mut want, taught) = (dense(&logits), dense(&teacher));
                let mut losses = vec![RowLoss::default(); rows];
                let share = distill.unwrap_or(0.0);
                let given = distill.map(|_| &taught[..]);
                cross_entropy(&team, &mut want, vocabulary, &targets, given, share, 0.3, &mut losses)
                    .unwrap();
                let device_logits = DeviceBuffer::copy_of(&device, "a test", &logits).unwrap();
                let device_teacher = DeviceBuffer::copy_of(&device, "a test", &teacher).unwrap();
                let device_targets = DeviceBuffer::copy_of(&device, "a test", &targets).unwrap();
                let device_losses = poisoned_f32(&device, RowLoss::NUMBERS * rows);
                let shares = Shares { distill: share, scale: 0.3 };
                let given = distill.map(|_| &device_teacher);
                let targets = (&device_targets).into();
                loss.slice(
                    vocabulary,
                    stride,
                    &device_logits,
                    given,
                    targets,
                    shares,
                    (&device_losses).into(),
                )
                .unwrap();
                let what = format!("{dtype} {rows} x {vocabulary}, {distill:?}");
                let bytes: &[u8] =
                    &device_logits.read().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
                let rows: Vec<Vec<f32>> = bytes
                    .chunks(4 * stride)
                    .map(|row| numbers_of(&row[..stride * dtype.bytes()], dtype))
                    .collect();
                assert!(rows.iter().flat_map(|row| &row[vocabulary..]).all(|&zero| zero == 0.0), "{what}");
                let got: Vec<f32> = rows.iter().flat_map(|row| &row[..vocabulary]).copied().collect();
                let want: Vec<f64> = want.iter().map(|&x| f64::from(x)).collect();
                // Gradients are at most 0.3: relative to 1.
                assert_close(&what, &got, &want, TOLERANCE.max(0.1 * last_bits(dtype)));
                let want: Vec<f64> = losses
                    .iter()
                    .flat_map(|loss| [loss.cross_entropy, loss.divergence, loss.entropy].map(f64::from))
                    .collect();
                assert_close(&what, &device_losses.read().unwrap(), &want, 1e-5);
            }
        }
    }
}
