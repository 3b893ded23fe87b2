//! One connection's state, and what each message does to it (vhost-user specification, "Front-end message types").

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, Result, VhostUserBackendReqHandlerMut};
use vmm_sys_util::eventfd::EventFd;

use super::backend::{Backend, Vring};
use super::channel::config_changed;
use crate::block::LegId;
use crate::event::{FrontendChange, What};
use crate::leg::{Command, Ending, QueueStart};
use crate::sequence::Tap;
use crate::virtio::defs::{F_EVENT_IDX, F_FLUSH, F_PROTOCOL_FEATURES, F_RING_PACKED};
use crate::virtio::inflight::{self, Inflight, Layout};
use crate::virtio::packed::FRESH_BASE;
use crate::virtio::space::{SPACE_BYTES, WRITEBACK_AT, config, features, has};
use crate::virtio::{Memory, PackedRing, Region, Ring, RingAddresses, RingFault, SplitRing};

/// Memory regions that a frontend may share.
const MEMORY_SLOTS: usize = 256;

/// One connection.
#[derive(Debug)]
pub struct Handler {
    backend: Backend,
    tap: Tap,
    features: u64,
    protocol: u64,
    memory: Arc<Memory>,
    vrings: Vec<Vring>,
    /// Where the frontend keeps what is in flight.
    inflight: Option<Inflight>,
    /// What went wrong last, in more words than the protocol has.
    trouble: Option<String>,
    /// Whether the frontend has asked for our features: only then the crate believes it about replies.
    asked: bool,
}

impl Handler {
    /// A connection that has said nothing yet.
    pub fn new(backend: Backend, tap: Tap) -> Handler {
        let vrings = (0..backend.queues).map(|_| Vring::default()).collect();
        Handler {
            backend,
            tap,
            features: 0,
            protocol: 0,
            memory: Arc::new(Memory::default()),
            vrings,
            inflight: None,
            trouble: None,
            asked: false,
        }
    }

    /// Records what the frontend did. The control leg's is of no interest.
    pub fn record(&mut self, change: FrontendChange) {
        if self.backend.leg != LegId::CONTROL {
            self.tap.record(What::Frontend {
                leg: self.backend.leg,
                change,
            });
        }
    }

    /// Takes the frontend's channel for what we have to tell it. Whether it expects a reply, if it asks for one.
    ///
    /// # Errors
    /// `InvalidOperation`, if it was not negotiated.
    pub fn use_channel(&mut self, channel: UnixStream) -> Result<bool> {
        let negotiated = |feature: VhostUserProtocolFeatures| self.protocol & feature.bits() != 0;
        if !negotiated(VhostUserProtocolFeatures::BACKEND_REQ) {
            return self.refuse(
                "a channel that was not negotiated",
                Error::InvalidOperation("not negotiated"),
            );
        }
        if let Some(shared) = &self.backend.shared {
            shared.set_channel(Some((channel, config_changed)));
        }
        Ok(negotiated(VhostUserProtocolFeatures::REPLY_ACK))
    }

    /// Ends the connection: nothing of it is served any more.
    pub fn end(&mut self, why: Option<String>) {
        if let Some(shared) = &self.backend.shared {
            shared.set_channel(None);
        }
        self.stop_all();
        self.memory = Arc::new(Memory::default());
        self.record(FrontendChange::Disconnected(why));
    }

    /// Whether a message that asks for it is acknowledged.
    pub fn acknowledges(&self) -> bool {
        self.asked && self.protocol & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
    }

    /// What went wrong last.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    fn refuse<T>(&mut self, why: impl ToString, error: Error) -> Result<T> {
        self.trouble = Some(why.to_string());
        Err(error)
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring> {
        let known = usize::try_from(index).ok();
        if known.is_none_or(|index| index >= self.vrings.len()) {
            let queues = self.vrings.len();
            return self.refuse(format!("queue {index} of {queues}"), Error::InvalidParam);
        }
        known
            .and_then(|index| self.vrings.get_mut(index))
            .ok_or(Error::InvalidParam)
    }

