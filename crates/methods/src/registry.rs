//! All methods, and the way from a spec to a policy.

use std::sync::Arc;

use dropcap_policy::{Both, EvictionPolicy};

use crate::method::Ranks;
use crate::{Arguments, Method, MethodError, MethodSpec, ModelFacts, Term, nearest::nearest_method};
use crate::{
    a2sf, ada, citrus, compactor, dcp, duo_attention, expected_attention, h2o, headkv, key_rerotation,
    keydiff, keyformer, knorm, lagkv, nacl, none, observed_attention, pyramid, random, simulate, snapkv,
    squeeze, streaming_llm, tova,
};

/// Every method there is. Grammar, help, documentation and tests are made from this slice.
pub const METHODS: &[Method] = &[
    none::METHOD,
    dcp::METHOD,
    streaming_llm::METHOD,
    knorm::METHOD,
    keydiff::METHOD,
    tova::METHOD,
    snapkv::METHOD,
    h2o::METHOD,
    observed_attention::METHOD,
    a2sf::METHOD,
    keyformer::METHOD,
    nacl::METHOD,
    citrus::METHOD,
    expected_attention::METHOD,
    lagkv::METHOD,
    compactor::METHOD,
    random::METHOD,
    duo_attention::METHOD,
    ada::METHOD,
    pyramid::METHOD,
    squeeze::METHOD,
    headkv::METHOD,
    key_rerotation::METHOD,
    simulate::METHOD,
];

/// The method of that name.
///
/// # Errors
/// No such method: the message lists all and suggests the nearest.
pub(crate) fn find(name: &str) -> Result<&'static Method, MethodError> {
    let names = || METHODS.iter().map(|method| method.name);
    METHODS.iter().find(|method| method.name == name).ok_or_else(|| MethodError::UnknownMethod {
        name: name.into(),
        known: names().collect(),
        nearest: nearest_method(name, METHODS.iter().map(|method| method.name)),
    })
}

/// Looks up names and keys, and checks values and combinations; everything that needs no model.
pub(crate) fn check(term: &Term) -> Result<(), MethodError> {
    let method = find(term.name())?;
    (method.check)(&Arguments::new(method, term)?)
}

/// Refuses a term of a spec, not one within another, that ranks without a budget.
pub(crate) fn check_budget(term: &Term) -> Result<(), MethodError> {
    let method = find(term.name())?;
    match (method.ranks, term.amount()) {
        (Ranks::Itself(_) | Ranks::Around(_), None) => Err(MethodError::NoBudget { method: method.name }),
        _ => Ok(()),
    }
}

/// Refuses terms beside one that turns keys to consecutive positions: what another ends leaves gaps, or lanes of different lengths.
pub(crate) fn check_together(terms: &[Term]) -> Result<(), MethodError> {
    let renumbers = |term: &&Term| {
        let cache = |(key, value): &(String, String)| key == streaming_llm::POSITIONS && value == "cache";
        term.name() == key_rerotation::NAME
            || term.name() == streaming_llm::NAME && term.arguments().iter().any(cache)
    };
    match terms.iter().find(renumbers) {
        Some(term) if terms.len() > 1 => Err(MethodError::Contradiction {
            method: find(term.name())?.name,
            what: "it turns keys to consecutive positions, and a method behind `&` would leave gaps".into(),
            advice: format!("write it alone: {term}"),
        }),
        _ => Ok(()),
    }
}

/// The policy that `spec` names, for one model; several terms combine to the smaller lifetime.
///
/// # Errors
/// What [`MethodSpec`]'s parser refuses, gate files that cannot be read or belong to another model, and
/// dimensions that do not fit.
pub fn build(spec: &MethodSpec, facts: &ModelFacts) -> Result<Arc<dyn EvictionPolicy>, MethodError> {
    let mut combined: Option<Arc<dyn EvictionPolicy>> = None;
    for term in spec.terms() {
        let method = find(term.name())?;
        let arguments = Arguments::new(method, term)?;
        (method.check)(&arguments)?;
        let policy = (method.build)(&arguments, facts)?;
        combined = Some(match combined {
            None => policy,
            Some(first) => Arc::new(Both::new(first, policy)),
        });
    }
    // The grammar has no empty spec; keeping everything is what one would mean.
    Ok(combined.unwrap_or_else(|| Arc::new(dropcap_policy::KeepAll)))
}

#[cfg(test)]
pub(crate) mod tests;
