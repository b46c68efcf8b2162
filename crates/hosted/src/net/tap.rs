//! A tap device of the host as the guest's network: an Ethernet of the host's own, on which the host bridges and routes.
//!
//! Not for making bridges or addresses: that is the administrator's, and so is the device where users may not make one.
//!
//! # Safety
//! Attaching to a device is an `ioctl`, which has no safe name; the rest is reading and writing a descriptor.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Setter, Updater, ioctl};
use rvisor_waist::NetBackend;
use thiserror::Error;

use crate::counters::Transfers;

const DEVICE: &str = "/dev/net/tun";
/// Name of a device that is made because none was named: the kernel puts a number in.
const ANY_NAME: &str = "rvisor%d";
/// Bytes of a device's name, with the NUL behind it (netdevice(7)).
const NAME_SIZE: usize = 16;
/// `TUNSETIFF` (linux/if_tun.h), and `SIOCSIFFLAGS` (linux/sockios.h).
const ATTACH: u32 = 0x4004_54ca;
const BRING_UP: u32 = 0x8914;
/// Ethernet frames, without a header of the kernel's.
const FLAGS: u16 = 0x0002 /* IFF_TAP */ | 0x1000 /* IFF_NO_PI */;
const IS_UP: u16 = 0x0001; // IFF_UP
/// Longest frame that is carried.
const MAX_FRAME: usize = 1 << 16;

/// The beginning of `struct ifreq`: a name, and flags.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; NAME_SIZE],
    flags: u16,
    rest: [u8; 22],
}

/// The name of a tap device, or none: then one is made.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TapName(Option<String>);

/// A name that no device can have.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error(
    "`{0}` is not the name of a network device: use up to 15 letters, digits, hyphens, dots and underscores"
)]
pub struct BadTapName(String);

impl FromStr for TapName {
    type Err = BadTapName;

    fn from_str(text: &str) -> Result<Self, BadTapName> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
        match text {
            "" => Ok(Self(None)),
            "." | ".." => Err(BadTapName(text.into())),
            _ if text.len() < NAME_SIZE && text.bytes().all(allowed) => Ok(Self(Some(text.into()))),
            _ => Err(BadTapName(text.into())),
        }
    }
}

/// Why a tap device can't be used.
#[derive(Debug, Error)]
pub enum TapError {
    /// The host gives nobody devices, or not this user.
    #[error(
        "cannot open {DEVICE} ({0}): tap devices need the kernel module tun, and the right to open that file"
    )]
    Open(io::Error),
    /// The device isn't there, and can't be made.
    #[error(
        "there is no tap device{} that you may use, and you may not make one; let an administrator do \
         `ip tuntap add {} mode tap user $USER && ip link set {} up`",
        .0.as_ref().map(|name| format!(" {name}")).unwrap_or_default(), shown(.0), shown(.0)
    )]
    NotPermitted(Option<String>),
    /// Somebody has it.
    #[error("tap device {} is in use by another program; choose another", shown(.0))]
    Busy(Option<String>),
    /// Anything else.
    #[error("cannot use tap device {}: {}", shown(.0), .1)]
    Attach(Option<String>, io::Error),
}

fn shown(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or("tap0")
}

/// A tap device that is open, and the hardware address of the guest there.
#[derive(Debug)]
pub struct Tap {
    device: File,
    mac: [u8; 6],
}

impl Tap {
    /// Attaches to a device that is there, or makes one, which goes when it is closed, and brings that up.
    ///
    /// # Errors
    /// If the host or its rights forbid that.
    pub fn open(name: &TapName, mac: [u8; 6]) -> Result<Self, TapError> {
        let TapName(name) = name;
        let exists = |name: &String| std::fs::exists(format!("/sys/class/net/{name}")).unwrap_or(false);
        let is_made = !name.as_ref().is_some_and(exists);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file =
            rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|error| TapError::Open(error.into()))?;
        let given = name.as_deref().unwrap_or(ANY_NAME).as_bytes();
        let mut request = Request { name: [0; NAME_SIZE], flags: FLAGS, rest: [0; 22] };
        request.name[..given.len()].copy_from_slice(given);
        // SAFETY: this request reads an `ifreq`, which `Request` is, and writes the name that it has chosen into it.
        match unsafe { ioctl(&file, Updater::<ATTACH, Request>::new(&mut request)) } {
            Ok(()) => {}
            Err(Errno::PERM | Errno::ACCESS) => return Err(TapError::NotPermitted(name.clone())),
            Err(Errno::BUSY) => return Err(TapError::Busy(name.clone())),
            Err(error) => return Err(TapError::Attach(name.clone(), error.into())),
        }
        if is_made {
            bring_up(request).map_err(|error| TapError::Attach(name.clone(), error))?;
        }
        Ok(Self { device: file.into(), mac })
    }

    /// The guest's hardware address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }
}

