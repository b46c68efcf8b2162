//! Virtqueues, the virtio-mmio transport and the front ends of Rvisor's devices.
#![no_std]
#![forbid(unsafe_code)]
