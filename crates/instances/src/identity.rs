//! What tells a machine from the one that it is a copy of.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rvisor_hosted::HostEntropy;
use rvisor_waist::EntropyBackend;

use crate::error::{Context, Result};

/// A new identity for a guest: all but the host name comes from random numbers.
pub(crate) fn fresh(name: &str) -> Result<Vec<u8>> {
    let mut entropy = HostEntropy::new().context("take random numbers from", Path::new("the host"))?;
    let mut address = [0x52, 0x54, 0, 0, 0, 0];
    let (mut seed, mut id) = ([0; 64], [0; 16]);
    entropy.fill(&mut address[3..]);
    entropy.fill(&mut seed);
    entropy.fill(&mut id);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut payload = Vec::new();
    payload.extend((now.as_secs() as i64).to_le_bytes());
    payload.extend(i64::from(now.subsec_nanos()).to_le_bytes());
    payload.extend(address);
    payload.extend(seed);
    payload.extend(id.iter().map(|byte| format!("{byte:02x}")).collect::<String>().bytes());
    payload.extend(name.bytes());
    Ok(payload)
}
