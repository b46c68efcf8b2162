//! A host on a network: answers pings, sends some to its peers, and says what is typed, until that is `end`.

use core::str;

use crate::csr::{self, EXTERNAL, TICKS_PER_MILLISECOND, TIMER, time};
use crate::ip::{Address, Host, Mac, Meaning, address};
use crate::net::{Card, Frame, MOST};
use crate::{plic, println, sbi, uart};

/// Pings that each peer has to answer.
const PINGS: u16 = 3;
/// Ticks between two tries.
const PAUSE: u64 = 200 * TICKS_PER_MILLISECOND;
const MOST_PEERS: usize = 8;
const MOST_TYPED: usize = 256;

#[derive(Clone, Copy, Default)]
struct Peer {
    address: Address,
    mac: Option<Mac>,
    answers: u16,
}

/// What was typed.
struct Typed {
    bytes: [u8; MOST_TYPED],
    length: usize,
    /// Where the last line begins.
    line: usize,
}

/// Works until the word comes. `own` is this host's address, `peers` are those of others, with commas between.
pub fn run(mut card: Card, own: &str, peers: &str) {
    let Some(own) = address(own) else { return println!("kernel: FAILED: no address: {own}") };
    let host = Host { mac: card.address(), address: own };
    let mut places = [Peer::default(); MOST_PEERS];
    let mut count = 0;
    for (place, address) in places.iter_mut().zip(peers.split(',').filter_map(address)) {
        place.address = address;
        count += 1;
    }
    let peers = &mut places[..count];
    let mut typed = Typed { bytes: [0; MOST_TYPED], length: 0, line: 0 };
    let (mut frame, mut out): (Frame, Frame) = ([0; MOST], [0; MOST]);
    let mut next = 0;
    uart::listen();
    plic::enable(card.source() | uart::SOURCE);
    println!("kernel: is {own:?}");
    loop {
        while let Some(length) = card.receive(&mut frame) {
            match host.take(&frame[..length], &mut out) {
                Some(Meaning::Answer(length)) => send(&mut card, &out[..length]),
                Some(Meaning::Place(address, mac)) => found(peers, address, mac),
                Some(Meaning::Echo(address, number)) => answered(peers, address, number),
                None => {}
            }
        }
        if time() >= next {
            for peer in peers.iter().filter(|peer| peer.answers < PINGS) {
                let length = match peer.mac {
                    None => host.ask(peer.address, &mut out),
                    Some(mac) => host.ping(mac, peer.address, peer.answers, &mut out),
                };
                send(&mut card, &out[..length]);
            }
            next = if peers.iter().all(|peer| peer.answers == PINGS) { u64::MAX } else { time() + PAUSE };
            sbi::set_timer(next);
        }
        csr::wait_for(EXTERNAL | TIMER);
        let mut is_end = false;
        plic::serve(|source| match 1 << source {
            uart::SOURCE => is_end |= uart::read().is_some_and(|key| typed.key(key)),
            _ => card.acknowledge(),
        });
        if is_end {
            return;
        }
    }
}

fn send(card: &mut Card, frame: &[u8]) {
    if !card.send(frame) {
        println!("kernel: FAILED: the card doesn't take a frame");
    }
}

fn found(peers: &mut [Peer], address: Address, mac: Mac) {
    peers.iter_mut().filter(|peer| peer.address == address).for_each(|peer| peer.mac = Some(mac));
}

fn answered(peers: &mut [Peer], address: Address, number: u16) {
    for peer in peers.iter_mut().filter(|peer| peer.address == address && peer.answers == number) {
        peer.answers += 1;
        if peer.answers == PINGS {
            println!("kernel: {address:?} answers");
        }
    }
}

impl Typed {
    /// Takes a key. True if that ended a line which is the word for the end.
    fn key(&mut self, key: u8) -> bool {
        if key != b'\r' {
            if self.length < MOST_TYPED {
                self.bytes[self.length] = key;
                self.length += 1;
            }
            return false;
        }
        let line = str::from_utf8(&self.bytes[self.line..self.length]).unwrap_or("?");
        println!("kernel: heard {line}");
        if line == "end" {
            println!("kernel: all heard: {}", str::from_utf8(&self.bytes[..self.length]).unwrap_or("?"));
            return true;
        }
        if self.length < MOST_TYPED {
            self.bytes[self.length] = b' ';
            self.length += 1;
        }
        self.line = self.length;
        false
    }
}
