//! The decoder as the device computes it: where each layer's parameters lie.

use std::ops::Range;
use std::sync::Arc;

use dropcap_kernels::cuda::DeviceSlice;
use dropcap_kernels::norm::NormSlices;
use dropcap_kernels::rope::{HeadNorms, RopeTables};
use dropcap_kernels::{KernelError, RopeTable};
use dropcap_methods::GateLayout;
use dropcap_model::{DecoderConfig, LayerPlan, MatrixPlan, NormPlan, Position};

use super::Plan;
use super::division::Divisible;
use super::factors::{FactorRoom, Factors};
use super::gradients::Gradients;
use super::kernels::Kernels;
use super::matrix::Matrix;
use super::place::Places;
use super::weights::Weights;
use crate::TrainError;
use crate::network::{FactorForm, GateForm};

/// Places of all parameters by what they are for.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) config: DecoderConfig,
    pub(super) gates: Option<GateForm>,
    pub(super) embedding: Range<usize>,
    pub(super) positions: Option<Range<usize>>,
    pub(super) rope: Option<RopeTables>,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Norm,
    pub(super) head: Matrix,
}

/// One layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Norm,
    pub(super) qkv: Matrix,
    /// Weights of the norms of each head's queries and keys.
    pub(super) head_norms: Option<[Range<usize>; 2]>,
    pub(super) output: Matrix,
    pub(super) mlp_norm: Norm,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
    pub(super) gates: Option<GatePlaces>,
}

/// Two maps `[G r, c]`, of queries and of keys, behind each other, or that of keys alone, and the biases `[G]`.
#[derive(Debug)]
pub(super) struct GatePlaces {
    pub(super) maps: Range<usize>,
    pub(super) bias: Range<usize>,
}

/// A norm over the residual stream.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Range<usize>,
    bias: Option<Range<usize>>,
}

impl Network {
    /// The network of a plan whose tensors lie at `places`; with `factors` beside its weights, or as it is beneath them.
    pub(super) fn new(
        kernels: &Kernels,
        plan: &Plan<'_>,
        factors: Option<&FactorForm>,
        places: &Places,
    ) -> Result<Self, TrainError> {
        let &Plan { config, plan, gates, ref layout, room, .. } = plan;
        let rows = room.sequences * room.tokens;
        let factor_room = factors.map(|form| FactorRoom::new(kernels, form, plan, [rows, config.hidden]));
        let factors = factors.zip(factor_room.transpose()?.map(Arc::new));
        let of = |name: &str| -> Result<Range<usize>, TrainError> { Ok(places.of(&layout.range(name)?)) };
        let norm = |norm: &NormPlan| -> Result<Norm, TrainError> {
            let bias = norm.bias.as_ref().map(|bias| of(&bias.tensor)).transpose()?;
            Ok(Norm { weight: of(&norm.weight.tensor)?, bias })
        };
        let table = |table: &MatrixPlan| Matrix::planned(table, layout, places);
        let matrix = |matrix: &MatrixPlan| -> Result<Matrix, TrainError> {
            let factors = match &factors {
                None => None,
                Some((form, room)) => Factors::planned(kernels, form, plan, matrix, (layout, places), room)?,
            };
            Ok(table(matrix)?.beside(factors))
        };
        let layer = |(index, layer): (usize, &LayerPlan)| -> Result<Layer, TrainError> {
            let head_norms = match (&layer.query_norm, &layer.key_norm) {
                (Some(query), Some(key)) => Some([of(&query.tensor)?, of(&key.tensor)?]),
                _ => None,
            };
            let gates = match gates {
                None => None,
                Some(form) => {
                    let [query, key, bias] = GateLayout::Dropcap.names(index);
                    let first = if form.kind.votes() { &query } else { &key };
                    let maps = layout.range(first)?.start..layout.range(&key)?.end;
                    Some(GatePlaces { maps: places.of(&maps), bias: of(&bias)? })
                }
            };
            Ok(Layer {
                attention_norm: norm(&layer.attention_norm)?,
                qkv: matrix(&layer.qkv)?,
                head_norms,
                output: matrix(&layer.output)?,
                mlp_norm: norm(&layer.mlp_norm)?,
                up: matrix(&layer.up)?,
                down: matrix(&layer.down)?,
                gates,
            })
        };
        let rope = match config.position {
            Position::Learned => None,
            Position::Rope(rope) => {
                let (inv_freq, attention_scaling) = rope.frequencies(config.head_dim);
                let table = RopeTable { inv_freq, attention_scaling };
                Some(RopeTables::new(&kernels.device, &table, room.tokens)?)
            }
        };
        Ok(Self {
            embedding: table(&plan.embedding)?.weight,
            positions: plan
                .positions
                .as_ref()
                .map(|positions| table(positions).map(|table| table.weight))
                .transpose()?,
            rope,
            layers: plan.layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?,
            final_norm: norm(&plan.final_norm)?,
            head: table(plan.head.as_ref().unwrap_or(&plan.embedding))?,
            config: config.clone(),
            gates,
        })
    }

