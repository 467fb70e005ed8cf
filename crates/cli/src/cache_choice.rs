//! What `--kv-dtype` says: how keys and values are stored.

use std::str::FromStr;

use dropcap_kernels::{DType, KvFormat};

/// A format, or as the device computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheChoice {
    /// What keys and values are when they are made: f32 on the processor; on a GPU W, the dtype of its activations, whose fast
    /// kernels of attention are for 16 bits.
    Auto,
    /// This one.
    Named(KvFormat),
}

impl CacheChoice {
    /// The format beside activations of `dtype`.
    pub fn beside(self, dtype: DType) -> KvFormat {
        match self {
            Self::Auto => dtype.into(),
            Self::Named(format) => format,
        }
    }
}

impl FromStr for CacheChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Named)
                .map_err(|_| format!("expected one of auto, f32, f16, bf16, q8, q4, got {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_what_is_computed_in_and_a_name_is_itself() {
        let auto: CacheChoice = "auto".parse().unwrap();
        for dtype in DType::ALL {
            assert_eq!(auto.beside(dtype), KvFormat::from(dtype));
        }
        for format in KvFormat::ALL {
            let named: CacheChoice = format.name().parse().unwrap();
            assert_eq!((named, named.beside(DType::F32)), (CacheChoice::Named(format), format));
        }
        let refused = "q5".parse::<CacheChoice>().unwrap_err();
        assert!(refused.contains("auto") && refused.contains("q5"), "{refused}");
    }
}
