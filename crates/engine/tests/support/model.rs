//! A model that tests run; the server's tests use it too.

use std::path::Path;
use std::sync::Arc;

use dropcap_kernels::Team;
use dropcap_methods::{MethodSpec, ModelFacts};
use dropcap_model::{Checkpoint, Decoder, WeightFormat};
use dropcap_policy::EvictionPolicy;

/// A model and the threads to run it with.
pub struct Model {
    pub checkpoint: Checkpoint,
    pub decoder: Arc<Decoder>,
    pub team: Arc<Team>,
}

impl Model {
    /// The model in a directory.
    pub fn at(directory: &Path, format: impl Into<WeightFormat>) -> Model {
        let team = Arc::new(Team::new(2).unwrap());
        let checkpoint = Checkpoint::open(directory).unwrap();
        let decoder = Arc::new(Decoder::load(&team, &checkpoint, format).unwrap());
        Model { checkpoint, decoder, team }
    }

    /// A method by its spec.
    pub fn method(&self, spec: &str) -> Arc<dyn EvictionPolicy> {
        let config = self.checkpoint.config();
        let facts = ModelFacts {
            layers: config.layers,
            hidden: config.hidden,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            family: config.family.to_string(),
            fingerprint: Some(self.checkpoint.fingerprint().unwrap()),
            directory: Some(self.checkpoint.directory().to_path_buf()),
        };
        dropcap_methods::build(&spec.parse::<MethodSpec>().unwrap(), &facts).unwrap()
    }
}
