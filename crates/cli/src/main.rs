//! The `dropcap` command: generate with a model that forgets.

mod arguments;
mod bench;
mod cache_choice;
mod chat;
mod compress;
mod data;
mod default_model;
mod device;
mod doctor;
mod eval;
mod forward;
mod generate;
mod inspect;
mod loading;
mod merge;
mod methods;
mod profile;
mod progress;
mod prompts;
mod serve;
mod size;
mod terminal;
mod tokenizer;
mod train;
mod utf8;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Language models that forget what they no longer need, and free its memory.
#[derive(Parser)]
#[command(
    name = "dropcap",
    version,
    max_term_width = 100,
    propagate_version = true,
    after_help = "Try: dropcap generate \"Once upon a time\"\nwhich needs no model: the command carries a small one."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue prompts with a model while it forgets what it no longer needs.
    Generate(Box<generate::Arguments>),
    /// Talk with a model in the terminal.
    Chat(Box<chat::Arguments>),
    /// Serve a model to clients of the OpenAI routes.
    Serve(Box<serve::Arguments>),
    /// Write the logits of a text, and when each of its tokens was forgotten, to a safetensors file.
    Forward(Box<forward::Arguments>),
    /// Show a trace as a page: what was forgotten, when, and which token killed it.
    Inspect(inspect::Arguments),
    /// Shorten a text before a model reads it: keep what helps with an instruction, within a budget of tokens.
    Compress(Box<compress::Arguments>),
    /// Measure what pruning costs: perplexity, tasks and recall beside the dense run.
    Eval(Box<eval::Arguments>),
    /// Find the heads of a model that look far back, for methods that treat heads by what they do.
    Profile(Box<profile::Arguments>),
    /// Measure prompt and generation speed over lists of lengths, depths, batches and methods.
    Bench(Box<bench::Arguments>),
    /// Write a model with its adapter merged in as a checkpoint of its own.
    Merge(merge::Arguments),
    /// List the pruning methods with their parameters, defaults and sources.
    Methods(methods::Arguments),
    /// Say what of this machine can be used, and why something cannot.
    Doctor(doctor::Arguments),
    /// Teach a model what to forget, or train one from scratch.
    Train(train::Arguments),
    /// Score the examples of a training run, for its ways to choose among them that want scores.
    Data(data::Arguments),
    /// Make a tokenizer for a model that is trained from scratch.
    Tokenizer(tokenizer::Arguments),
}

fn main() -> ExitCode {
    let result = match command_line().command {
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Chat(arguments) => chat::run(&arguments),
        Command::Serve(arguments) => serve::run(*arguments),
        Command::Forward(arguments) => forward::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Compress(arguments) => compress::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Merge(arguments) => merge::run(&arguments),
        Command::Methods(arguments) => methods::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Data(arguments) => data::run(&arguments),
        Command::Tokenizer(arguments) => tokenizer::run(&arguments),
    };
    match result {
        Ok(code) => code,
        // A reader that closed its end (`| head`) has what it wanted.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::say(&format!("error: {}", sentence(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, each said once: many messages hold their cause already.
fn sentence(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(ToString::to_string);
    causes.fold(
        error.to_string(),
        |text, cause| {
            if text.contains(&cause) { text } else { format!("{text}: {cause}") }
        },
    )
}

fn command_line() -> Cli {
    let matches = without_empty_variables(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// An environment variable that is set to nothing counts as not set, as it does for a shell's `${NAME:-default}`.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty =
        |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(None::<&'static str>) } else { arg })
        .mut_subcommands(without_empty_variables)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
