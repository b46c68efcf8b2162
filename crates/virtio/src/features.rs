//! Feature bits that belong to no device type (Virtio 1.3, "Reserved Feature Bits").

/// `VIRTIO_F_INDIRECT_DESC`: a descriptor may refer to a table of descriptors.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`: each side names the entry that it wants to be notified of.
pub const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`: the driver follows version 1.0 or later; a driver that doesn't is refused.
pub const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_RING_PACKED`: the queues are packed instead of split.
pub const RING_PACKED: u64 = 1 << 34;