    fn stop_all(&mut self) {
        // A worker that is gone serves nothing.
        let _worker_gone = self
            .backend
            .commander
            .ask(|reply| Command::StopAll(Ending::Abandon, reply));
        for vring in &mut self.vrings {
            *vring = Vring::default();
        }
    }

    /// Starts a queue once everything about it is known (a kick descriptor comes last, or the enabling does).
    fn start(&mut self, index: u32) -> Result<()> {
        let (features, memory) = (self.features, Arc::clone(&self.memory));
        let inflight = self.inflight.clone();
        let protocol = has(features, F_PROTOCOL_FEATURES);
        let vring = self.vring(index)?;
        let (Some(_), Some(addresses)) = (&vring.kick, vring.addresses) else {
            return Ok(());
        };
        // Without protocol features there is no message to enable a queue with.
        if vring.running || (protocol && !vring.enabled) {
            return Ok(());
        }
        let (size, base, event_index) = (vring.size, vring.base, has(features, F_EVENT_IDX));
        let ring = if has(features, F_RING_PACKED) {
            let base = base.unwrap_or(FRESH_BASE);
            PackedRing::new(memory, addresses, size, base, event_index).map(Ring::from)
        } else {
            let base = base.unwrap_or(0);
            u16::try_from(base)
                .map_err(|_| RingFault::Base {
                    base,
                    size: u16::try_from(size).unwrap_or(u16::MAX),
                })
                .and_then(|base| SplitRing::new(memory, addresses, size, base, event_index))
                .map(Ring::from)
        };
        let mut ring = match ring {
            Ok(ring) => ring,
            Err(fault) => {
                let text = format!("queue {index}: {fault}");
                return self.refuse(text, Error::InvalidParam);
            }
        };
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        if let Some(inflight) = inflight
            && let Err(error) = ring.track(&inflight, number)
        {
            let text = format!("queue {index}: {error}");
            return self.refuse(text, Error::InvalidParam);
        }
        let vring = self.vring(index)?;
        let kick = vring.kick.as_ref().and_then(Option::as_ref);
        let start = QueueStart {
            index: number,
            ring,
            kick: duplicate(kick)?,
            call: duplicate(vring.call.as_ref())?,
            error: duplicate(vring.error.as_ref())?,
        };
        vring.running = true;
        self.ask(|reply| Command::Start(start, reply))
    }

    fn ask<T>(&self, command: impl FnOnce(std::sync::mpsc::Sender<T>) -> Command) -> Result<T> {
        self.backend
            .commander
            .ask(command)
            .ok_or(Error::BackendInternalError)
    }

    fn use_memory(&mut self, memory: Memory) -> Result<()> {
        self.memory = Arc::new(memory);
        if self.vrings.iter().any(|vring| vring.running) {
            let memory = Arc::clone(&self.memory);
            self.ask(|reply| Command::Remap(memory, reply))?;
        }
        Ok(())
    }

    fn map(&mut self, region: &VhostUserMemoryRegion, file: &File) -> Result<Region> {
        let VhostUserMemoryRegion {
            guest_phys_addr,
            memory_size,
            user_addr,
            mmap_offset,
        } = *region;
        Region::map(file, mmap_offset, guest_phys_addr, user_addr, memory_size).or_else(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let text = cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"));
            self.refuse(text, Error::InvalidParam)
        })
    }

    /// Whether the volatile write cache is on: negotiated, and not switched off (virtio 1.2, 5.2.6.2).
    fn settle_write_cache(&self) {
        if let Some(shared) = &self.backend.shared {
            let cached = has(self.features, F_FLUSH) && shared.writeback();
            shared.set_write_through(!cached);
        }
    }

    fn set_writeback(&self, on: bool) {
        if let Some(shared) = &self.backend.shared {
            shared.set_writeback(on);
        }
        self.settle_write_cache();
    }

    fn eventfd(&mut self, file: Option<File>) -> Result<Option<EventFd>> {
        let Some(file) = file else {
            return Ok(None);
        };
        // Anything else could block the worker.
        let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if !name.is_ok_and(|name| name.as_os_str() == "anon_inode:[eventfd]") {
            return self.refuse("a descriptor that is no eventfd", Error::InvalidParam);
        }
        // SAFETY: the descriptor is open and owned by `file`, which gives it away here.
        Ok(Some(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }))
    }
}