fn bring_up(mut request: Request) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    request.flags = IS_UP;
    // SAFETY: this request reads an `ifreq`, which `Request` is.
    Ok(unsafe { ioctl(&socket, Setter::<BRING_UP, Request>::new(request)) }?)
}

/// The network behind a tap device. Frames are written by who sends them; a thread waits for those that come.
pub struct TapNetwork {
    device: File,
    buffer: Vec<u8>,
    counters: Arc<Transfers>,
    /// Ends the thread.
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl TapNetwork {
    /// `wake` is called whenever frames have come.
    ///
    /// # Errors
    /// If the host refuses descriptors or a thread.
    pub fn new(tap: &Tap, wake: Arc<dyn Fn() + Send + Sync>) -> io::Result<Self> {
        let device = tap.device.try_clone()?;
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (waits, ends) = (device.try_clone()?, Arc::clone(&end));
        let thread =
            thread::Builder::new().name("network".into()).spawn(move || watch(&waits, &ends, &*wake))?;
        let (buffer, counters) = (vec![0; MAX_FRAME], Arc::default());
        Ok(Self { device, buffer, counters, end, thread: Some(thread) })
    }

    /// What the guest has sent and received.
    #[must_use]
    pub fn counters(&self) -> Arc<Transfers> {
        Arc::clone(&self.counters)
    }
}

/// Calls `wake` when frames have come, until the end is told.
fn watch(device: &File, end: &OwnedFd, wake: &(dyn Fn() + Send + Sync)) {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    const DEVICE: u64 = 0;
    const END: u64 = 1;
    let run = || -> io::Result<()> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        // Told once for what has come: the device takes all of it, or comes back when it has room again.
        epoll::add(&set, device, EventData::new_u64(DEVICE), EventFlags::IN | EventFlags::ET)?;
        epoll::add(&set, end, EventData::new_u64(END), EventFlags::IN)?;
        loop {
            let mut buffer = [const { MaybeUninit::uninit() }; 2];
            let events = match epoll::wait(&set, &mut buffer[..], None) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in events.iter() {
                // The struct is packed: copied out before it is looked at.
                let data = event.data;
                match data.u64() {
                    END => return Ok(()),
                    _ => wake(),
                }
            }
        }
    };
    if let Err(error) = run() {
        log::error!("the network has stopped: {error}");
    }
}

impl NetBackend for TapNetwork {
    fn send(&mut self, frame: &[u8]) {
        // Lost where the host has no room, or the device is down, as on a cable.
        if self.device.write(frame).is_ok() {
            self.counters.outgoing.count(frame.len() as u64);
        }
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let Ok(length @ 1..) = self.device.read(&mut self.buffer) else { return false };
        frame.clear();
        frame.extend_from_slice(&self.buffer[..length]);
        self.counters.incoming.count(length as u64);
        true
    }
}

impl Drop for TapNetwork {
    fn drop(&mut self) {
        // It fails only where the counter is full, and then the thread wakes too.
        let _ = rustix::io::write(&*self.end, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic handler; there is nothing to add.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_devices_can_have() {
        for text in ["", "tap0", "br-lan.7", "fifteen_letters"] {
            assert!(text.parse::<TapName>().is_ok(), "{text}");
        }
        for text in ["sixteen_letters_", "a/b", "a b", "rvisor%d", "..", "."] {
            assert!(text.parse::<TapName>().is_err(), "{text}");
        }
    }

    #[test]
    fn refusal_says_what_to_do_in_one_line() {
        for name in [None, Some("lan".to_owned())] {
            let text = TapError::NotPermitted(name).to_string();
            assert!(text.contains("ip tuntap add") && !text.contains('\n'), "{text}");
        }
    }
}
