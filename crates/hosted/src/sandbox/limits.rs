//! Limits of a machine's process, and what it has of the administrator's powers.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs};

/// Descriptors: those of the disks, of 128 clients, and of all the connections that the network allows.
pub(super) const DESCRIPTORS: u64 = 4096;

/// What an administrator's process keeps: files and ports of other users, as they expect of one.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Bytes of private memory that the process of a machine with so much RAM may have: twice that, for the engine that
/// compares, and what code, threads and queues can come to.
pub(super) fn memory(ram: u64) -> u64 {
    const REST: u64 = 8 << 30;
    ram.saturating_mul(2).saturating_add(REST)
}

/// Sets them, for this process, and nobody may raise them any more.
pub(super) fn set(memory: u64, descriptors: u64) -> io::Result<()> {
    // A dump would put the guest's memory into a file.
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, descriptors)?;
    limit(Resource::Data, memory)?;
    set_no_new_privs(true)?;
    let mut sets = capabilities(None)?;
    sets.effective &= KEPT;
    sets.permitted &= KEPT;
    sets.inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, sets)?)
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let lower = |now: Option<u64>| Some(now.map_or(most, |now| now.min(most)));
    let hard = lower(getrlimit(resource).maximum);
    Ok(setrlimit(resource, Rlimit { current: hard, maximum: hard })?)
}
