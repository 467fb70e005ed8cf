//! Which process this is: the environment of torchrun, of Kubernetes' training jobs, and of srun.

use super::CollectiveError;

/// A process among those of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// This process, counted from 0.
    pub rank: usize,
    /// Processes of the job.
    pub size: usize,
}

impl World {
    /// A job of one process.
    pub const ALONE: Self = Self { rank: 0, size: 1 };

    /// Whether this process is the one that writes.
    #[must_use]
    pub fn is_first(self) -> bool {
        self.rank == 0
    }

    /// The parts of `count` that fall to this process: a stretch, so that sums in the order of ranks are sums in the order
    /// of parts.
    #[must_use]
    pub fn share_of(self, count: usize) -> std::ops::Range<usize> {
        count * self.rank / self.size..count * (self.rank + 1) / self.size
    }
}

/// A job of several processes, as its launcher describes it to each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// Which process this is.
    pub world: World,
    /// Which of its host's processes it is: the CUDA device that `device: auto` takes.
    pub local_rank: usize,
    /// Where the first process waits for the others: `host:port`.
    pub address: String,
}

/// The port where nothing else is said; torchrun's.
const DEFAULT_PORT: u16 = 29_500;

/// Names that one kind of launcher gives to the same three numbers.
struct Names {
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
}

const LAUNCHERS: [Names; 2] = [
    Names { rank: "RANK", size: "WORLD_SIZE", local_rank: "LOCAL_RANK" },
    Names { rank: "SLURM_PROCID", size: "SLURM_NTASKS", local_rank: "SLURM_LOCALID" },
];

impl Meeting {
    /// The job that the environment describes, or `None` for a process that nobody launched as one of several.
    ///
    /// `RANK`, `WORLD_SIZE` and `LOCAL_RANK` (torchrun, Kubernetes' PyTorchJob) come before `SLURM_PROCID`, `SLURM_NTASKS`
    /// and `SLURM_LOCALID` (srun). `MASTER_ADDR` and `MASTER_PORT` name the place to meet; under srun on several hosts
    /// `SLURM_LAUNCH_NODE_IPADDR` stands in for the first. A job of one needs no place.
    ///
    /// # Errors
    /// Numbers that are none or do not fit each other; a variable that is missing beside others, both by name.
    pub fn of_environment(
        variable: &dyn Fn(&'static str) -> Option<String>,
    ) -> Result<Option<Self>, CollectiveError> {
        for names in LAUNCHERS {
            let Some(rank) = number(variable, names.rank)? else { continue };
            let Some(size) = number(variable, names.size)? else {
                return Err(CollectiveError::Incomplete { present: names.rank, missing: names.size });
            };
            if rank >= size {
                return Err(CollectiveError::Variable {
                    name: names.rank,
                    given: rank.to_string(),
                    reason: format!("ranks count from 0 to {} - 1 ({} is {size})", names.size, names.size),
                });
            }
            if size == 1 {
                return Ok(None);
            }
            let host = variable("MASTER_ADDR").or_else(|| variable("SLURM_LAUNCH_NODE_IPADDR"));
            let Some(host) = host else {
                return Err(CollectiveError::Incomplete { present: names.size, missing: "MASTER_ADDR" });
            };
            let port = match number(variable, "MASTER_PORT")? {
                None => DEFAULT_PORT,
                Some(port) => u16::try_from(port).map_err(|_| CollectiveError::Variable {
                    name: "MASTER_PORT",
                    given: port.to_string(),
                    reason: "ports end at 65535".to_owned(),
                })?,
            };
            return Ok(Some(Self {
                world: World { rank, size },
                local_rank: number(variable, names.local_rank)?.unwrap_or(rank),
                address: address(&host, port),
            }));
        }
        Ok(None)
    }
}

/// `host:port`, with the brackets that an IPv6 address needs.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn number(
    variable: &dyn Fn(&'static str) -> Option<String>,
    name: &'static str,
) -> Result<Option<usize>, CollectiveError> {
    let Some(given) = variable(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    match given.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => {
            Err(CollectiveError::Variable { name, given, reason: "a whole number is needed".to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meeting(given: &[(&'static str, &str)]) -> Result<Option<Meeting>, CollectiveError> {
        Meeting::of_environment(&|name| {
            given.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn torchruns_and_sruns_words_mean_the_same() {
        let expected =
            Meeting { world: World { rank: 3, size: 4 }, local_rank: 1, address: "head:1234".to_owned() };
        let place = [("MASTER_ADDR", "head"), ("MASTER_PORT", "1234")];
        let torchrun = [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")];
        let srun = [("SLURM_PROCID", "3"), ("SLURM_NTASKS", "4"), ("SLURM_LOCALID", "1")];
        for launcher in [torchrun, srun] {
            let given = [&launcher[..], &place[..]].concat();
            assert_eq!(meeting(&given).unwrap().as_ref(), Some(&expected));
        }
    }

    #[test]
    fn a_process_that_nobody_launched_trains_alone() {
        assert_eq!(meeting(&[]).unwrap(), None);
        assert_eq!(meeting(&[("MASTER_ADDR", "head")]).unwrap(), None);
        assert_eq!(meeting(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
    }

    #[test]
    fn what_is_missing_or_no_number_is_named() {
        let said = |given: &[(&'static str, &str)]| meeting(given).unwrap_err().to_string();
        assert!(said(&[("RANK", "0")]).contains("WORLD_SIZE"));
        assert!(said(&[("RANK", "0"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR"));
        assert!(said(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("`x`"));
        assert!(said(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("RANK is `2`"));
        let far = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "65536")];
        assert!(said(&far).contains("65535"));
    }

    #[test]
    fn an_address_of_the_newer_kind_gets_its_brackets() {
        let given = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "fd00::1")];
        assert_eq!(meeting(&given).unwrap().unwrap().address, "[fd00::1]:29500");
    }

    proptest! {
        #[test]
        fn shares_cover_every_part_once(count in 0_usize..100, size in 1_usize..9) {
            let shares: Vec<usize> = (0..size).flat_map(|rank| World { rank, size }.share_of(count)).collect();
            prop_assert_eq!(shares, (0..count).collect::<Vec<_>>());
        }
    }
}
