//! The specification's numbers (virtio 1.2). Sizes are bytes unless a name says otherwise.

/// `VIRTQ_DESC_F_NEXT` (2.7.5)
pub const DESC_NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the device writes (2.7.5)
pub const DESC_WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT` (2.7.5)
pub const DESC_INDIRECT: u16 = 4;
/// `VIRTQ_DESC_F_AVAIL` of packed rings (2.8.1)
pub const PACKED_AVAIL: u16 = 1 << 7;
/// `VIRTQ_DESC_F_USED` of packed rings
pub const PACKED_USED: u16 = 1 << 15;
/// `RING_EVENT_FLAGS_ENABLE` (2.8.10)
pub const EVENT_ENABLE: u16 = 0;
/// `RING_EVENT_FLAGS_DISABLE`
pub const EVENT_DISABLE: u16 = 1;
/// `RING_EVENT_FLAGS_DESC`
pub const EVENT_DESC: u16 = 2;
/// Bytes of one descriptor.
pub const DESC_BYTES: u64 = 16;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (2.7.6)
pub const AVAIL_NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY` (2.7.8)
pub const USED_NO_NOTIFY: u16 = 1;
/// The largest ring (2.7).
pub const RING_SIZE_MAX: u32 = 32_768;
/// The most descriptors that one chain may have, indirect ones counted: what Linux and QEMU allow as well.
pub const CHAIN_DESCRIPTORS_MAX: u32 = 1_026;

/// `VIRTIO_BLK_T_IN` (5.2.6)
pub const T_IN: u32 = 0;
/// `VIRTIO_BLK_T_OUT`
pub const T_OUT: u32 = 1;
/// `VIRTIO_BLK_T_FLUSH`
pub const T_FLUSH: u32 = 4;
/// `VIRTIO_BLK_T_GET_ID`
pub const T_GET_ID: u32 = 8;
/// `VIRTIO_BLK_T_DISCARD`
pub const T_DISCARD: u32 = 11;
/// `VIRTIO_BLK_T_WRITE_ZEROES`
pub const T_WRITE_ZEROES: u32 = 13;
/// Bytes of a request's header: type, reserved, sector.
pub const HEADER_BYTES: usize = 16;
/// Bytes of a range of discard and write zeroes: sector, sectors, flags.
pub const RANGE_BYTES: usize = 16;
/// `VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP`
pub const RANGE_UNMAP: u32 = 1;
/// Bytes of a device's name.
pub const ID_BYTES: usize = 20;
/// `VIRTIO_BLK_S_OK`
pub const S_OK: u8 = 0;
/// `VIRTIO_BLK_S_IOERR`
pub const S_IOERR: u8 = 1;
/// `VIRTIO_BLK_S_UNSUPP`
pub const S_UNSUPP: u8 = 2;

/// `VIRTIO_BLK_F_SIZE_MAX` as a bit number (5.2.3), and so on.
pub const F_SIZE_MAX: u32 = 1;
/// `VIRTIO_BLK_F_SEG_MAX`
pub const F_SEG_MAX: u32 = 2;
/// `VIRTIO_BLK_F_RO`
pub const F_RO: u32 = 5;
/// `VIRTIO_BLK_F_BLK_SIZE`
pub const F_BLK_SIZE: u32 = 6;
/// `VIRTIO_BLK_F_FLUSH`
pub const F_FLUSH: u32 = 9;
/// `VIRTIO_BLK_F_TOPOLOGY`
pub const F_TOPOLOGY: u32 = 10;
/// `VIRTIO_BLK_F_CONFIG_WCE`
pub const F_CONFIG_WCE: u32 = 11;
/// `VIRTIO_BLK_F_MQ`
pub const F_MQ: u32 = 12;
/// `VIRTIO_BLK_F_DISCARD`
pub const F_DISCARD: u32 = 13;
/// `VIRTIO_BLK_F_WRITE_ZEROES`
pub const F_WRITE_ZEROES: u32 = 14;
/// `VIRTIO_F_INDIRECT_DESC` (6)
pub const F_INDIRECT_DESC: u32 = 28;
/// `VIRTIO_F_EVENT_IDX`
pub const F_EVENT_IDX: u32 = 29;
/// `VHOST_USER_F_PROTOCOL_FEATURES` (vhost-user specification, "Feature negotiation")
pub const F_PROTOCOL_FEATURES: u32 = 30;
/// `VIRTIO_F_VERSION_1`
pub const F_VERSION_1: u32 = 32;
/// `VIRTIO_F_RING_PACKED`
pub const F_RING_PACKED: u32 = 34;

/// Data segments that a request may have: a ring of 128 without indirect descriptors has room for them, header and status.
pub const SEG_MAX: u32 = 126;
/// Bytes that a data segment may have.
pub const SIZE_MAX: u32 = 1 << 20;
/// Data bytes that a request may have, however it is laid out. Not less than [`SEG_MAX`] × [`SIZE_MAX`].
pub const REQUEST_BYTES_MAX: u64 = 128 << 20;
/// Ranges that a discard or write zeroes may have.
pub const RANGES_MAX: u32 = 32;
/// Sectors that a range of discard or write zeroes may have: 2 GiB.
pub const RANGE_SECTORS_MAX: u32 = 1 << 22;
