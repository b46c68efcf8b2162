//! What tells a machine from the one that it is a copy of: host name, machine id, random numbers, hardware address, time.

use crate::sys;

/// Bytes of fresh randomness.
const SEED: usize = 64;
/// Digits of a machine id (machine-id(5)).
const MACHINE_ID: usize = 32;
/// Bytes of a hardware address.
const ADDRESS: usize = 6;

/// Takes an identity: seconds and nanoseconds since 1970, hardware address, seed, machine id, and the host name up to
/// the end. One that makes no sense is ignored.
pub fn assume(payload: &[u8]) {
    let Some((seconds, rest)) = payload.split_first_chunk::<8>() else { return };
    let Some((nanoseconds, rest)) = rest.split_first_chunk::<8>() else { return };
    let Some((address, rest)) = rest.split_first_chunk::<ADDRESS>() else { return };
    let Some((seed, rest)) = rest.split_first_chunk::<SEED>() else { return };
    let Some((machine_id, hostname)) = rest.split_first_chunk::<MACHINE_ID>() else { return };
    // Random numbers first: what follows may want some.
    sys::add_entropy(seed);
    sys::set_clock(i64::from_le_bytes(*seconds), i64::from_le_bytes(*nanoseconds));
    sys::set_host_name(hostname);
    if *address != [0; ADDRESS] {
        sys::set_hardware_address(*b"eth0", address);
    }
    let mut line = [b'\n'; MACHINE_ID + 1];
    line[..MACHINE_ID].copy_from_slice(machine_id);
    // A system without the directory has no use for it.
    if let Ok(file) = sys::create(c"/etc/machine-id", 0o444) {
        sys::write_all(file, &line);
        sys::close(file);
    }
}
