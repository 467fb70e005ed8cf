//! What the model card of a result says.

use std::path::{Path, PathBuf};

use dropcap_kernels::DType;

use super::{Evaluation, Trainer};
use crate::config::{Config, Method, Trained};
use crate::metrics::{ModelCard, Row};
use crate::select::Account;

impl Trainer {
    /// The configuration with the names of files only: where they lie on this machine is nobody's business.
    fn shown_config(&self) -> Config {
        let mut shown = self.config.clone();
        let name = |path: &mut PathBuf| {
            if let Some(name) = path.file_name() {
                *path = name.into();
            }
        };
        shown.data.cache = None;
        let models = shown.model.iter_mut().chain(&mut shown.tokenizer).chain(&mut shown.teacher);
        models.for_each(name);
        shown.data.scores.iter_mut().for_each(name);
        shown.data.train.iter_mut().chain(&mut shown.data.valid).for_each(name);
        name(&mut shown.output);
        shown
    }

    pub(super) fn card(&self, command: &str, evaluation: &Evaluation) -> ModelCard {
        let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut measured = Vec::new();
        for (path, file) in self.config.data.valid.iter().zip(&evaluation.files) {
            let what = name(path);
            let perplexity = |loss: crate::network::Loss| format!("{:.2}", loss.perplexity());
            if self.config.method != Method::None {
                let keep = file.mean_keep();
                let value = format!("{} (keep ratio {keep:.3})", perplexity(file.pruned));
                measured.push(Row { what: format!("perplexity of {what}, forgetting"), value });
            }
            let value = perplexity(file.dense);
            measured.push(Row { what: format!("perplexity of {what}, nothing forgotten"), value });
        }
        let summary = match self.config.method {
            Method::None => "Trained without forgetting anything.".to_owned(),
            Method::Window => "Trained to see only its first and most recent tokens.".to_owned(),
            Method::Dcp => {
                "Trained with dropcap to forget, layer by layer, the tokens that it no longer needs."
                    .to_owned()
            }
        };
        let batch = &self.config.batch;
        ModelCard {
            title: name(&self.config.output),
            base: self.source.directory().map(|_| self.base_name()),
            summary,
            data: self.config.data.train.iter().map(|path| name(path)).collect(),
            account: self.account_lines(),
            tokens: self.step * (batch.sequences * self.tokens) as u64,
            measured,
            keep: if self.config.method == Method::Dcp { evaluation.keep() } else { Vec::new() },
            usage: self.usage(),
            command: command.to_owned(),
            config: self.shown_config().to_yaml().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// What of the data was learned, and why the rest was not.
    fn account_lines(&self) -> Vec<String> {
        let teacher = self.config.teacher.as_deref().map(|teacher| {
            let name = teacher.file_name().unwrap_or(teacher.as_os_str()).to_string_lossy();
            format!(
                "{:.0} % of the loss is the divergence from the predictions of {name}",
                100.0 * self.config.distill
            )
        });
        let learned = self.batches.learned().map(|learned| learned.sentence(self.tokens));
        self.subset.iter().cloned().chain(learned).chain(teacher).chain(self.chosen_lines()).collect()
    }

    /// What was chosen batch by batch, of all files and of each.
    pub(super) fn chosen_lines(&self) -> Vec<String> {
        let mut all = Account::default();
        self.accounts.iter().for_each(|account| all.add(account));
        if all.examples == 0 {
            return Vec::new();
        }
        let mut lines = vec![all.sentence()];
        if let [_, _, ..] = self.accounts.as_slice() {
            let files = self.config.data.train.iter().zip(&self.accounts).map(|(file, account)| {
                let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
                format!("q_tuning learned from {} of the examples of {name}", account.share_kept())
            });
            lines.extend(files);
        }
        lines
    }

    /// What the model that was given is called: its id on the hub, or the name of its directory.
    pub(super) fn base_name(&self) -> String {
        let named = self.config.model.as_deref().unwrap_or(Path::new(""));
        let shown =
            if named.exists() { named.file_name().unwrap_or(named.as_os_str()) } else { named.as_os_str() };
        shown.to_string_lossy().into_owned()
    }

    /// The flags with which the result runs as it was trained and measured.
    fn usage(&self) -> String {
        let mut usage = match self.config.train {
            Trained::All => "dropcap generate --model DIR".to_owned(),
            Trained::Gates | Trained::Lora => {
                format!("dropcap generate --model {} --adapter DIR", self.base_name())
            }
        };
        match (self.config.method, &self.config.window) {
            (Method::None, _) | (Method::Window, None) => {}
            (Method::Window, Some(window)) => {
                let (sinks, recent) = (window.sinks, window.recent);
                usage.push_str(&format!(" --method \"streaming_llm(sinks={sinks}, recent={recent})\""));
            }
            (Method::Dcp, _) => usage.push_str(" --method dcp"),
        }
        if self.config.kv_dtype != DType::F32 {
            usage.push_str(&format!(" --kv-dtype {}", self.config.kv_dtype));
        }
        usage.push_str(" --prompt \"Once upon a time\"");
        usage
    }
}
