//! The directory as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lock::RunLock;
use super::saved::SavedState;
use super::writer::{StateFacts, StateWriter};
use crate::TrainError;
use crate::disk::{Disk, LocalDisk, PARTIAL, publish};

/// The resolved configuration of a run.
pub const CONFIG_FILE: &str = "run.yaml";
const LATEST: &str = "latest";
const STEP: &str = "step-";
/// What a checkpoint must leave free, for logs and names.
const MARGIN_BYTES: u64 = 16 << 20;

/// A run's directory, locked for this process as long as the value lives.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    _lock: RunLock,
}

impl RunDirectory {
    /// Makes the directory if it is not there, locks it, and removes what a killed process left unfinished.
    ///
    /// # Errors
    /// [`TrainError::Locked`] with the number of the process that works there; a refusal of the disk.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        Self::on(Arc::new(LocalDisk), path)
    }

    /// [`RunDirectory::open`] on a disk of one's own.
    ///
    /// # Errors
    /// As [`RunDirectory::open`].
    pub fn on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, TrainError> {
        std::fs::create_dir_all(path).map_err(|e| TrainError::write(path, e))?;
        let lock = RunLock::take(path)?;
        let run = Self { path: path.to_path_buf(), disk, _lock: lock };
        run.clean()?;
        Ok(run)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Saves the resolved configuration.
    ///
    /// # Errors
    /// A refusal of the disk; the old configuration is intact then.
    pub fn save_config(&self, yaml: &str) -> Result<(), TrainError> {
        publish(self.disk(), &self.path.join(CONFIG_FILE), |file| file.write_all(yaml.as_bytes()))
    }

    /// Begins a state of about `bytes` bytes.
    ///
    /// # Errors
    /// [`TrainError::NoRoom`] where the disk has less free than that; [`TrainError::AlreadySaved`]; a refusal of the
    /// disk.
    pub fn begin(&self, facts: StateFacts, bytes: u64) -> Result<StateWriter<'_>, TrainError> {
        self.check_room(bytes)?;
        StateWriter::new(self, facts)
    }

    /// Refuses if the disk has less free than a state of `bytes` bytes needs.
    ///
    /// # Errors
    /// [`TrainError::NoRoom`] with both numbers.
    pub fn check_room(&self, bytes: u64) -> Result<(), TrainError> {
        room(self.disk(), &self.path, bytes)
    }

    /// Whether the state of a step has been saved.
    pub fn has(&self, step: u64) -> bool {
        self.folder_of_step(step).exists()
    }

    /// Steps that have a state, the newest first.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>, TrainError> {
        let mut steps: Vec<u64> = self.names()?.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    /// The newest published state that is whole, or `None` where no state was ever published.
    ///
    /// A damaged state is passed over with a warning, for the one before it. States newer than the one returned are set
    /// aside (renamed to `damaged-*`, or removed if they were never published), so that their steps can be saved anew.
    ///
    /// # Errors
    /// [`TrainError::NoState`] where all are damaged; [`TrainError::NewerFormat`]; a refusal of the disk.
    pub fn resume(&self, warn: &mut dyn FnMut(String)) -> Result<Option<SavedState>, TrainError> {
        let steps = self.steps()?;
        let pointed = std::fs::read_to_string(self.path.join(LATEST)).ok();
        let pointed =
            pointed.as_deref().and_then(|name| step_of(name.trim())).filter(|step| steps.contains(step));
        if pointed.is_none() && !steps.is_empty() {
            warn(format!(
                "{} names no state; taking the newest that is whole",
                self.path.join(LATEST).display()
            ));
        }
        let newest = pointed.or(steps.first().copied());
        let (mut damaged, mut reasons) = (Vec::new(), Vec::new());
        for &step in steps.iter().filter(|&&step| newest.is_some_and(|newest| step <= newest)) {
            match SavedState::open(&self.folder_of_step(step)) {
                Ok(state) => {
                    self.set_aside(&damaged, steps.iter().filter(|&&other| Some(other) > newest))?;
                    return Ok(Some(state));
                }
                Err(error @ TrainError::DamagedState { .. }) => {
                    warn(format!("{error}; going back to the state before it"));
                    reasons.push(error.to_string());
                    damaged.push(step);
                }
                Err(error) => return Err(error),
            }
        }
        if reasons.is_empty() {
            return Ok(None);
        }
        Err(TrainError::NoState { path: self.path.clone(), reasons })
    }

    pub(super) fn folder_of_step(&self, step: u64) -> PathBuf {
        self.path.join(folder_name(step))
    }

    /// Names a folder as the newest state.
    pub(super) fn point_to(&self, folder: &Path) -> Result<(), TrainError> {
        self.disk.settle(&self.path).map_err(|e| TrainError::write(&self.path, e))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        publish(self.disk(), &self.path.join(LATEST), |file| writeln!(file, "{name}"))
    }

    /// Removes all but the newest `keep` states.
    pub(super) fn keep_newest(&self, keep: usize) -> Result<(), TrainError> {
        self.steps()?.into_iter().skip(keep.max(1)).try_for_each(|step| self.remove(step))
    }

    /// Takes a state out of sight first, so that one removed by half is never taken for a state.
    fn remove(&self, step: u64) -> Result<(), TrainError> {
        let folder = self.folder_of_step(step);
        let gone = crate::disk::partial_path(&folder);
        let removed = self.disk.rename(&folder, &gone).and_then(|()| self.disk.remove_folder(&gone));
        removed.map_err(|e| TrainError::io("remove", &folder, e))
    }

    fn set_aside<'a>(
        &self,
        damaged: &[u64],
        mut unpublished: impl Iterator<Item = &'a u64>,
    ) -> Result<(), TrainError> {
        unpublished.try_for_each(|&step| self.remove(step))?;
        for &step in damaged {
            let folder = self.folder_of_step(step);
            let aside = |number: u32| self.path.join(format!("damaged-{step:06}-{number}"));
            let free = (1..).map(aside).find(|path| !path.exists()).unwrap_or_else(|| aside(0));
            self.disk.rename(&folder, &free).map_err(|e| TrainError::io("rename", &folder, e))?;
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, TrainError> {
        names(&self.path)
    }

    fn clean(&self) -> Result<(), TrainError> {
        for name in self.names()?.into_iter().filter(|name| name.starts_with(PARTIAL)) {
            let path = self.path.join(name);
            let removed =
                if path.is_dir() { self.disk.remove_folder(&path) } else { self.disk.remove_file(&path) };
            removed.map_err(|e| TrainError::io("remove", &path, e))?;
        }
        Ok(())
    }
}

/// The configuration of the run that was begun in a directory, if one was.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn begun_with(directory: &Path) -> Result<Option<String>, TrainError> {
    let path = directory.join(CONFIG_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(TrainError::io("read", &path, e)),
    }
}

