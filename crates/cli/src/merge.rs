//! `dropcap merge`: a model and its adapter as one checkpoint.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use dropcap_files::{Disk, LocalDisk, folder_of, partial_path};
use dropcap_kernels::{DType, Team};
use dropcap_methods::{GATES_FILE, Gates};
use dropcap_model::Checkpoint;

use crate::arguments::SourceArguments;
use crate::loading::Found;
use crate::progress::{spinner, warn};
use crate::terminal;

/// Flags of `dropcap merge`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
    /// How the weights are stored: f32, bf16 or f16 [default: as the model stores them].
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<DType>,
    /// The directory to write, which must not be there yet.
    #[arg(short, long, visible_alias = "out", value_name = "DIR")]
    output: PathBuf,
}

/// Writes the checkpoint: all of it, or nothing.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Some(adapter) = &arguments.source.adapter else {
        bail!("there is nothing to merge: give an adapter with --adapter DIR");
    };
    let output = &arguments.output;
    if output.exists() {
        bail!("{} exists: give another --output", output.display());
    }
    let found = Found::open(&arguments.source)?;
    let bar = spinner("merging");
    let partial = partial_path(output);
    let written = write(&found, adapter, &partial, arguments.dtype).and_then(|()| {
        LocalDisk.rename(&partial, output)?;
        Ok(LocalDisk.settle(folder_of(output))?)
    });
    bar.finish_and_clear();
    if written.is_err() {
        // The error worth reporting is the first one.
        let _ = LocalDisk.remove_folder(&partial);
    }
    written.with_context(|| format!("cannot write {}", output.display()))?;
    writeln!(terminal::stdout(), "{}", output.display())?;
    Ok(ExitCode::SUCCESS)
}

fn write(found: &Found, adapter: &Path, folder: &Path, dtype: Option<DType>) -> Result<()> {
    LocalDisk.create_folder(folder)?;
    let facts = found.facts();
    let (gates, base) = (adapter.join(GATES_FILE), found.checkpoint.directory().join(GATES_FILE));
    // Gates that do not fit are refused before minutes are spent on the weights.
    let gates = match gates.exists() {
        true => {
            let model = facts.fingerprint.as_ref();
            Some(Gates::load(&gates, facts.layers, facts.kv_heads, facts.hidden, model)?)
        }
        false if base.exists() => {
            warn(&format!(
                "the gates of {} were trained without the adapter and are left out",
                base.display()
            ));
            None
        }
        false => None,
    };
    found.checkpoint.write(&Team::new(1)?, folder, dtype)?;
    if let Some(gates) = gates {
        gates.save(&folder.join(GATES_FILE), &Checkpoint::open(folder)?.fingerprint()?)?;
    }
    Ok(LocalDisk.settle(folder)?)
}
