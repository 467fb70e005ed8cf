//! `none`: dense attention.

use std::sync::Arc;

use dropcap_policy::KeepAll;

use crate::Method;
use crate::method::Ranks;

pub(crate) const METHOD: Method = Method {
    name: "none",
    summary: "Keeps every entry: dense attention.",
    details: "The baseline of every comparison: bit for bit what the model computes without this project.

Costs: the whole cache, and attention over all of it.",
    source: "the model itself",
    amount: None,
    ranks: Ranks::No,
    parameters: &[],
    check: |_| Ok(()),
    build: |_, _| Ok(Arc::new(KeepAll)),
};
