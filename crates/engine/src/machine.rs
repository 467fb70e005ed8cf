//! What this machine has.

use sysinfo::{Process, ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};

/// Bytes that this process could still take: what the system calls available (on Linux `MemAvailable`, which counts
/// what it would evict for us), and no more than its control group leaves beside what the group already holds, file
/// caches aside. None where the system does not say.
pub(crate) fn available_memory() -> Option<usize> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let pid = get_current_pid().ok()?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing());
    let own = system.process(pid).and_then(Process::cgroup_limits);
    // In a container the own group is often the only one that can be seen.
    let group = own.or_else(|| system.cgroup_limits());
    let left = group.map_or(u64::MAX, |group| group.total_memory.saturating_sub(group.rss));
    let available = system.available_memory().min(left);
    (available > 0).then(|| usize::try_from(available).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_memory_that_is_left_is_no_more_than_the_machine_says() {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
        let total: usize = total.trim().trim_end_matches(" kB").parse().unwrap();
        let available = available_memory().unwrap();
        assert!(available > 0 && available <= total * 1024, "{available} of {total} KiB");
    }
}
