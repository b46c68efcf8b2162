//! Cuts a large TCP segment, as drivers leave them to the device (Virtio 1.3, 5.1.6.2), into packets that any network takes.

use alloc::vec::Vec;

use super::header::{Refused, internet_checksum};

const ETHERNET: usize = 14;
/// Where the type stands in an Ethernet header.
const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
/// Flags of TCP that the last segment alone has (FIN, PSH), and the first one (CWR: RFC 3168, 6.1.2).
const LAST: u8 = 0x09;
const FIRST: u8 = 0x80;

/// Where things stand in the frame.
struct Layout {
    is_ipv6: bool,
    /// The TCP header, and what it carries.
    tcp: usize,
    data: usize,
}

impl Layout {
    fn find(frame: &[u8]) -> Option<Self> {
        let is_ipv6 = match frame.get(ETHERTYPE..ETHERNET)? {
            kind if kind == IPV4 => false,
            kind if kind == IPV6 => true,
            _ => return None,
        };
        let ip = frame.get(ETHERNET..)?;
        let (header, protocol) = match is_ipv6 {
            false => (usize::from(ip.first()? & 15) * 4, *ip.get(9)?),
            true => (40, *ip.get(6)?),
        };
        let is_short = !is_ipv6 && header < 20;
        let tcp = ETHERNET + header;
        let data = tcp + usize::from(frame.get(tcp + 12)? >> 4) * 4;
        let fits = data >= tcp + 20 && data <= frame.len();
        (protocol == TCP && !is_short && fits).then_some(Self { is_ipv6, tcp, data })
    }

