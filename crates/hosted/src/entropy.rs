//! Random bytes from the host's kernel, for virtio-rng and seeds.

use std::io;

use rvisor_waist::EntropyBackend;

/// The host's random number generator.
#[derive(Debug)]
pub struct HostEntropy(());

impl HostEntropy {
    /// Checks that the host gives random bytes to this process.
    ///
    /// # Errors
    /// What the host says, for example under a sandbox that allows neither `getrandom` nor `/dev/urandom`.
    pub fn new() -> io::Result<Self> {
        getrandom::fill(&mut [0; 8]).map_err(io::Error::other)?;
        Ok(Self(()))
    }
}

impl EntropyBackend for HostEntropy {
    fn fill(&mut self, buffer: &mut [u8]) {
        // Once it has answered, Linux's generator can't fail; should it, predictable keys in the guest would
        // be worse than an end.
        getrandom::fill(buffer).unwrap_or_else(|error| panic!("the host gives no random bytes: {error}"));
    }
}

/// A network card's address, of the range that KVM and QEMU guests use (locally administered, unicast).
///
/// # Errors
/// As for [`HostEntropy::new`].
pub fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = [0x52, 0x54, 0, 0, 0, 0];
    HostEntropy::new()?.fill(&mut mac[3..]);
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_buffer_is_filled_and_never_twice_alike() {
        let mut entropy = HostEntropy::new().unwrap();
        let (mut first, mut second) = ([0; 4096], [0; 4096]);
        entropy.fill(&mut first);
        entropy.fill(&mut second);
        assert_ne!(first, second);
        assert!(first.chunks(64).all(|part| part.iter().any(|byte| *byte != 0)));
    }
}
