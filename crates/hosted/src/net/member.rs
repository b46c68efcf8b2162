//! A machine's place on a named network: a number, and a socket over which other machines' frames come.
//!
//! The network is a directory of the store. A member holds the lock on the file that has its number for a name, and
//! in which its name is written, and is bound to the datagram socket `ID-NUMBER` beside it. Number and prefix make
//! its IP addresses and its hardware address, so that nobody has to ask who is where; whether its guest has the IPv6 address
//! yet is in the file's second line. A frame goes straight to the
//! socket of the member that it is for; one for all goes to every socket there is. There is no switch, and nobody
//! who would have to be there.
//!
//! A member's process can't make Unix sockets once it is confined, so the address that a datagram comes from tells
//! truly who sent it: members take no frames with others' addresses, and none from another network's members.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::addresses::{Addresses, in_prefix, interface_identifier};

/// Numbers that members have; those below are the gateway's and the DNS server's, and some to spare.
pub const NUMBERS: std::ops::RangeInclusive<u8> = 10..=254;

/// Begins the hardware addresses of members: locally administered.
const MAC: [u8; 2] = [0x52, 0x56];

/// The line of a member's file that says that the guest has its IPv6 address.
const HAS_IPV6: &str = "ipv6";

/// A named network.
#[derive(Clone, Debug)]
pub struct PrivateNetwork {
    /// Its name.
    pub name: String,
    /// What its members' sockets are told by from those of other networks: letters and digits.
    pub id: String,
    /// The first three bytes of its addresses.
    pub prefix: [u8; 3],
    /// Whether nothing leads out of it.
    pub internal: bool,
    /// Its directory.
    pub path: PathBuf,
}

/// A machine on a named network. Dropping it gives its number free.
#[derive(Debug)]
pub struct Member {
    pub(super) network: PrivateNetwork,
    pub(super) number: u8,
    pub(super) socket: UnixDatagram,
    directory: File,
    claim: File,
}

/// A member as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The machine's name.
    pub name: String,
    /// The last byte of its IPv4 address.
    pub number: u8,
    /// Whether its guest has shown that it has the IPv6 address made of its hardware address.
    pub has_ipv6: bool,
}

/// What a guest has to know to be on a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its IP address.
    pub address: Ipv4Addr,
    /// Bits of the network's prefix.
    pub prefix: u8,
    /// Who leads out, if somebody does.
    pub router: Option<Ipv4Addr>,
    /// The DNS server.
    pub dns: Ipv4Addr,
}

impl Member {
    /// Joins `network` as `name`.
    ///
    /// # Errors
    /// If all numbers are taken, or the host refuses.
    pub fn join(network: &PrivateNetwork, name: &str) -> io::Result<Self> {
        let directory = File::open(&network.path)?;
        let (number, claim) = claim(&network.path, name)?;
        let path = in_directory(&directory, &socket_name(&network.id, number));
        // A process that was killed left it: the lock is ours.
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { network: network.clone(), number, socket, directory, claim })
    }

    /// Its hardware address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        mac(self.network.prefix, self.number)
    }

    /// Its place on the network, as a guest is told it that has another one.
    #[must_use]
    pub fn place(&self) -> Place {
        let Addresses { gateway, dns, guest, .. } = self.addresses();
        let router = (!self.network.internal).then_some(gateway);
        Place { mac: self.mac(), address: guest, prefix: Addresses::PREFIX, router, dns }
    }

    /// Its IP address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.addresses().guest
    }

    /// Where its network is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.network.path
    }

    pub(super) fn addresses(&self) -> Addresses {
        Addresses::shared(self.network.prefix, self.number)
    }

    /// Where member `number` takes frames.
    pub(super) fn socket_of(&self, number: u8) -> PathBuf {
        in_directory(&self.directory, &socket_name(&self.network.id, number))
    }

    /// The member whose socket has this path; `None` if it isn't one of this network.
    pub(super) fn number_of(&self, path: &Path) -> Option<u8> {
        let (id, number) = path.file_name()?.to_str()?.rsplit_once('-')?;
        number.parse().ok().filter(|_| id == self.network.id)
    }

    /// Numbers of members that there are or were.
    pub(super) fn others(&self) -> Vec<u8> {
        let Ok(entries) = fs::read_dir(in_directory(&self.directory, "")) else { return Vec::new() };
        let numbers = entries.flatten().filter_map(|entry| self.number_of(Path::new(&entry.file_name())));
        numbers.filter(|number| *number != self.number).collect()
    }

    /// Members by name, this one too.
    pub(super) fn names(&self) -> Vec<Listed> {
        members(&in_directory(&self.directory, ""))
    }

    /// Lets its name lead to its IPv6 address, too, or no more.
    pub(super) fn announce_ipv6(&self, has_ipv6: bool) -> io::Result<()> {
        let (mut claim, mut text) = (&self.claim, String::new());
        claim.seek(SeekFrom::Start(0))?;
        claim.read_to_string(&mut text)?;
        if has_ipv6 {
            return claim.write_all(format!("{HAS_IPV6}\n").as_bytes());
        }
        claim.set_len(name_in(&text).len() as u64 + 1)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // In its sandbox it can't; then who takes the number next removes it.
        let _ = fs::remove_file(self.socket_of(self.number));
    }
}

