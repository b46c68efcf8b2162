//! What tells a machine from the one that it is a copy of.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use rvisor_hosted::{HostEntropy, random_mac};
use rvisor_waist::EntropyBackend;

use crate::error::{Context, Result};
use crate::saving::wall_clock;

/// The hardware address of a machine on a device of the host's: the same each time, so that the host's networks know it.
pub(crate) fn hardware_address(store: &Path, name: &str, created: u64) -> [u8; 6] {
    let mut hasher = DefaultHasher::new();
    (store, name, created).hash(&mut hasher);
    let [a, b, c, d, e, ..] = hasher.finish().to_le_bytes();
    // Locally administered, and nobody's maker.
    [0x52, a, b, c, d, e]
}

/// A new identity for a guest: all but the host name, and a hardware address that it keeps, comes from random
/// numbers.
pub(crate) fn fresh(name: &str, keeps_address: bool) -> Result<Vec<u8>> {
    let source = Path::new("the host");
    let address = match keeps_address {
        true => [0; 6],
        false => random_mac().context("take random numbers from", source)?,
    };
    let mut entropy = HostEntropy::new().context("take random numbers from", source)?;
    let (mut seed, mut id) = ([0; 64], [0; 16]);
    entropy.fill(&mut seed);
    entropy.fill(&mut id);
    let now = wall_clock();
    let mut payload = Vec::new();
    payload.extend((now.as_secs() as i64).to_le_bytes());
    payload.extend(i64::from(now.subsec_nanos()).to_le_bytes());
    payload.extend(address);
    payload.extend(seed);
    payload.extend(id.iter().map(|byte| format!("{byte:02x}")).collect::<String>().bytes());
    payload.extend(name.bytes());
    Ok(payload)
}