/// Refuses a directory in which a run of so many bytes a state could not begin or go on, and gives the state that it
/// would go on from; changes nothing.
///
/// # Errors
/// [`TrainError::Locked`], [`TrainError::NoRoom`], a state of a later version, a place that cannot be written to.
pub(crate) fn examine(directory: &Path, bytes: u64) -> Result<Option<SavedState>, TrainError> {
    let place = std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf());
    let found = place.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if !found.is_dir() {
        let reason = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(TrainError::io("make a folder in", found, reason));
    }
    rustix::fs::access(found, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|e| TrainError::io("write to", found, e.into()))?;
    room(&LocalDisk, found, bytes)?;
    if found != place {
        return Ok(None);
    }
    RunLock::check(directory)?;
    let names = names(directory)?;
    let newest = names.iter().filter_map(|name| step_of(name)).max();
    let state = newest.map(|step| SavedState::open(&directory.join(folder_name(step))));
    match state.transpose() {
        // The run passes it over, with a warning.
        Err(TrainError::DamagedState { .. }) => Ok(None),
        state => state,
    }
}

/// Refuses if the disk has less free than a state of `bytes` bytes needs.
fn room(disk: &dyn Disk, folder: &Path, bytes: u64) -> Result<(), TrainError> {
    let needed = bytes.saturating_add(MARGIN_BYTES);
    match disk.free_bytes(folder) {
        Ok(free) if free < needed => Err(TrainError::NoRoom { path: folder.to_path_buf(), needed, free }),
        // A file system that does not say is tried.
        _ => Ok(()),
    }
}

fn names(folder: &Path) -> Result<Vec<String>, TrainError> {
    let failed = |e| TrainError::io("read", folder, e);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
}

fn folder_name(step: u64) -> String {
    format!("{STEP}{step:06}")
}

/// The step that a folder's name says.
fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(STEP)?;
    (digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}
