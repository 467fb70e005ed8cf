//! Training with several processes: the ones that a launcher started, and a launcher for one host.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dropcap_train::Digest;
use dropcap_train::collective::{Alone, Collective, Meeting, PATIENCE, Star};
use dropcap_train::config::Config;
use dropcap_train::signals::{STOPPED, Stop};
use dropcap_train::trainer::Source;

use crate::progress;

/// Between two looks at the processes that were started.
const LOOK: Duration = Duration::from_millis(100);
/// How long the others may take to notice that one is lost.
const GRACE: Duration = Duration::from_secs(60);

/// The processes that train together with this one, as the environment describes them.
pub(super) fn company(config: &Config, source: &Source) -> Result<Box<dyn Collective>> {
    let Some(meeting) = Meeting::of_environment(&|name| std::env::var(name).ok())? else {
        return Ok(Box::new(Alone));
    };
    let Meeting { world, address, .. } = &meeting;
    if world.is_first() {
        progress::note(&format!("waiting for {} more processes at {address}", world.size - 1));
    }
    let run = Digest::of_parts([&config.digest().0[..], source.identity()?.as_bytes()]);
    Ok(Box::new(Star::meet(&meeting, run.0, PATIENCE)?))
}

/// Starts `count` processes of this very command on this host, and ends when they have ended.
pub(super) fn launch(count: usize, config: &Config, stop: &Stop) -> Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = port.context("no free port on this host")?.port().to_string();
    let mut children = Vec::new();
    for rank in 0..count {
        let mut command = Command::new(&program);
        command.args(without_gpus(std::env::args_os().skip(1)));
        if config.threads.is_none() {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            command.arg(format!("threads={}", (processors / count).max(1)));
        }
        let rank = rank.to_string();
        command.envs([("RANK", &rank), ("LOCAL_RANK", &rank), ("WORLD_SIZE", &count.to_string())]);
        command.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)]);
        // A group of its own: Ctrl-C reaches this process alone, which asks each child once.
        command.process_group(0);
        children.push(command.spawn().context("cannot start a process")?);
    }
    wait(children, stop)
}

/// Waits for all; asks them to stop when this process is, and does not wait long once one of them has failed.
fn wait(mut children: Vec<Child>, stop: &Stop) -> Result<ExitCode> {
    let (mut asked, mut failed): (bool, Option<(usize, Instant)>) = (false, None);
    let mut codes = vec![None; children.len()];
    while codes.iter().any(Option::is_none) {
        sleep(LOOK);
        for (rank, (child, code)) in children.iter_mut().zip(&mut codes).enumerate() {
            if code.is_none()
                && let Some(status) = child.try_wait().context("cannot wait for a process")?
            {
                *code = Some(status.code());
                if !matches!(status.code(), Some(0)) && status.code() != Some(i32::from(STOPPED)) {
                    failed.get_or_insert((rank, Instant::now()));
                }
            }
        }
        if stop.is_asked() && !asked {
            asked = true;
            for child in &children {
                // One that has ended already cannot be asked, and need not be.
                let process = rustix::process::Pid::from_child(child);
                let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
            }
        }
        if failed.is_some_and(|(_, since)| since.elapsed() > GRACE) {
            for (child, _) in children.iter_mut().zip(&codes).filter(|(_, code)| code.is_none()) {
                child.kill().context("cannot end a process")?;
            }
        }
    }
    if let Some((rank, _)) = failed {
        let how = match codes.get(rank).copied().flatten().flatten() {
            Some(code) => format!("ended with the code {code}"),
            None => "was killed".to_owned(),
        };
        bail!(
            "process {rank} of {} {how}; the last saved state is whole, the same command goes on from there",
            codes.len()
        );
    }
    let stopped = codes.iter().any(|code| *code == Some(Some(i32::from(STOPPED))));
    Ok(if stopped { ExitCode::from(STOPPED) } else { ExitCode::SUCCESS })
}

/// The command line without the flag that starts processes.
fn without_gpus(words: impl Iterator<Item = std::ffi::OsString>) -> impl Iterator<Item = std::ffi::OsString> {
    let mut value_follows = false;
    words.filter(move |word| {
        let flag = word == "--gpus" || word == "--processes";
        let kept = !flag
            && !value_follows
            && !word.to_string_lossy().starts_with("--gpus=")
            && !word.to_string_lossy().starts_with("--processes=");
        value_follows = flag;
        kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_started_process_does_not_start_others() {
        for given in [
            "train --gpus 2 -c run.yaml seed=1",
            "train --gpus=2 -c run.yaml seed=1",
            "train -c run.yaml --processes 2 seed=1",
        ] {
            let words = without_gpus(given.split(' ').map(Into::into));
            let left: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
            assert_eq!(left, ["train", "-c", "run.yaml", "seed=1"], "{given}");
        }
    }
}
