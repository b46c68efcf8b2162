//! Rvisor's image store: pulls, verifies and builds guest images.
#![forbid(unsafe_code)]

pub mod archive;
mod error;
pub mod fetch;
pub mod progress;
mod store;

pub use error::{Error, Result};
pub use store::{Blob, Draft, Image, Manifest, Name, NewImage, Store};

/// Bytes as lowercase hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
