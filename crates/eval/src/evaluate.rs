//! All tasks under all methods.

use crate::record::{Outcome, Record};
use crate::results::Results;
use crate::subject::{Method, Subject};
use crate::text::{TextReaders, TextTask};
use crate::{EvalError, LikelihoodTask, RecallTask, likelihood, recall};

/// Something to measure.
#[derive(Debug)]
pub enum Task {
    /// Perplexity of a text, and its divergence from the dense run.
    Text(TextTask),
    /// Continuations that are scored.
    Likelihood(LikelihoodTask),
    /// Questions about a context that was pruned before them.
    Recall(RecallTask),
}

impl Task {
    /// As the tables name it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Text(task) => &task.name,
            Self::Likelihood(task) => &task.name,
            Self::Recall(task) => &task.name,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(task) => task.len(),
            Self::Likelihood(task) => task.len(),
            Self::Recall(task) => task.len(),
        }
    }
}

/// Hears how an evaluation goes.
pub trait Progress {
    /// A task begins under a method (of a text, under all methods together): so many examples, and so many of them known
    /// from before.
    fn begin(&mut self, task: &str, method: &str, examples: usize, known: usize);
    /// One more example is through.
    fn advance(&mut self);
}

/// Runs every example of every task under every method that `results` does not know yet.
///
/// Texts are read under all methods side by side, so that what is compared is never held as a whole. The other tasks go
/// through the engine in ragged batches, one method after the other, the dense run first.
///
/// # Errors
/// A text that does not fit the memory; a failed device; results that cannot be written. What was measured before stays.
pub fn evaluate(
    subject: &Subject,
    tasks: &[Task],
    results: &mut Results,
    progress: &mut dyn Progress,
) -> Result<(), EvalError> {
    for task in tasks {
        if let Task::Text(task) = task {
            read_text(subject, task, results, progress)?;
        }
    }
    for method in &subject.methods {
        let mut engine = None;
        for task in tasks {
            let missing = match task {
                Task::Text(_) => continue,
                _ => results.missing(task.name(), &method.name, task.len()),
            };
            progress.begin(task.name(), &method.name, task.len(), task.len() - missing.len());
            if missing.is_empty() {
                continue;
            }
            let engine = match &mut engine {
                Some(engine) => engine,
                none => none.insert(subject.engine(method)?),
            };
            let mut done = |example: usize, outcome: Outcome| {
                progress.advance();
                results.add(record(task.name(), method, example, outcome))
            };
            match task {
                Task::Text(_) => {}
                Task::Likelihood(task) => likelihood::score(subject, engine, task, &missing, &mut done)?,
                Task::Recall(task) => recall::ask(subject, engine, task, &missing, &mut done)?,
            }
        }
    }
    Ok(())
}

fn read_text(
    subject: &Subject,
    task: &TextTask,
    results: &mut Results,
    progress: &mut dyn Progress,
) -> Result<(), EvalError> {
    let Some((dense, others)) = subject.methods.split_first() else { return Ok(()) };
    let missing = |method: &Method| results.missing(&task.name, &method.name, task.len());
    let others: Vec<&Method> = others.iter().filter(|method| !missing(method).is_empty()).collect();
    let mut windows = missing(dense);
    windows.extend(others.iter().flat_map(|method| missing(method)));
    windows.sort_unstable();
    windows.dedup();
    let names: Vec<&str> = others.iter().map(|method| &*method.name).collect();
    progress.begin(&task.name, &names.join(", "), task.len(), task.len() - windows.len());
    if windows.is_empty() {
        return Ok(());
    }
    let longest = windows.iter().map(|&window| task.window(window).1.len() - 1).max().unwrap_or(0);
    let prompt = if task.context == 0 { longest } else { task.context };
    let mut readers = TextReaders::new(subject, dense, &others, prompt)?;
    for window in windows {
        let (document, ids, first) = task.window(window);
        let outcomes = readers.read(ids, first, task.context)?;
        for (method, outcome) in std::iter::once(&dense).chain(&others).zip(outcomes) {
            let outcome = match outcome {
                Outcome::Window(read) => Outcome::Window(crate::Window { document, ..read }),
                other => other,
            };
            results.add(record(&task.name, method, window, outcome))?;
        }
        progress.advance();
    }
    Ok(())
}

fn record(task: &str, method: &Method, example: usize, outcome: Outcome) -> Record {
    Record { task: task.to_owned(), method: method.name.clone(), example, outcome }
}
