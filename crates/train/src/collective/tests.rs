//! Threads stand in for processes: a connection does not know the difference.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const SOON: Duration = Duration::from_secs(20);
const RUN: [u8; 32] = [7; 32];

/// Runs `each` as every process of a world, and returns what they came to, by rank.
fn world<R: Send + 'static>(size: usize, each: impl Fn(Star) -> R + Clone + Send + 'static) -> Vec<R> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let others: Vec<_> = (1..size)
        .map(|rank| {
            let meeting = Meeting { world: World { rank, size }, local_rank: rank, address: address.clone() };
            let each = each.clone();
            thread::spawn(move || each(Star::meet(&meeting, RUN, SOON).unwrap()))
        })
        .collect();
    let first = each(Star::receive(&listener, size, RUN, SOON).unwrap());
    std::iter::once(first).chain(others.into_iter().map(|other| other.join().unwrap())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn every_process_ends_with_the_bits_of_a_sum_in_the_order_of_ranks(
        size in 1_usize..5, length in 0_usize..3000, seed in 1_u32..1000,
    ) {
        let value = move |rank: usize, at: usize| {
            ((rank as u32 * 7919 + at as u32 * 31 + seed) % 1009) as f32 / 37.0 - 11.0
        };
        let sums = world(size, move |mut star| {
            let rank = star.world().rank;
            let mut values: Vec<f32> = (0..length).map(|at| value(rank, at)).collect();
            let mut exact: Vec<f64> = values.iter().map(|&value| f64::from(value) / 3.0).collect();
            star.sum(&mut values).unwrap();
            star.sum_exact(&mut exact).unwrap();
            (values, exact)
        });
        let expected: Vec<f32> =
            (0..length).map(|at| (1..size).fold(value(0, at), |sum, rank| sum + value(rank, at))).collect();
        for (values, exact) in &sums {
            prop_assert_eq!(values, &expected);
            prop_assert_eq!(exact, &sums[0].1);
        }
    }
}

#[test]
fn an_array_of_several_chunks_is_summed_whole() {
    let length = 3 * (4 << 20) / 4 + 5;
    let sums = world(3, move |mut star| {
        let mut values = vec![(star.world().rank + 1) as f32; length];
        star.sum(&mut values).unwrap();
        values.iter().all(|&value| value == 6.0)
    });
    assert_eq!(sums, [true; 3]);
}

#[test]
fn what_the_first_holds_everybody_has() {
    let held = world(3, |mut star| {
        let mut bytes =
            if star.world().is_first() { b"a state".to_vec() } else { vec![1; star.world().rank] };
        star.share(&mut bytes).unwrap();
        bytes
    });
    assert_eq!(held, vec![b"a state".to_vec(); 3]);
}

#[test]
fn a_lost_process_is_named_by_all_and_ends_the_job() {
    let said = world(3, |mut star| {
        star.sum(&mut [1.0]).unwrap();
        if star.world().rank == 2 {
            return String::new();
        }
        let first = star.sum(&mut [1.0]).unwrap_err().to_string();
        assert!(star.sum_exact(&mut [1.0]).unwrap_err().to_string().contains("is lost"), "and stays so");
        first
    });
    assert!(said[0].contains("process 2 of 3 is lost"), "{}", said[0]);
    assert!(said[1].contains("ended by process 0") && said[1].contains("process 2 of 3"), "{}", said[1]);
}

#[test]
fn when_the_first_is_lost_the_others_end_too() {
    let said = world(3, |mut star| {
        if star.world().is_first() { String::new() } else { star.sum(&mut [1.0]).unwrap_err().to_string() }
    });
    assert!(said[1..].iter().all(|said| said.contains("process 0 of 3 is lost")), "{said:?}");
}

/// Looks at the others until one is gone.
fn gone(star: &mut Star) -> String {
    let begun = Instant::now();
    while begun.elapsed() < SOON {
        if let Err(error) = star.check() {
            return error.to_string();
        }
        thread::sleep(Duration::from_millis(1));
    }
    "nobody is gone".to_owned()
}

#[test]
fn who_waits_for_something_else_hears_of_a_lost_process_and_takes_nothing_from_a_sum() {
    let said = world(3, |mut star| {
        star.check().unwrap();
        let mut values = [star.world().rank as f32];
        // The first looks while the sums of the others lie there unread.
        thread::sleep(Duration::from_millis(if star.world().is_first() { 30 } else { 0 }));
        star.check().unwrap();
        star.sum(&mut values).unwrap();
        assert_eq!(values, [3.0]);
        if star.world().rank == 2 { String::new() } else { gone(&mut star) }
    });
    assert!(said[0].contains("process 2 of 3 is lost"), "{}", said[0]);
    assert!(said[1].contains("ended by process 0") && said[1].contains("process 2 of 3"), "{}", said[1]);
}

#[test]
fn processes_that_ask_for_different_things_are_told_apart() {
    let said = world(2, |mut star| {
        let mut values = vec![0.0; 3 + star.world().rank];
        star.sum(&mut values).unwrap_err().to_string()
    });
    assert!(said[0].contains("a sum of 16 bytes") && said[0].contains("a sum of 12 bytes"), "{said:?}");
    assert!(said[1].contains("process 1"), "{said:?}");
}

#[test]
fn a_process_of_another_run_is_refused_and_a_stranger_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // A port scanner, which goes as it came.
    drop(std::net::TcpStream::connect(&address).unwrap());
    let meeting = Meeting { world: World { rank: 1, size: 2 }, local_rank: 1, address };
    let other = thread::spawn(move || Star::meet(&meeting, [8; 32], SOON).map(|_| ()));
    let error = Star::receive(&listener, 2, RUN, SOON).unwrap_err();
    assert!(matches!(error, CollectiveError::Stranger { .. }), "{error}");
    other.join().unwrap().unwrap();
}

#[test]
fn who_does_not_come_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = Star::receive(&listener, 3, RUN, Duration::from_millis(150)).unwrap_err().to_string();
    assert!(error.contains("only 1 of 3") && error.contains("[1, 2]"), "{error}");
    let nowhere = Meeting {
        world: World { rank: 1, size: 2 },
        local_rank: 1,
        // A port that nobody listens at: the listener that had it is gone.
        address: {
            let gone = TcpListener::bind("127.0.0.1:0").unwrap();
            gone.local_addr().unwrap().to_string()
        },
    };
    let error = Star::meet(&nowhere, RUN, Duration::from_millis(150)).unwrap_err();
    assert!(matches!(error, CollectiveError::NoFirst { .. }), "{error}");
}
