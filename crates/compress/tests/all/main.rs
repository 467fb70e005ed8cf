//! The compressors against golden values of the original codes, and their promises, as one binary.
#![cfg(test)]

mod golden_context;
mod golden_longcodezip;
mod golden_tapruning;
mod promises;
mod support;