    /// All maps between the residual stream and itself.
    fn products(&self) -> impl Iterator<Item = &Matrix> {
        self.layers.iter().flat_map(|layer| [&layer.qkv, &layer.output, &layer.up, &layer.down])
    }

    /// The factors of all maps.
    pub(super) fn factors(&self) -> impl Iterator<Item = &Factors> {
        self.products().filter_map(|matrix| matrix.factors.as_ref())
    }

    /// The weights whose gradients a product makes, or a product before anything else.
    pub(super) fn made_by_products(&self) -> Vec<Range<usize>> {
        let whole = self.products().filter(|matrix| matrix.factors.is_none());
        whole.chain([&self.head]).map(|matrix| matrix.weight.clone()).collect()
    }

    /// The weights that products read and nothing else does.
    pub(super) fn only_products_read(&self) -> Vec<Range<usize>> {
        let head = Some(&self.head).filter(|head| head.weight != self.embedding);
        self.products().chain(head).map(|matrix| matrix.weight.clone()).collect()
    }

    /// All matrices, and who reads them in a pass.
    pub(super) fn divisible(&self) -> Vec<Divisible> {
        let table = Divisible {
            place: self.embedding.clone(),
            by_products: self.head.weight == self.embedding,
            by_lookup: true,
        };
        let products = self.only_products_read().into_iter();
        let products = products.map(|place| Divisible { place, by_products: true, by_lookup: false });
        products.chain(std::iter::once(table)).collect()
    }

    /// Of [`Network::only_products_read`] those before the place `first`, where nothing trains.
    pub(super) fn held_for_products(&self, first: usize) -> Vec<Range<usize>> {
        let weights = self.only_products_read().into_iter();
        weights.filter(|weight| weight.end <= first).collect()
    }

    /// The places that train in the order in which a forward pass reads them: what lies before all layers, and then each
    /// layer with what lies behind it.
    pub(super) fn order_of_reading(&self, trained: Range<usize>) -> Vec<Range<usize>> {
        let layers = self.layers.iter().map(|layer| layer.start().clamp(trained.start, trained.end));
        let starts: Vec<usize> = std::iter::once(trained.start).chain(layers).collect();
        let ends = starts.iter().skip(1).copied().chain(std::iter::once(trained.end));
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// Width of a row `[q | k | v]`.
    pub(super) fn fused_width(&self) -> usize {
        self.config.query_width() + 2 * self.config.key_width()
    }

    /// The longest vector among the parameters that has a gradient whether it trains or not.
    pub(super) fn widest_vector(&self) -> usize {
        self.config.hidden.max(self.config.head_dim).max(self.config.kv_heads)
    }
}

impl Norm {
    pub(super) fn values<'a>(&self, weights: &'a Weights) -> Result<NormSlices<'a>, KernelError> {
        let bias = self.bias.as_ref().map(|bias| weights.of(bias)).transpose()?;
        Ok(NormSlices { weight: weights.of(&self.weight)?, bias })
    }

    pub(super) fn gradients<'a>(&self, gradients: &'a Gradients) -> Result<NormSlices<'a>, KernelError> {
        let bias = self.bias.as_ref().map(|bias| gradients.vector(bias)).transpose()?;
        Ok(NormSlices { weight: gradients.vector(&self.weight)?, bias })
    }
}

impl Layer {
    /// Where its parameters begin.
    pub(super) fn start(&self) -> usize {
        let norms = [&self.attention_norm, &self.mlp_norm].map(|norm| norm.weight.start);
        let matrices = [&self.qkv, &self.output, &self.up, &self.down].map(|matrix| matrix.weight.start);
        norms.into_iter().chain(matrices).fold(usize::MAX, usize::min)
    }

    /// Where the parameters of its MLP begin, if they are its last ones.
    pub(super) fn start_of_mlp(&self) -> Option<usize> {
        let start = self.up.weight.start.min(self.down.weight.start);
        let norms = [&self.attention_norm, &self.mlp_norm].map(|norm| norm.weight.start);
        let before = norms.into_iter().chain([self.qkv.weight.start, self.output.weight.start]);
        let heads = self.head_norms.iter().flatten().map(|norm| norm.start);
        before.chain(heads).all(|other| other < start).then_some(start)
    }

    pub(super) fn head_norms<'a>(&self, weights: &'a Weights) -> Result<Option<HeadNorms<'a>>, KernelError> {
        self.norms_of(|place| weights.of(place))
    }

    pub(super) fn head_norm_gradients<'a>(
        &self,
        gradients: &'a Gradients,
    ) -> Result<Option<HeadNorms<'a>>, KernelError> {
        self.norms_of(|place| gradients.vector(place))
    }

    fn norms_of<'a>(
        &self,
        of: impl Fn(&Range<usize>) -> Result<DeviceSlice<'a, f32>, KernelError>,
    ) -> Result<Option<HeadNorms<'a>>, KernelError> {
        match &self.head_norms {
            None => Ok(None),
            Some([query, key]) => Ok(Some(HeadNorms { query: of(query)?, key: of(key)? })),
        }
    }
}
