//! `sb-peer`: superblocks with the same update counter say the same.
//!
//! Covers: when all active legs have completed a superblock of the kernel's with the same events in this boot: every shared field is equal
//! (`md.c:super_1_sync`; the list is in `md::superblock::unlike`). At the fetch of a superblock that is the array's by its magic and uuid and has the size
//! in which the kernel writes it: its checksum and its place are right (`md.c:calc_sb_1_csum`); no kernel would assemble the leg again.
//!
//! Does not cover: version 0.90, fields that each leg has for itself, spares, superblocks that programs write.

use crate::block::{LegId, RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::Layout;
use crate::md::superblock::{BadSuperblock, decode, names, unlike};
use crate::oracle::checker::Checker;

impl Checker {
    pub(super) fn sb_peer(&mut self, no: EventNo, leg: LegId) {
        let Some(array) = self.promised(leg).map(|(array, _)| array.clone()) else {
            return;
        };
        let wire = self.promises.leg(leg);
        let Some(own) = &wire.superblock else {
            return;
        };
        let peers: Vec<LegId> = array
            .active()
            .map(|member| member.leg)
            .filter(|other| *other != leg)
            .collect();
        let ready = own.layout != Layout::V0
            && array.member(leg).is_some_and(|member| member.active)
            && peers.iter().all(|other| {
                let peer = self.promises.leg(*other);
                peer.kernel > self.guest.boot_began
                    && peer.superblock.as_ref().is_some_and(|theirs| {
                        theirs.events == own.events && theirs.uuid == own.uuid
                    })
            });
        if !ready || peers.is_empty() {
            return;
        }
        let (events, position) = (own.events, own.position);
        let place = SectorRange::new(position, own.sectors).unwrap_or_default();
        let raw = wire.done.read(position, 8);
        let differ = peers.iter().find_map(|other| {
            let peer = self.promises.leg(*other);
            let at = peer.superblock.as_ref()?.position;
            Some((*other, unlike(&raw, &peer.done.read(at, 8))?))
        });
        self.count(Check::SbPeer, 1);
        if let Some((other, field)) = differ {
            let note = format!(
                "with events {events}, legs {} and {} differ in {field}",
                self.world.header.leg_name(leg),
                self.world.header.leg_name(other)
            );
            self.break_promise(
                no,
                Check::SbPeer,
                Wrongness::Differs,
                leg,
                array.key,
                SectorRange::default(),
                place,
                note,
            );
        }
    }

    /// A write to a superblock's place was fetched: what the kernel calls this array's superblock is one.
    pub(super) fn sb_good(
        &mut self,
        no: EventNo,
        id: RequestId,
        range: SectorRange,
        payload: &[u8],
    ) {
        let wire = self.promises.leg(id.leg);
        let Some(own) = wire.superblock.as_ref() else {
            return;
        };
        let kernels = own.layout != Layout::V0
            && range.start() == own.position
            && range.count() == own.sectors.next_multiple_of(wire.block_sectors.max(1))
            && names(payload, &own.uuid);
        if !kernels {
            return;
        }
        let Some(key) = self.world.md.of(id.leg).map(|(array, _)| array.key) else {
            return;
        };
        let part = wire.parts.newest();
        let mut whole = payload.to_vec();
        whole.resize(whole.len().max(4096), 0);
        let at = crate::block::Sector(own.position.0 - part.start().0);
        let wrong = match decode(own.layout, at, &whole, part.count()) {
            Err(bad @ (BadSuperblock::Checksum(..) | BadSuperblock::Elsewhere(..))) => bad,
            Ok(_) | Err(BadSuperblock::None | BadSuperblock::Nonsense(..)) => return,
        };
        let (check, kind) = (Check::SbPeer, Wrongness::Metadata);
        let note = format!(
            "leg {} was sent this as its superblock: {wrong}",
            self.world.header.leg_name(id.leg)
        );
        let nothing = SectorRange::default();
        self.break_promise(no, check, kind, id.leg, key, nothing, range, note);
    }
}