    /// Sets lengths, number and checksums of a packet that is the `number`th.
    fn seal(&self, packet: &mut [u8], number: u16) {
        let length = packet.len() - ETHERNET;
        let segment = packet.len() - self.tcp;
        if self.is_ipv6 {
            packet[18..20].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        } else {
            packet[16..18].copy_from_slice(&(length as u16).to_be_bytes());
            let ident = u16::from_be_bytes([packet[18], packet[19]]).wrapping_add(number);
            packet[18..20].copy_from_slice(&ident.to_be_bytes());
            packet[24..26].fill(0);
            let sum = internet_checksum(0, &packet[ETHERNET..self.tcp]);
            packet[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let addresses = if self.is_ipv6 { 22..54 } else { 26..34 };
        let pseudo = u64::from(TCP) + segment as u64 + word_sum(&packet[addresses]);
        packet[self.tcp + 16..self.tcp + 18].fill(0);
        let sum = internet_checksum(pseudo, &packet[self.tcp..]);
        packet[self.tcp + 16..self.tcp + 18].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The sum of big-endian words of 16 bits, of which there is a whole number.
fn word_sum(bytes: &[u8]) -> u64 {
    bytes.as_chunks().0.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum()
}

/// Gives `send` the packets of a frame with `size` bytes of data each, made in `packet`.
///
/// # Errors
/// If it isn't TCP in one IP packet without extension headers, or there is no size.
pub(super) fn cut(
    frame: &[u8],
    size: usize,
    packet: &mut Vec<u8>,
    mut send: impl FnMut(&[u8]),
) -> Result<(), Refused> {
    let layout = Layout::find(frame).filter(|_| size > 0).ok_or(Refused)?;
    let (headers, data) = frame.split_at(layout.data);
    let sequence = u32::from_be_bytes(*headers[layout.tcp + 4..].first_chunk().ok_or(Refused)?);
    let flags = headers[layout.tcp + 13];
    let count = data.len().div_ceil(size).max(1);
    for number in 0..count {
        let start = number * size;
        packet.clear();
        packet.extend_from_slice(headers);
        packet.extend_from_slice(&data[start..data.len().min(start + size)]);
        let at = sequence.wrapping_add(start as u32).to_be_bytes();
        packet[layout.tcp + 4..layout.tcp + 8].copy_from_slice(&at);
        let first = if number == 0 { FIRST } else { 0 };
        let last = if number + 1 == count { LAST } else { 0 };
        packet[layout.tcp + 13] = flags & (first | last | !(FIRST | LAST));
        layout.seal(packet, number as u16);
        send(packet);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn frame(is_ipv6: bool, data: &[u8]) -> Vec<u8> {
        let mut tcp =
            vec![0x12, 0x34, 0, 80, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x60, 0x99, 1, 0, 0, 0, 0, 0];
        tcp.extend([1, 1, 1, 0]);
        tcp.extend(data);
        let mut frame = vec![7; 12];
        if is_ipv6 {
            frame.extend(IPV6);
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((tcp.len() as u16).to_be_bytes());
            frame.extend([TCP, 64]);
            frame.extend([0xfd; 32]);
        } else {
            frame.extend(IPV4);
            frame.extend([0x45, 0]);
            frame.extend((20 + tcp.len() as u16).to_be_bytes());
            frame.extend([0xff, 0xff, 0x40, 0, 64, TCP, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        }
        frame.extend(tcp);
        frame
    }

    fn pieces(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        cut(frame, size, &mut Vec::new(), |piece| pieces.push(piece.to_vec())).unwrap();
        pieces
    }

    #[test]
    fn pieces_carry_all_data_with_right_numbers_lengths_and_checksums() {
        let data: Vec<u8> = (0..3001).map(|i| (i % 251) as u8).collect();
        for (is_ipv6, ip) in [(false, 20), (true, 40)] {
            let pieces = pieces(&frame(is_ipv6, &data), 1448);
            assert_eq!(pieces.len(), 3);
            let mut found: Vec<u8> = Vec::new();
            for (number, piece) in pieces.iter().enumerate() {
                let tcp = 14 + ip;
                let sequence = u32::from_be_bytes(*piece[tcp + 4..].first_chunk().unwrap());
                assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(found.len() as u32));
                assert_eq!(piece[tcp + 13], [0x90, 0x10, 0x19][number]);
                let told = if is_ipv6 { &piece[18..20] } else { &piece[16..18] };
                let length = piece.len() - if is_ipv6 { 54 } else { 14 };
                assert_eq!(told, (length as u16).to_be_bytes());
                let addresses = if is_ipv6 { &piece[22..54] } else { &piece[26..34] };
                let pseudo = 6 + (piece.len() - tcp) as u64 + word_sum(addresses);
                // A sum over what includes its own complement is nothing.
                assert_eq!(internet_checksum(pseudo, &piece[tcp..]), 0xffff);
                if !is_ipv6 {
                    assert_eq!(piece[18..20], (0xffff_u16.wrapping_add(number as u16)).to_be_bytes());
                    assert_eq!(internet_checksum(0, &piece[14..34]), 0xffff);
                }
                found.extend(&piece[tcp + 24..]);
            }
            assert!(found == data);
        }
    }

    #[test]
    fn what_fits_stays_one_piece() {
        for data in [&b""[..], b"x", &[1; 1448]] {
            let whole = pieces(&frame(false, data), 1448);
            assert_eq!((whole.len(), whole[0].len()), (1, 58 + data.len()));
            assert_eq!(whole[0][34 + 13], 0x99);
        }
    }

    #[test]
    fn what_is_no_tcp_is_refused_and_no_byte_is_read_that_is_not_there() {
        let whole = frame(false, &[0; 100]);
        let refused = |frame: &[u8], size| cut(frame, size, &mut Vec::new(), |_| ()).is_err();
        assert!(refused(&whole, 0));
        for (place, value) in [(12, 0), (14, 0x44), (14, 0x4f), (23, 17), (46, 0x40), (46, 0xf0)] {
            let mut frame = whole[..58].to_vec();
            frame[place] = value;
            assert!(refused(&frame, 10), "{place}");
        }
        for length in 0..58 {
            assert!(refused(&whole[..length], 10), "{length}");
        }
    }
}
