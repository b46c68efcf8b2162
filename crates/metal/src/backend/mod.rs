//! What serves guests' devices: ranges of the physical disk, a switch between guests and the physical card, random
//! bytes. Front ends are those of `rvisor_virtio`; drivers of physical devices are in `driver`.
//!
//! A back end that has something for a guest says so with [`Ready`]; the home then lets the guest's device look. It
//! never calls a front end itself: it may have been called by one.

pub mod area;
pub mod disk;
pub mod drive;
pub mod entropy;
pub mod nobody;
pub mod switch;

/// A device of a guest that is served here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// Its disk.
    Disk,
    /// Its network card.
    Network,
    /// Its virtio console, where that is its line to the terminal.
    Console,
}

/// Says that a guest's device is to look at its back end.
pub type Ready = fn(guest: usize, device: Served);