fn duplicate(fd: Option<&EventFd>) -> Result<Option<EventFd>> {
    fd.map(|fd| fd.try_clone().map_err(Error::ReqHandlerError))
        .transpose()
}

/// Messages that are not offered, and which a frontend therefore has no right to send.
fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered"))
}

impl VhostUserBackendReqHandlerMut for Handler {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop_all();
        // The driver has forgotten its requests; the notes are of rings that are no more.
        self.inflight = None;
        self.features = 0;
        self.set_writeback(true);
        self.record(FrontendChange::Reset);
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        self.asked = true;
        Ok(features(&self.backend.limits))
    }

    fn set_features(&mut self, wanted: u64) -> Result<()> {
        let unknown = wanted & !features(&self.backend.limits);
        if unknown != 0 {
            let text = format!("features {unknown:#x}, which were not offered");
            return self.refuse(text, Error::InvalidParam);
        }
        if wanted != self.features {
            self.record(FrontendChange::Features(wanted));
        }
        self.features = wanted;
        self.settle_write_cache();
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, wanted: u64) -> Result<()> {
        let unknown = wanted & !self.get_protocol_features()?.bits();
        if unknown != 0 {
            let text = format!("protocol features {unknown:#x}, which were not offered");
            return self.refuse(text, Error::InvalidParam);
        }
        self.protocol = wanted;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(u64::from(self.backend.queues))
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let mut mapped = Vec::with_capacity(regions.len());
        for (region, file) in regions.iter().zip(&files) {
            mapped.push(Arc::new(self.map(region, file)?));
        }
        match Memory::new(mapped) {
            Ok(memory) => self.use_memory(memory)?,
            Err(error) => return self.refuse(error, Error::InvalidParam),
        }
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(u64::try_from(MEMORY_SLOTS).unwrap_or(u64::MAX))
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        if self.memory.regions() >= MEMORY_SLOTS {
            return self.refuse("too many memory regions", Error::InvalidParam);
        }
        let region = self.map(region, &file)?;
        match self.memory.with(region) {
            Ok(memory) => self.use_memory(memory)?,
            Err(error) => return self.refuse(error, Error::InvalidParam),
        }
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let VhostUserMemoryRegion {
            guest_phys_addr,
            memory_size,
            user_addr,
            ..
        } = **region;
        match self.memory.without(guest_phys_addr, user_addr, memory_size) {
            Ok(memory) => self.use_memory(memory),
            Err(error) => self.refuse(error, Error::InvalidParam),
        }
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.vring(index)?.size = num;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.vring(index)?.addresses = Some(RingAddresses {
            descriptors: descriptor,
            available,
            used,
        });
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        if base > u32::from(u16::MAX) && !has(self.features, F_RING_PACKED) {
            return self.refuse(format!("base {base} of queue {index}"), Error::InvalidParam);
        }
        self.vring(index)?.base = Some(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let vring = self.vring(index)?;
        let running = std::mem::take(&mut vring.running);
        vring.kick = None;
        vring.call = None;
        vring.enabled = false;
        if running {
            let queue = u16::try_from(index).unwrap_or(u16::MAX);
            let base = self.ask(|reply| Command::Stop(queue, Ending::Complete, reply))?;
            if base.is_some() {
                self.vring(index)?.base = base;
            }
        }
        let packed = has(self.features, F_RING_PACKED);
        let fresh = if packed { FRESH_BASE } else { 0 };
        let base = self.vring(index)?.base.unwrap_or(fresh);
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let kick = self.eventfd(file)?;
        let index = u32::from(index);
        let vring = self.vring(index)?;
        if vring.running {
            let command = Command::Kick(u16::try_from(index).unwrap_or(u16::MAX), kick);
            self.backend.commander.send(command);
            return Ok(());
        }
        vring.kick = Some(kick);
        self.start(index)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let call = self.eventfd(file)?;
        let vring = self.vring(u32::from(index))?;
        vring.call = call;
        if vring.running {
            let call = duplicate(vring.call.as_ref())?;
            let command = Command::Call(u16::from(index), call);
            self.backend.commander.send(command);
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let error = self.eventfd(file)?;
        let vring = self.vring(u32::from(index))?;
        vring.error = error;
        if vring.running {
            let error = duplicate(vring.error.as_ref())?;
            let command = Command::Error(u16::from(index), error);
            self.backend.commander.send(command);
        }
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let vring = self.vring(index)?;
        vring.enabled = enable;
        if vring.running {
            let queue = u16::try_from(index).unwrap_or(u16::MAX);
            return self.ask(|reply| Command::Enable(queue, enable, reply));
        }
        self.start(index)
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let shared = self.backend.shared.as_ref();
        let writeback = shared.is_some_and(|shared| shared.writeback());
        let mut limits = self.backend.limits;
        if let Some(shared) = shared {
            limits.sectors = shared.sectors();
        }
        let space: [u8; SPACE_BYTES] = config(&limits, self.backend.queues, writeback);
        let part = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(size).ok())
            .and_then(|(at, len)| space.get(at..at.checked_add(len)?));
        match part {
            Some(part) => Ok(part.to_vec()),
            None => self.refuse(
                format!("{size} bytes of config space at {offset}"),
                Error::InvalidParam,
            ),
        }
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8], flags: VhostUserConfigFlags) -> Result<()> {
        if flags.contains(VhostUserConfigFlags::LIVE_MIGRATION) {
            // The other side's whole space; ours is the same but for the switch, which comes again.
            return Ok(());
        }
        match (offset, bytes) {
            // 5.2.5: writing 0 or 1 to `writeback` switches the cache, if the switch was offered.
            (WRITEBACK_AT, [value @ (0 | 1)]) if self.backend.limits.flush => {
                self.set_writeback(*value == 1);
                Ok(())
            }
            _ => self.refuse(
                format!(
                    "{} bytes to config space at {offset}, which can't be written",
                    bytes.len()
                ),
                Error::InvalidParam,
            ),
        }
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let layout = if has(self.features, F_RING_PACKED) {
            Layout::Packed
        } else {
            Layout::Split
        };
        let VhostUserInflight {
            num_queues,
            queue_size,
            ..
        } = *wanted;
        if num_queues > self.backend.queues {
            let text = format!("in-flight region for {num_queues} queues");
            return self.refuse(text, Error::InvalidParam);
        }
        let (file, bytes) = inflight::make(layout, num_queues, queue_size)
            .or_else(|error| self.refuse(error, Error::InvalidParam))?;
        let made = VhostUserInflight {
            mmap_size: bytes,
            mmap_offset: 0,
            num_queues,
            queue_size,
        };
        Ok((made, file))
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> Result<()> {
        let VhostUserInflight {
            mmap_size,
            mmap_offset,
            num_queues,
            ..
        } = *inflight;
        match Inflight::map(&file, mmap_offset, mmap_size, num_queues) {
            Ok(inflight) => {
                self.inflight = Some(inflight);
                Ok(())
            }
            Err(error) => self.refuse(error, Error::InvalidParam),
        }
    }

    fn set_gpu_socket(&mut self, _backend: vhost::vhost_user::GpuBackend) -> Result<()> {
        not_offered()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        not_offered()
    }
}
