//! A connection to a backend: its sockets, with as many queues as a case wants.

use std::io;
use std::time::Duration;

use legwatch::clock;
use virtio_driver::{
    VhostUser, VirtioBlkConfig, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkReqBuf,
    VirtioBlkTransport, VirtioFeatureFlags, virtio_blk_max_queues,
};

use crate::failure::{Failure, during};
use crate::lane::Lane;

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wiring {
    pub(crate) queue_size: u16,
    pub(crate) packed: bool,
    pub(crate) event_idx: bool,
    pub(crate) busy_poll: bool,
    /// The client's buffers for each queue.
    pub(crate) arena_bytes: usize,
}

/// Connected sockets; the lanes go first when it is dropped, as they use the transports' memory.
pub(crate) struct Session {
    pub(crate) lanes: Vec<Lane>,
    /// Bytes on the smallest device.
    pub(crate) capacity_bytes: u64,
    _devices: Vec<Box<VirtioBlkTransport>>,
}

impl Session {
    /// Connects to one socket, or to the two of a mirror.
    pub(crate) fn connect(
        sockets: &[&str],
        queues: usize,
        wiring: &Wiring,
    ) -> Result<Session, Failure> {
        let mut features = VirtioFeatureFlags::VERSION_1.bits()
            | VirtioBlkFeatureFlags::FLUSH.bits()
            | VirtioBlkFeatureFlags::BLK_SIZE.bits()
            | VirtioBlkFeatureFlags::MQ.bits();
        if wiring.event_idx {
            features |= VirtioFeatureFlags::RING_EVENT_IDX.bits();
        }
        if wiring.packed {
            features |= VirtioFeatureFlags::RING_PACKED.bits();
        }
        let mut devices: Vec<Box<VirtioBlkTransport>> = Vec::new();
        let mut queues_by_device = Vec::new();
        let mut capacity_bytes = u64::MAX;
        for socket in sockets {
            let device =
                open(socket, features).map_err(during(format!("connecting to {socket}")))?;
            let mut device: Box<VirtioBlkTransport> = Box::new(device);
            if wiring.packed && device.get_features() & VirtioFeatureFlags::RING_PACKED.bits() == 0
            {
                return Err(Failure::Backend("it offers no packed rings".to_owned()));
            }
            let most = virtio_blk_max_queues(&*device)
                .map_err(during("asking for the number of queues"))?;
            if most < queues {
                return Err(Failure::Backend(format!(
                    "it offers {most} queues, the case wants {queues}"
                )));
            }
            let config = device
                .get_config()
                .map_err(during("reading the configuration"))?;
            let sectors = u64::from(config.capacity);
            capacity_bytes = capacity_bytes.min(sectors * 512);
            queues_by_device.push(
                VirtioBlkQueue::setup_queues(&mut *device, queues, wiring.queue_size)
                    .map_err(during("setting up the queues"))?
                    .into_iter(),
            );
            devices.push(device);
        }
        let mut lanes = Vec::new();
        for index in 0..queues {
            let queue_each = queues_by_device
                .iter_mut()
                .filter_map(Iterator::next)
                .collect();
            lanes.push(Lane::new(
                &mut devices,
                queue_each,
                index,
                wiring.arena_bytes,
                wiring.busy_poll,
            )?);
        }
        Ok(Session {
            lanes,
            capacity_bytes,
            _devices: devices,
        })
    }
}

/// Connects, and tries again for a while where the socket is there but nobody accepts yet.
fn open(socket: &str, features: u64) -> io::Result<VhostUser<VirtioBlkConfig, VirtioBlkReqBuf>> {
    let start = clock::now();
    loop {
        match VhostUser::new(socket, features) {
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && start.elapsed() < Duration::from_secs(5) =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}
