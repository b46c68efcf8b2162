//! Putting fragmented IP packets together (RFC 791; RFC 8200, 4.5), for large UDP datagrams and pings.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::wire::IpProtocol;

use super::wire::Fragment;

/// Most packets being put together at once.
const MAX_PACKETS: usize = 4;
/// Largest payload of an IP packet.
const MAX_PAYLOAD: usize = 65_515;
/// How long parts are kept (RFC 791 suggests 15 s).
const PATIENCE: Duration = Duration::from_secs(15);
/// Fragments begin at multiples of this many bytes.
const BLOCK: usize = 8;

/// Packets of which some parts have arrived.
#[derive(Default)]
pub(super) struct Reassembly(Vec<Partial>);

/// A packet put together.
pub(super) struct Whole {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: IpProtocol,
    pub(super) payload: Vec<u8>,
}

struct Partial {
    ident: u32,
    whole: Whole,
    /// Which blocks of the payload have arrived.
    arrived: Vec<bool>,
    bytes: usize,
    /// Bytes in the payload, once the last part has arrived.
    total: Option<usize>,
    started: Instant,
}

impl Reassembly {
    /// Adds a part; gives the packet that it completes. Parts that overlap or contradict each other spoil
    /// their packet.
    pub(super) fn add(&mut self, part: &Fragment<'_>, now: Instant) -> Option<Whole> {
        self.0.retain(|partial| now.duration_since(partial.started) < PATIENCE);
        let index = self.0.iter().position(|partial| partial.matches(part)).unwrap_or_else(|| {
            if self.0.len() == MAX_PACKETS {
                self.0.remove(0);
            }
            self.0.push(Partial::new(part, now));
            self.0.len() - 1
        });
        let partial = &mut self.0[index];
        if partial.add(part).is_none() {
            self.0.remove(index);
            return None;
        }
        (partial.total == Some(partial.bytes)).then(|| self.0.remove(index).whole)
    }
}

impl Partial {
    fn new(part: &Fragment<'_>, now: Instant) -> Self {
        let &Fragment { source, destination, protocol, ident, .. } = part;
        let whole = Whole { source, destination, protocol, payload: Vec::new() };
        Self { ident, whole, arrived: Vec::new(), bytes: 0, total: None, started: now }
    }

    fn matches(&self, part: &Fragment<'_>) -> bool {
        self.ident == part.ident
            && self.whole.source == part.source
            && self.whole.destination == part.destination
            && self.whole.protocol == part.protocol
    }

    /// Adds a part; `None` if it doesn't fit.
    fn add(&mut self, part: &Fragment<'_>) -> Option<()> {
        let end = part.offset + part.payload.len();
        let odd = part.more && !part.payload.len().is_multiple_of(BLOCK);
        if part.payload.is_empty() || end > MAX_PAYLOAD || odd {
            return None;
        }
        if !part.more && self.total.replace(end).is_some() {
            return None;
        }
        let blocks = part.offset / BLOCK..end.div_ceil(BLOCK);
        if self.arrived.len() < blocks.end {
            self.arrived.resize(blocks.end, false);
            self.whole.payload.resize(end.max(self.whole.payload.len()), 0);
        }
        if self.total.is_some_and(|total| self.whole.payload.len() > total) {
            return None;
        }
        let arrived = &mut self.arrived[blocks];
        if arrived.iter().any(|arrived| *arrived) {
            return None;
        }
        arrived.fill(true);
        self.whole.payload[part.offset..end].copy_from_slice(part.payload);
        self.bytes += part.payload.len();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: usize, more: bool, payload: &[u8]) -> Fragment<'_> {
        let (source, destination) = (IpAddr::from([10, 0, 2, 15]), IpAddr::from([10, 0, 2, 2]));
        Fragment { source, destination, protocol: IpProtocol::Udp, ident: 9, offset, more, payload }
    }

    fn add(reassembly: &mut Reassembly, part: &Fragment<'_>) -> Option<Vec<u8>> {
        reassembly.add(part, Instant::now()).map(|whole| whole.payload)
    }

    #[test]
    fn parts_in_any_order_make_the_packet() {
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, &part(16, false, b"end")), None);
        assert_eq!(add(&mut reassembly, &part(0, true, b"01234567")), None);
        let whole = add(&mut reassembly, &part(8, true, b"89abcdef"));
        assert_eq!(whole.as_deref(), Some(&b"0123456789abcdefend"[..]));
        assert!(reassembly.0.is_empty());
    }

    #[test]
    fn parts_that_do_not_fit_spoil_the_packet() {
        let first = part(0, true, b"0123456789abcdef");
        let bad = [
            part(8, true, b"overlaps"),
            part(8, false, b"overlap"),
            part(16, true, b"odd"),
            part(65_512, false, b"too long"),
            part(16, true, b""),
        ];
        for bad in bad {
            let mut reassembly = Reassembly::default();
            assert_eq!(add(&mut reassembly, &first), None);
            assert_eq!(add(&mut reassembly, &bad), None);
            assert!(reassembly.0.is_empty());
        }
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, &part(8, false, b"x")), None);
        assert_eq!(add(&mut reassembly, &part(16, true, b"past end")), None);
        assert!(reassembly.0.is_empty());
    }

    #[test]
    fn unfinished_packets_are_few_and_forgotten() {
        let mut reassembly = Reassembly::default();
        for ident in 0..100 {
            reassembly.add(&Fragment { ident, ..part(0, true, b"01234567") }, Instant::now());
            assert!(reassembly.0.len() <= MAX_PACKETS);
        }
        let later = Instant::now() + PATIENCE;
        reassembly.add(&part(0, true, b"01234567"), later);
        assert_eq!(reassembly.0.len(), 1);
    }
}
