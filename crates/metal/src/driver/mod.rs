//! Drivers of physical devices. What guests see of devices is in `rvisor_virtio` and `rvisor_devices`; what stands
//! between the two is in [`backend`](crate::backend).

pub mod blk;
pub mod net;
pub mod plic;
pub mod rng;