/// The addresses of a member: the one leased to it, and the one that it makes itself of its hardware address.
pub(super) fn addresses(prefix: [u8; 3], number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = in_prefix(prefix, interface_identifier(mac(prefix, number)));
    (Addresses::shared(prefix, number).guest, v6)
}

/// The hardware address of a member.
pub(super) fn mac([a, b, c]: [u8; 3], number: u8) -> [u8; 6] {
    [MAC[0], MAC[1], a, b, c, number]
}

fn socket_name(id: &str, number: u8) -> String {
    format!("{id}-{number}")
}

/// Short enough for a socket's address, wherever the directory is.
fn in_directory(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// The members of a network that are there, by name.
#[must_use]
pub fn members(directory: &Path) -> Vec<Listed> {
    let mut members = Vec::new();
    for number in NUMBERS {
        let path = directory.join(number.to_string());
        let Ok(file) = File::open(&path) else { continue };
        // Free: nobody is there.
        if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            continue;
        }
        if let Ok(text) = fs::read_to_string(&path) {
            let has_ipv6 = text.lines().skip(1).any(|line| line == HAS_IPV6);
            members.push(Listed { name: name_in(&text).to_owned(), number, has_ipv6 });
        }
    }
    members
}

/// The name in a member's file.
fn name_in(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Lets the machine that was called `old` keep its number as `new`, whether it is there or not.
///
/// # Errors
/// If the host refuses.
pub fn rename_member(directory: &Path, old: &str, new: &str) -> io::Result<()> {
    for number in NUMBERS {
        let path = directory.join(number.to_string());
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if name_in(&text) == old {
            // Its lock is the process's, so the file stays; the end of a longer name is covered, since others may read
            // it now.
            let mut changed = [new, &text[old.len()..]].concat().into_bytes();
            changed.resize(changed.len().max(text.len()), b'\n');
            File::options().write(true).open(&path)?.write_all(&changed)?;
        }
    }
    Ok(())
}

/// Takes a number: the one that this name had before, if it is free.
fn claim(directory: &Path, name: &str) -> io::Result<(u8, File)> {
    let had = |number: &u8| {
        fs::read_to_string(directory.join(number.to_string())).is_ok_and(|text| name_in(&text) == name)
    };
    let unused = |number: &u8| !directory.join(number.to_string()).exists();
    let candidates = NUMBERS.filter(had).chain(NUMBERS.filter(unused)).chain(NUMBERS);
    for number in candidates {
        let path = directory.join(number.to_string());
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {
                fs::write(&path, format!("{name}\n"))?;
                return Ok((number, file));
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other("all its addresses are taken"))
}
