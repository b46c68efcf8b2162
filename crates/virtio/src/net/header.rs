//! The header before each frame (Virtio 1.3, "Device Operation" of the network device), and the checksums that
//! it asks for.

use super::{F_CSUM, F_HOST_TSO4, F_HOST_TSO6};

/// Bytes of `struct virtio_net_hdr` as of version 1.
pub(super) const SIZE: usize = 12;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum of the last part of the frame is to be completed.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the frame's checksums needn't be looked at.
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_NONE`: the frame is no larger than the network's; or TCP over IPv4 or IPv6 that is to be cut.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// What a driver says of a frame that it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    flags: u8,
    gso_type: u8,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

/// The driver asked for what wasn't negotiated, or for a checksum outside the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused;

impl Header {
    pub fn parse(bytes: &[u8; SIZE]) -> Self {
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            gso_size: u16::from_le_bytes([bytes[4], bytes[5]]),
            checksum_start: u16::from_le_bytes([bytes[6], bytes[7]]),
            checksum_offset: u16::from_le_bytes([bytes[8], bytes[9]]),
        }
    }

    /// Bytes of data in each packet of a frame that is to be cut.
    pub fn segment_size(&self) -> Option<usize> {
        (self.gso_type != GSO_NONE).then_some(self.gso_size.into())
    }

    /// Makes the frame one that any network takes, if it needn't be cut for that.
    pub fn apply(&self, frame: &mut [u8], features: u64) -> Result<(), Refused> {
        let is_negotiated = match self.gso_type {
            GSO_NONE => true,
            // Such a frame always has a checksum to be completed (5.1.6.2).
            GSO_TCPV4 => features & F_HOST_TSO4 != 0 && self.flags & NEEDS_CSUM != 0,
            GSO_TCPV6 => features & F_HOST_TSO6 != 0 && self.flags & NEEDS_CSUM != 0,
            _ => false,
        };
        if !is_negotiated {
            return Err(Refused);
        }
        if self.flags & NEEDS_CSUM == 0 {
            return Ok(());
        }
        if features & F_CSUM == 0 {
            return Err(Refused);
        }
        let part = frame.get_mut(usize::from(self.checksum_start)..).ok_or(Refused)?;
        let at = usize::from(self.checksum_offset);
        // The field holds the sum of the pseudo header, so that it is summed up with the rest.
        let sum = internet_checksum(0, part);
        part.get_mut(at..at + 2).ok_or(Refused)?.copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}

/// The header of a frame for the driver, which lies in `buffers` chains; `valid` if it was made here.
pub(super) fn incoming(buffers: u16, valid: bool) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes[0] = if valid { DATA_VALID } else { 0 };
    bytes[10..].copy_from_slice(&buffers.to_le_bytes());
    bytes
}

/// The one's complement of the one's complement sum (RFC 1071) of `start` and the bytes. Never 0, which in UDP means that there is none:
/// 0xffff stands for the same number.
pub(super) fn internet_checksum(start: u64, bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks();
    let mut sum = start;
    for word in words {
        sum += u64::from(u32::from_be_bytes(*word));
    }
    for pair in rest.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_checksum(start: u8, offset: u8) -> Header {
        Header::parse(&[NEEDS_CSUM, 0, 0, 0, 0, 0, start, 0, offset, 0, 0, 0])
    }

    #[test]
    fn checksum_is_completed_in_place() {
        // The example of RFC 1071 sums to 0xddf2.
        let mut frame = [0xee, 0, 0, 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(with_checksum(1, 0).apply(&mut frame, F_CSUM), Ok(()));
        assert_eq!(frame[..3], [0xee, 0x22, 0x0d]);
    }

    #[test]
    fn odd_byte_counts_as_a_high_byte() {
        assert_eq!(internet_checksum(0, &[0x12, 0x34, 0x56]), !(0x1234 + 0x5600));
    }

    #[test]
    fn checksum_is_never_zero() {
        assert_eq!(internet_checksum(0, &[0xff, 0xff]), 0xffff);
    }

    #[test]
    fn checksum_outside_the_frame_is_refused() {
        let mut frame = [0; 20];
        for (start, offset) in [(21, 0), (20, 0), (10, 9), (0, 255)] {
            assert_eq!(with_checksum(start, offset).apply(&mut frame, F_CSUM), Err(Refused));
        }
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        assert_eq!(with_checksum(0, 0).apply(&mut [0; 20], 0), Err(Refused));
        let segmented = Header::parse(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(segmented.apply(&mut [0; 20], F_CSUM | F_HOST_TSO4), Err(Refused), "without a checksum");
        let mut large = Header::parse(&[NEEDS_CSUM, GSO_TCPV4, 0, 0, 0, 5, 0, 0, 16, 0, 0, 0]);
        assert_eq!(large.segment_size(), Some(1280));
        assert_eq!(large.apply(&mut [0; 20], F_CSUM | F_HOST_TSO6), Err(Refused));
        assert_eq!(large.apply(&mut [0; 20], F_CSUM | F_HOST_TSO4), Ok(()));
        // With congestion notification (bit 7), which isn't offered, or UDP.
        for kind in [GSO_TCPV4 | 0x80, 3, 5] {
            large.gso_type = kind;
            assert_eq!(large.apply(&mut [0; 20], u64::MAX), Err(Refused));
        }
    }
}
