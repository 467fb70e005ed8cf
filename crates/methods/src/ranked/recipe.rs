//! From a specification to a policy that ranks.

use std::sync::Arc;

use dropcap_policy::{Cadence, EvictionPolicy, Floors, PromptBudget, Turned};

use super::budget::{Budget, Heads, Layers};
use super::{Ranked, Scorer};
use crate::method::Ranks;
use crate::registry::find;
use crate::{Amount, Arguments, MethodError, ModelFacts, Parameter, ParameterKind, Term};
use crate::{key_rerotation, pyramid, squeeze};

/// Everything about a ranking policy but how much stays.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) scorer: Box<dyn Scorer>,
    pub(crate) floors: Floors,
    pub(crate) cadence: Cadence,
    pub(crate) heads: Heads,
    pub(crate) layers: Layers,
    /// Whether what stays behind a prompt is turned to consecutive positions.
    pub(crate) renumbers: bool,
}

/// How the arguments of a ranking method become a recipe.
pub(crate) type MakeRecipe = fn(&Arguments<'_>, &ModelFacts) -> Result<Recipe, MethodError>;

/// What `@` means for all methods that rank.
pub(crate) const AMOUNT: &str = "entries KEPT of each head: tokens, or a share of the text";

/// When a method that may rank at every query does so.
pub(crate) const WHEN: Parameter = Parameter {
    name: "when",
    kind: ParameterKind::Choice(&["prefill_end", "every_query"]),
    default: "prefill_end",
    help: "drop once, when the prompt ends, or after every query from there on",
};

/// How many tokens lie between two times to drop.
pub(crate) const EVERY: Parameter = Parameter {
    name: "every",
    kind: ParameterKind::Count { least: 1, most: crate::MAX_COUNT },
    default: "1",
    help: "with `every_query`, whenever the text has a multiple of so many tokens",
};

/// First tokens that stay.
pub(crate) const SINKS: Parameter = Parameter {
    name: "sinks",
    kind: ParameterKind::Count { least: 0, most: crate::MAX_COUNT },
    default: "0",
    help: "first tokens that always stay; they count",
};

/// Newest tokens that stay.
pub(crate) const RECENT: Parameter = Parameter {
    name: "recent",
    kind: ParameterKind::Count { least: 0, most: crate::MAX_COUNT },
    default: "0",
    help: "newest tokens that always stay; they count",
};

impl Recipe {
    /// A scorer when the prompt ends, under the floors that `sinks` and `recent` of the arguments name.
    pub(crate) fn new(scorer: impl Scorer + 'static, sinks: u32, recent: u32) -> Self {
        let floors = Floors { sinks, recent };
        Self {
            scorer: Box::new(scorer),
            floors,
            cadence: Cadence::Prompt,
            heads: Heads::Alike,
            layers: Layers::Alike,
            renumbers: false,
        }
    }

    /// The same when [`WHEN`] and [`EVERY`] say.
    pub(crate) fn when(self, arguments: &Arguments<'_>) -> Result<Self, MethodError> {
        let every_query = arguments.text(WHEN.name)? == "every_query";
        let cadence =
            if every_query { Cadence::Every(arguments.count(EVERY.name)?) } else { Cadence::Prompt };
        Ok(Self { cadence, ..self })
    }

    /// The recipe of the method within the parentheses.
    ///
    /// # Errors
    /// None there, or one that does not rank.
    pub(crate) fn inner(arguments: &Arguments<'_>, facts: &ModelFacts) -> Result<Self, MethodError> {
        let (make, inner) = inner_of(arguments)?;
        make(&inner, facts)
    }
}

/// Refuses a second budget, a method around nothing that ranks, and a cadence that nothing follows.
pub(crate) fn check(arguments: &Arguments<'_>) -> Result<(), MethodError> {
    if arguments.is_given(EVERY.name)
        && arguments.count(EVERY.name)? > 1
        && arguments.text(WHEN.name)? != "every_query"
    {
        return Err(MethodError::Contradiction {
            method: arguments.method().name,
            what: "`every` says how often entries go behind the prompt, and without when=every_query none do"
                .into(),
            advice: "write when=every_query beside it".into(),
        });
    }
    match arguments.method().ranks {
        Ranks::Around(_) => {
            inner_of(arguments)?;
            check_around(arguments)
        }
        Ranks::No | Ranks::Itself(_) => Ok(()),
    }
}

/// Refuses methods within each other that say twice how layers share, or let lanes keep different numbers of entries that are
/// to have one next position.
fn check_around(arguments: &Arguments<'_>) -> Result<(), MethodError> {
    let outer = arguments.method().name;
    let within = std::iter::successors(arguments.inner(), |term| term.inner()).map(Term::name);
    for inner in within {
        let layers = |name: &str| [pyramid::NAME, squeeze::NAME].contains(&name);
        if layers(outer) && layers(inner) {
            return Err(MethodError::Contradiction {
                method: outer,
                what: format!("{inner} within it says already how layers share the budget"),
                advice: "leave one of them out".into(),
            });
        }
        let around = matches!(find(inner)?.ranks, Ranks::Around(_));
        if inner == key_rerotation::NAME || outer == key_rerotation::NAME && around {
            let uneven = if outer == key_rerotation::NAME { inner } else { outer };
            return Err(MethodError::Contradiction {
                method: key_rerotation::NAME,
                what: format!(
                    "{uneven} lets heads or layers keep different numbers of entries, and what comes behind them has one position for all"
                ),
                advice: "put it around the method that ranks: key_rerotation(snapkv)@0.2".into(),
            });
        }
    }
    Ok(())
}

/// The policy of a method that ranks.
pub(crate) fn build(
    arguments: &Arguments<'_>,
    facts: &ModelFacts,
) -> Result<Arc<dyn EvictionPolicy>, MethodError> {
    let method = arguments.method();
    let amount = match arguments.amount() {
        None => return Err(MethodError::NoBudget { method: method.name }),
        Some(Amount::Tokens(tokens)) => PromptBudget::Tokens(tokens),
        Some(Amount::Share(share)) => PromptBudget::Share(share),
    };
    let (Ranks::Itself(make) | Ranks::Around(make)) = method.ranks else {
        return Err(MethodError::DoesNotRank { method: method.name });
    };
    let Recipe { scorer, floors, cadence, heads, layers, renumbers } = make(arguments, facts)?;
    let ranked = Ranked::new(scorer, Budget { amount, floors, heads, layers }, cadence);
    Ok(if renumbers { Arc::new(Turned::once(ranked)) } else { Arc::new(ranked) })
}

/// How the method within the parentheses makes its recipe, and its arguments.
fn inner_of<'a>(arguments: &Arguments<'a>) -> Result<(MakeRecipe, Arguments<'a>), MethodError> {
    let outer = arguments.method().name;
    let term: &Term = arguments.inner().ok_or(MethodError::NoInner { method: outer })?;
    let method = find(term.name())?;
    if let Some(given) = term.amount() {
        return Err(MethodError::InnerAmount { method: method.name, outer, given });
    }
    match method.ranks {
        Ranks::Itself(make) | Ranks::Around(make) => Ok((make, Arguments::new(method, term)?)),
        Ranks::No => Err(MethodError::DoesNotRank { method: method.name }),
    }
}
