//! From the parameters of a request to what the engine takes, with everything checked.

use dropcap_engine::Sampling;

use crate::wire::{Common, MAX_BIASES, MAX_CHOICES, MAX_STOP_BYTES, MAX_STOPS, Stop};
use crate::{ApiError, ServedModel};

/// The parameters of a request, within their ranges.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    pub(crate) sampling: Sampling,
    /// Most tokens to generate; none where the request leaves it open.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stops: Vec<String>,
    pub(crate) stop_tokens: Vec<u32>,
    /// Choices of each prompt.
    pub(crate) choices: usize,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) salt: Option<String>,
    /// Entries of each lane that stay.
    pub(crate) kv_budget: Option<u32>,
}

impl Parameters {
    /// Checks what all requests have.
    pub(crate) fn read(common: &Common<'_>, model: &ServedModel) -> Result<Self, ApiError> {
        model.check_name(common.model)?;
        let sampling = sampling(common)?;
        sampling.check()?;
        if common.has_stream_options && !common.stream {
            return Err(ApiError::parameter(
                "stream_options",
                "stream_options is for streams: leave it out, or set stream to true",
            ));
        }
        Ok(Self {
            sampling,
            max_tokens: common.max_tokens.map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
            stops: stops(common.stop)?,
            stop_tokens: if common.ignore_eos { Vec::new() } else { model.stop_tokens.clone() },
            choices: at_most("n", common.n.unwrap_or(1), 1, MAX_CHOICES)?,
            stream: common.stream,
            include_usage: common.include_usage,
            salt: common.cache_salt.map(str::to_owned),
            kv_budget: common.kv_budget.map(budget).transpose()?,
        })
    }

    /// How the `number`-th choice of a request is drawn: each has random numbers of its own.
    pub(crate) fn sampling_of(&self, number: usize) -> Sampling {
        Sampling { seed: self.sampling.seed.wrapping_add(number as u64), ..self.sampling.clone() }
    }
}

/// A count between two bounds.
pub(crate) fn at_most(name: &str, given: u64, least: usize, most: usize) -> Result<usize, ApiError> {
    let count = usize::try_from(given).ok().filter(|count| (least..=most).contains(count));
    count.ok_or_else(|| {
        ApiError::parameter(name, format!("{name} is {given}: it must be between {least} and {most}"))
    })
}

fn sampling(common: &Common<'_>) -> Result<Sampling, ApiError> {
    let number = |given: Option<f64>, default: f32| given.map_or(default, |given| given as f32);
    for (name, given) in
        [("frequency_penalty", common.frequency_penalty), ("presence_penalty", common.presence_penalty)]
    {
        if let Some(given) = given.filter(|given| !(-2.0..=2.0).contains(given)) {
            let message = format!("{name} is {given}: it must be between -2 and 2");
            return Err(ApiError::parameter(name, message));
        }
    }
    let top_k = match common.top_k.unwrap_or(0) {
        -1 | 0 => 0,
        given => {
            let count = usize::try_from(given).ok();
            count.ok_or_else(|| {
                ApiError::parameter("top_k", format!("top_k is {given}: it must be at least -1"))
            })?
        }
    };
    Ok(Sampling {
        repetition_penalty: number(common.repetition_penalty, 1.0),
        frequency_penalty: number(common.frequency_penalty, 0.0),
        presence_penalty: number(common.presence_penalty, 0.0),
        logit_bias: biases(common)?,
        temperature: number(common.temperature, 1.0),
        top_k,
        top_p: number(common.top_p, 1.0),
        min_p: number(common.min_p, 0.0),
        seed: common.seed.map_or_else(rand::random, |seed| seed as u64),
    })
}

/// A number of entries; the engine knows which its method allows.
fn budget(given: u64) -> Result<u32, ApiError> {
    u32::try_from(given).map_err(|_| {
        let message = format!("kv_budget is {given}: it must be between 1 and {}", u32::MAX);
        ApiError::parameter("kv_budget", message)
    })
}

fn biases(common: &Common<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = common.logit_bias else { return Ok(Vec::new()) };
    let wrong = |message: String| ApiError::parameter("logit_bias", message);
    if biases.len() > MAX_BIASES {
        return Err(wrong(format!("logit_bias has {} entries: it may have {MAX_BIASES}", biases.len())));
    }
    let bias = |(token, &bias): (&String, &f64)| {
        let id =
            token.parse().map_err(|_| wrong(format!("logit_bias names {token:?}, which is no token id")))?;
        if !(-100.0..=100.0).contains(&bias) {
            return Err(wrong(format!("logit_bias of {id} is {bias}: it must be between -100 and 100")));
        }
        Ok((id, bias as f32))
    };
    biases.iter().map(bias).collect()
}

fn stops(stop: Option<&Stop>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => return Ok(Vec::new()),
        Some(Stop::One(one)) => std::slice::from_ref(one),
        Some(Stop::Several(several)) => several,
    };
    let wrong = |message: String| Err(ApiError::parameter("stop", message));
    if stops.len() > MAX_STOPS {
        return wrong(format!("stop has {} strings: it may have {MAX_STOPS}", stops.len()));
    }
    if let Some(long) = stops.iter().find(|stop| stop.len() > MAX_STOP_BYTES) {
        return wrong(format!("a stop string has {} bytes: it may have {MAX_STOP_BYTES}", long.len()));
    }
    // An empty one ends nothing, as for the servers that clients know.
    Ok(stops.iter().filter(|stop| !stop.is_empty()).cloned().collect())
}
