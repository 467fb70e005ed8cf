//! The flags of whatever asks a model about texts that are generated.

use std::path::PathBuf;

use clap::Args;

use super::task::share;

/// How generated prompts look.
#[derive(Args)]
pub struct Generated {
    /// Where in a generated context that stands which is asked about, from 0 to 1; the prompts take one after the other.
    #[arg(
        long,
        value_name = "X,..",
        value_delimiter = ',',
        default_value = "0.1,0.3,0.5,0.7,0.9",
        value_parser = share,
        help_heading = "Generated prompts"
    )]
    pub depth: Vec<f64>,
    /// Text to hide needles in [default: a few sentences that repeat]; real text is harder.
    #[arg(long, value_name = "FILE", help_heading = "Generated prompts")]
    pub haystack: Option<PathBuf>,
    /// Ask as a text that the model goes on with, and not in the form of the model's chat template, where it has one.
    #[arg(long, help_heading = "Generated prompts")]
    pub no_chat_template: bool,
    /// Equal seeds give equal prompts and equal draws.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Generated prompts")]
    pub seed: u64,
}
