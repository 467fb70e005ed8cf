//! Graphs own what they use, and a recording leaves nothing behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::super::testing::device;
use super::super::{CudaError, Device, DeviceBuffer, PinnedBuffer};
use super::Graph;

fn pinned(device: &Device, numbers: &[u32]) -> PinnedBuffer<u32> {
    let mut pinned = PinnedBuffer::zeroed(device, numbers.len()).unwrap();
    numbers.iter().enumerate().for_each(|(i, &number)| pinned.set(i, number));
    pinned
}

#[test]
fn cuda_a_graph_keeps_what_it_uses() {
    let Some(device) = device("cuda_a_graph_keeps_what_it_uses") else { return };
    let numbers: Vec<u32> = (0..50_000).collect();
    let mut graphs = Vec::new();
    let mut targets = Vec::new();
    for _ in 0..4 {
        let source = pinned(&device, &numbers);
        let between = DeviceBuffer::<u32>::zeroed(&device, "a test", numbers.len()).unwrap();
        let mut target = PinnedBuffer::<u32>::zeroed(&device, numbers.len()).unwrap();
        let graph = Graph::record(&device, || {
            between.write_pinned(&source)?;
            between.read_pinned(&mut target)?;
            Ok::<_, CudaError>(())
        });
        graphs.push(graph.unwrap());
        targets.push(target);
        // The source and the buffer between go here; what comes next would get their memory.
    }
    let others: Vec<_> = (0..8).map(|_| pinned(&device, &vec![9; numbers.len()])).collect();
    let buffers: Vec<_> = (0..8)
        .map(|_| DeviceBuffer::copy_of(&device, "a test", &vec![9u32; numbers.len()]).unwrap())
        .collect();
    for graph in &mut graphs {
        graph.launch().unwrap();
    }
    device.synchronize().unwrap();
    for target in &targets {
        assert!((0..numbers.len()).all(|i| target.get(i) == numbers[i]));
    }
    assert!(others.iter().all(|other| (0..numbers.len()).all(|i| other.get(i) == 9)));
    assert!(buffers.iter().all(|buffer| buffer.read().unwrap().iter().all(|&number| number == 9)));
    drop(graphs);
    device.synchronize().unwrap();
}

#[test]
fn cuda_a_recording_that_fails_leaves_the_device_as_it_was() {
    let Some(device) = device("cuda_a_recording_that_fails_leaves_the_device_as_it_was") else { return };
    let buffer = DeviceBuffer::copy_of(&device, "a test", &[1u32; 10]).unwrap();
    for _ in 0..3 {
        let failed = Graph::record(&device, || {
            buffer.fill_bytes(0)?;
            Err::<(), CudaError>(CudaError::Recording)
        });
        assert_eq!(failed.unwrap_err(), CudaError::Recording);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            Graph::record::<CudaError>(&device, || panic!("in a recording")).map(drop)
        }));
        assert!(panicked.is_err());
        // Nothing that was asked for happened, and everything can be asked for.
        assert_eq!(buffer.read().unwrap(), [1; 10]);
    }
    let mut graph = Graph::record(&device, || buffer.fill_bytes(0)).unwrap();
    assert_eq!(buffer.read().unwrap(), [1; 10]);
    graph.launch().unwrap();
    assert_eq!(buffer.read().unwrap(), [0; 10]);
}

#[test]
fn cuda_nobody_else_gets_into_a_recording() {
    let Some(device) = device("cuda_nobody_else_gets_into_a_recording") else { return };
    let (own, other) =
        (DeviceBuffer::<u32>::zeroed(&device, "a test", 4), DeviceBuffer::zeroed(&device, "a test", 4));
    let (own, other): (_, DeviceBuffer<u32>) = (own.unwrap(), other.unwrap());
    let mut graph = Graph::record(&device, || {
        own.fill_bytes(1)?;
        let refused = thread::scope(|scope| scope.spawn(|| other.fill_bytes(1)).join().unwrap());
        assert_eq!(refused, Err(CudaError::Recording));
        let second = Graph::record(&device, || other.fill_bytes(1));
        assert!(matches!(second, Err(CudaError::Recording)));
        Ok::<_, CudaError>(())
    })
    .unwrap();
    graph.launch().unwrap();
    assert_eq!((own.read().unwrap(), other.read().unwrap()), (vec![0x0101_0101; 4], vec![0; 4]));
    other.fill_bytes(2).unwrap();
    assert_eq!(other.read().unwrap(), [0x0202_0202; 4]);
}

#[test]
fn cuda_a_pinned_buffer_may_go_while_it_is_copied() {
    let Some(device) = device("cuda_a_pinned_buffer_may_go_while_it_is_copied") else { return };
    let numbers: Vec<u32> = (0..2_000_000).collect();
    let buffer = DeviceBuffer::<u32>::zeroed(&device, "a test", numbers.len()).unwrap();
    let source = pinned(&device, &numbers);
    buffer.write_pinned(&source).unwrap();
    drop(source);
    let _other = pinned(&device, &vec![9; numbers.len()]);
    assert!(buffer.read().unwrap() == numbers);
}
