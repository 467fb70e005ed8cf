//! Golden models on a device.

use std::sync::Arc;

use dropcap_engine::{Engine, EngineOptions, Evaluation, evaluate_on_device};
use dropcap_kernels::KvFormat;
use dropcap_kernels::cuda::{CudaError, Device};
use dropcap_model::WeightFormat;
use dropcap_model::device::{DeviceDecoder, DeviceOptions, DeviceWeights};
use dropcap_policy::EvictionPolicy;

use super::support::Model;

/// The first device, or none, said loudly.
pub fn device(test: &str) -> Option<Device> {
    match Device::open(0, Some(std::env::temp_dir().join("dropcap-test-kernels"))) {
        Ok(device) => Some(device),
        Err(CudaError::Library { .. } | CudaError::NoDevice { .. } | CudaError::Driver { .. }) => {
            eprintln!("SKIPPED {test}: there is no CUDA device on this machine");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A golden model on a device.
pub struct OnDevice {
    pub host: Model,
    pub weights: Arc<DeviceWeights>,
    pub kv_dtype: KvFormat,
}

impl OnDevice {
    /// With a cache in the dtype of its activations.
    pub fn open(device: &Device, folder: &str, format: impl Into<WeightFormat>) -> Self {
        let format = format.into();
        let host = Model::open_as(folder, format);
        let weights = Arc::new(DeviceWeights::load(device, &host.team, &host.checkpoint, format).unwrap());
        let kv_dtype = weights.dtype().into();
        Self { host, weights, kv_dtype }
    }

    pub fn decoder(&self, policy: &dyn EvictionPolicy, max_batch: usize) -> DeviceDecoder {
        let options = DeviceOptions {
            kv_dtype: self.kv_dtype,
            kv_limit: Some(64 << 20),
            chunk: 256,
            max_batch,
            deaths: true,
            logit_rows: 16,
            kept: 4,
        };
        DeviceDecoder::new(self.weights.clone(), policy, options).unwrap()
    }

    pub fn evaluate(&self, policy: &dyn EvictionPolicy, ids: &[u32], chunk: usize) -> Evaluation {
        evaluate_on_device(&mut self.decoder(policy, 1), ids, chunk).unwrap()
    }

    pub fn engine(&self, policy: Arc<dyn EvictionPolicy>, options: EngineOptions) -> Engine {
        let options = EngineOptions { kv_dtype: self.kv_dtype, ..options };
        Engine::on_device(self.weights.clone(), policy, options, false).unwrap()
    }
}
