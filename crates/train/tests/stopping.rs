//! Signals to a real process: the first asks it to stop, the second ends it.
#![cfg(test)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dropcap_train::signals::{STOPPED, Stop};

/// Set in the environment of the process that is stopped.
const CHILD: &str = "DROPCAP_TEST_STOPPING";

/// The body of the process: works until it is asked to stop, and then some more if it is slow to save.
#[test]
fn a_process_that_waits_to_be_stopped() {
    let Ok(mode) = std::env::var(CHILD) else { return };
    let stop = Stop::on_signals().unwrap();
    println!("\nready");
    while !stop.is_asked() {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("\nsaving");
    if mode == "slow" {
        std::thread::sleep(Duration::from_secs(60));
    }
    std::process::exit(i32::from(STOPPED));
}

fn child(mode: &str) -> (Child, impl FnMut(&str)) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_waits_to_be_stopped", "--nocapture"])
        .env(CHILD, mode)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, move |word: &str| assert!(lines.any(|line| line.unwrap() == word)))
}

fn send(child: &Child, signal: &str) {
    let command = format!("kill {signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

#[test]
fn the_first_signal_lets_the_run_save_and_leave_with_its_own_code() {
    for signal in ["-TERM", "-INT"] {
        let (mut child, mut wait_for) = child("quick");
        wait_for("ready");
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(i32::from(STOPPED)));
    }
}

#[test]
fn the_second_signal_ends_the_process_at_once() {
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let (mut child, mut wait_for) = child("slow");
        wait_for("ready");
        send(&child, signal);
        wait_for("saving");
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}
