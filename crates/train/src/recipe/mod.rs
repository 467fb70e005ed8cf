//! What makes hard gates trainable: the controller of each layer, the layers' shares, and the keep ratio itself.

mod budgets;
mod controller;
mod probe;

pub use budgets::{Sensitivity, share_out};
pub use controller::Controller;
pub use dropcap_scores::keep_ratio;
pub use probe::Probe;
