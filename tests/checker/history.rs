//! A small model of a guest with md raid1 on legs, as the legs see it: builds event histories for the checker, honest ones and others.

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "shared by several test programs, none of which uses all of it"
)]

#[path = "history/metadata.rs"]
mod metadata;

use std::collections::BTreeMap;

use legwatch::block::{LegId, Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status};
use legwatch::config::LegConfig;
use legwatch::event::{
    Abandoned, Arrived, Completed, Content, Digests, Event, EventNo, Fetched, GuestEnd, Segment,
    What,
};
use legwatch::header::{LegHead, RunHeader};
use legwatch::journal::{Reader, Writer};
use legwatch::mark::{
    Admin, AdminAction, AdminPhase, Hello, Intent, IntentFlags, IntentKind, Mapping, Mark, Phase,
    Target,
};
use legwatch::oracle::{Checker, EndState, Verdict};
use legwatch::stamp::Stamp;

pub const RUN: u64 = 77;
pub const LEG_SECTORS: u64 = 16_384;
pub const ARRAY_SECTORS: u64 = 8192;
pub const CHUNK_SECTORS: u64 = 64;
/// Between two events of a history, so that evidence finds numbers of its own.
const STRIDE: u64 = 100;

pub type Block = [u8; SECTOR_BYTES];

pub struct History {
    pub header: RunHeader,
    pub events: Vec<Event>,
    pub write_mostly: Option<u8>,
    /// Whether there is a write-intent bitmap, and its bits.
    pub bitmap: bool,
    pub bits: u128,
    /// The array's size on a leg, and the bitmap's chunks.
    pub size: u64,
    pub chunk: u64,
    /// Whether dirty marks and bits are written before data, as md does.
    pub honest_md: bool,
    /// Whether metadata writes are followed by a flush.
    pub meta_flush: bool,
    /// Whether md has called the array dirty.
    pub dirty: bool,
    /// A leg that md has failed, and one that it recovers.
    pub failed: Option<u8>,
    pub recovering: Option<u8>,
    /// How far that leg is.
    pub recovered: u64,
    /// How far resync is, while the array is not clean.
    pub checkpoint: u64,
    /// Bad blocks on record, in a leg's own sectors.
    pub bad: BTreeMap<u8, Vec<(u64, u64)>>,
    /// Whether it is a raid10 in its near-2 layout, with these chunks.
    pub raid10_chunk: Option<u64>,
    /// By leg: features of its superblock beside those that follow from the rest, and a role other than its number.
    pub features: BTreeMap<u8, u32>,
    pub roles: BTreeMap<u8, u16>,
    running: bool,
    numbers: [u64; 8],
    no: u64,
    ranges: BTreeMap<RequestId, SectorRange>,
    /// The superblock that each leg was sent last.
    last: BTreeMap<u8, Block>,
    /// What each version held, for evidence.
    contents: BTreeMap<(LegId, u64, EventNo), Block>,
    pub md_events: u64,
    quiets: u32,
    next_gpa: u64,
}

pub fn data_offset(leg: u8) -> u64 {
    2048 + 512 * u64::from(leg)
}

pub fn garbage(seed: u8) -> Block {
    let mut out = [0xa5; SECTOR_BYTES];
    out[0] = seed;
    out
}

/// A workload's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub writer: u16,
    pub sequence: u64,
    pub sector: u64,
    pub count: u32,
    pub kind: IntentKind,
    pub flags: IntentFlags,
}

impl Load {
    pub fn new(writer: u16, sequence: u64, sector: u64, count: u32) -> Load {
        Load {
            writer,
            sequence,
            sector,
            count,
            kind: IntentKind::Write,
            flags: IntentFlags {
                immutable: true,
                ..IntentFlags::default()
            },
        }
    }

    pub fn kind(mut self, kind: IntentKind) -> Load {
        self.kind = kind;
        self
    }

    pub fn content(&self, sector: u64) -> Block {
        Stamp {
            run: RUN,
            target: 1,
            sector: Sector(sector),
            writer: self.writer,
            sequence: self.sequence,
        }
        .to_sector()
    }

    pub fn contents(&self) -> Vec<Block> {
        (0..u64::from(self.count))
            .map(|at| self.content(self.sector + at))
            .collect()
    }

    fn intent(&self, phase: Phase) -> Intent {
        Intent {
            phase,
            kind: self.kind,
            target: 1,
            writer: self.writer,
            sequence: self.sequence,
            sector: Sector(self.sector),
            count: self.count,
            slot: 0,
            flags: self.flags,
        }
    }
}

impl History {
    /// Two or more legs with an array in sync; one may be write-mostly with write-behind.
    pub fn new(legs: u8, write_mostly: Option<u8>) -> History {
        let mut history = History::bare(legs);
        history.write_mostly = write_mostly;
        history.bitmap = write_mostly.is_some();
        history.started()
    }

    /// Four legs with a raid10 in sync, and a bitmap.
    pub fn raid10(chunk: u64) -> History {
        let mut history = History::bare(4);
        history.raid10_chunk = Some(chunk);
        history.bitmap = true;
        history.started()
    }

    /// Two legs of which `mdadm --create` has just made an array that is to be resynced, and md has begun.
    pub fn created() -> History {
        let mut history = History::bare(2);
        history.push(What::Boot { boot: 1 });
        history.create();
        history.running = true;
        history.superblocks(false);
        history.agent()
    }

    /// Two legs with an array in sync, and a spare.
    pub fn with_spare() -> History {
        let mut history = History::bare(3);
        history.roles.insert(2, 0xffff);
        history.started()
    }

    fn started(self) -> History {
        let mut history = self;
        history.running = true;
        history.push(What::Boot { boot: 1 });
        history.superblocks(true);
        history.agent()
    }

    fn agent(self) -> History {
        let mut history = self;
        history.mark(Mark::Hello(Hello {
            agent: "0".into(),
            release: "6.1".into(),
            boot: 1,
            init: true,
            tainted: 0,
        }));
        history.mark(Mark::Target(Target {
            target: 1,
            device: "/dev/md0".into(),
            sectors: history.sectors(),
            mapping: Mapping::Identity,
        }));
        history
    }

    /// The array's size as the guest sees it.
    fn sectors(&self) -> u64 {
        match self.raid10_chunk {
            Some(_) => self.size * u64::from(self.legs()) / 2,
            None => self.size,
        }
    }

    /// The array sector that a leg's sector (from the data offset on) is.
    pub fn on_array(&self, leg: u8, sector: u64) -> u64 {
        let Some(chunk) = self.raid10_chunk else {
            return sector;
        };
        let mirrors = u64::from(self.legs() / 2);
        let row = sector / chunk;
        (row * mirrors + u64::from(leg / 2)) * chunk + sector % chunk
    }

    /// The legs and the sector on them (from the data offset on) that an array sector is.
    pub fn on_legs(&self, sector: u64) -> (Vec<u8>, u64) {
        let legs: Vec<u8> = (0..self.legs()).collect();
        for mirror in legs.chunks(if self.raid10_chunk.is_some() { 2 } else { 8 }) {
            let found = (0..ARRAY_SECTORS).find(|at| self.on_array(mirror[0], *at) == sector);
            if let Some(at) = found {
                return (mirror.to_vec(), at);
            }
        }
        panic!("array sector {sector} is on no leg");
    }

    /// As [`History::new`], with a bitmap.
    pub fn with_bitmap(legs: u8, write_mostly: Option<u8>) -> History {
        let mut history = History::new(legs, write_mostly);
        history.bitmap = true;
        history.superblocks(true);
        history
    }

    /// Drops the events so far, and what evidence would need of them.
    pub fn forget(&mut self) {
        self.events.clear();
        self.contents.clear();
        self.ranges.clear();
    }

    /// Time passes.
    pub fn wait_us(&mut self, us: u64) {
        self.no += (us / 10).next_multiple_of(STRIDE);
    }

    /// Without array and agent.
    pub fn bare(legs: u8) -> History {
        let heads = (0..legs)
            .map(|leg| LegHead {
                config: LegConfig::memory(
                    &char::from(b'a' + leg).to_string(),
                    LEG_SECTORS * SECTOR_BYTES as u64,
                ),
                sectors: LEG_SECTORS,
            })
            .collect();
        History {
            header: RunHeader::new(RUN, 1, heads),
            events: Vec::new(),
            write_mostly: None,
            bitmap: false,
            bits: 0,
            size: ARRAY_SECTORS,
            chunk: CHUNK_SECTORS,
            honest_md: true,
            meta_flush: true,
            dirty: false,
            failed: None,
            recovering: None,
            recovered: 0,
            checkpoint: 0,
            bad: BTreeMap::new(),
            raid10_chunk: None,
            features: BTreeMap::new(),
            roles: BTreeMap::new(),
            running: false,
            numbers: [0; 8],
            no: 0,
            ranges: BTreeMap::new(),
            last: BTreeMap::new(),
            contents: BTreeMap::new(),
            md_events: 1,
            quiets: 0,
            next_gpa: 0x10_0000,
        }
    }

    pub fn legs(&self) -> u8 {
        u8::try_from(self.header.legs.len()).unwrap()
    }

    pub fn push(&mut self, what: What) -> EventNo {
        self.no += STRIDE;
        self.events.push(Event {
            no: EventNo(self.no),
            time_us: self.no * 10,
            what,
        });
        EventNo(self.no)
    }

    pub fn mark(&mut self, mark: Mark) -> EventNo {
        self.push(What::Mark(mark))
    }

    pub fn begin(&mut self, load: &Load) -> EventNo {
        self.mark(Mark::Intent(load.intent(Phase::Begin)))
    }

    pub fn end(&mut self, load: &Load) -> EventNo {
        self.mark(Mark::Intent(load.intent(Phase::End { errno: 0 })))
    }

    pub fn end_with(&mut self, load: &Load, errno: u16) -> EventNo {
        self.mark(Mark::Intent(load.intent(Phase::End { errno })))
    }

    /// A request arrives at a leg's own sectors.
    pub fn arrive_at(
        &mut self,
        leg: u8,
        operation: Operation,
        start: u64,
        count: u64,
    ) -> RequestId {
        let gpa = self.next_gpa;
        self.next_gpa += (count * SECTOR_BYTES as u64).next_multiple_of(4096);
        self.arrive_from(leg, operation, start, count, gpa)
    }

    pub fn arrive_from(
        &mut self,
        leg: u8,
        operation: Operation,
        start: u64,
        count: u64,
        gpa: u64,
    ) -> RequestId {
        if self.honest_md
            && self.running
            && matches!(operation, Operation::Write | Operation::Discard)
            && start >= data_offset(leg)
        {
            self.before_data(leg, start - data_offset(leg), count);
        }
        self.numbers[usize::from(leg)] += 1;
        let request = RequestId {
            leg: LegId(leg),
            number: self.numbers[usize::from(leg)],
        };
        let range = SectorRange::new(Sector(start), count).unwrap();
        self.ranges.insert(request, range);
        let data = matches!(operation, Operation::Read | Operation::Write);
        self.push(What::Arrived(Arrived {
            request,
            queue: 0,
            operation,
            ranges: if count > 0 {
                [range].into_iter().collect()
            } else {
                smallvec::SmallVec::new()
            },
            segments: if data {
                [Segment {
                    gpa,
                    len: u32::try_from(count * SECTOR_BYTES as u64).unwrap(),
                }]
                .into_iter()
                .collect()
            } else {
                smallvec::SmallVec::new()
            },
        }));
        request
    }

    /// A request arrives for array sectors.
    pub fn arrive(&mut self, leg: u8, operation: Operation, sector: u64, count: u64) -> RequestId {
        self.arrive_at(leg, operation, data_offset(leg) + sector, count)
    }

    pub fn fetch(&mut self, request: RequestId, contents: &[Block]) -> EventNo {
        self.fetch_with(request, contents, false)
    }

    pub fn fetch_with(&mut self, request: RequestId, contents: &[Block], payload: bool) -> EventNo {
        let digests: Digests = contents
            .iter()
            .map(|block| crc32fast::hash(block))
            .collect();
        let no = self.push(What::Fetched(Fetched {
            request,
            digests,
            payload: payload.then(|| contents.concat()),
        }));
        let range = self.ranges[&request];
        for (sector, block) in range.sectors().zip(contents) {
            self.contents.insert((request.leg, sector.0, no), *block);
        }
        no
    }

    pub fn complete(&mut self, request: RequestId) -> EventNo {
        self.complete_with(request, Status::Ok, Content::Same)
    }

    pub fn complete_with(
        &mut self,
        request: RequestId,
        status: Status,
        content: Content,
    ) -> EventNo {
        self.push(What::Completed(Completed {
            request,
            status,
            content,
        }))
    }

    /// A request ends with its guest; `applied`: the leg had stored it.
    pub fn abandon(&mut self, request: RequestId, applied: bool) -> EventNo {
        self.push(What::Abandoned(Abandoned { request, applied }))
    }

    /// A whole write of array sectors to one leg.
    pub fn write(&mut self, leg: u8, sector: u64, contents: &[Block]) -> RequestId {
        let request = self.arrive(leg, Operation::Write, sector, contents.len() as u64);
        self.fetch(request, contents);
        self.complete(request);
        request
    }

    pub fn read(&mut self, leg: u8, sector: u64, count: u64) {
        let request = self.arrive(leg, Operation::Read, sector, count);
        self.complete_with(request, Status::Ok, Content::NotTaken);
    }

    pub fn discard(&mut self, leg: u8, sector: u64, count: u64) {
        let request = self.arrive(leg, Operation::Discard, sector, count);
        self.complete_with(request, Status::Ok, Content::NotTaken);
    }

    /// An honest write from begin to end.
    pub fn honest(&mut self, load: &Load) {
        self.begin(load);
        for leg in (0..self.legs())
            .filter(|leg| self.failed != Some(*leg))
            .collect::<Vec<_>>()
        {
            self.write(leg, load.sector, &load.contents());
        }
        self.end(load);
    }

    /// A leg answers a READ with this.
    pub fn returned(&mut self, leg: u8, sector: u64, contents: &[Block]) -> EventNo {
        let request = self.arrive(leg, Operation::Read, sector, contents.len() as u64);
        let digests: Digests = contents
            .iter()
            .map(|block| crc32fast::hash(block))
            .collect();
        self.complete_with(request, Status::Ok, Content::Returned(digests))
    }

    /// md reads array sectors from one leg and writes them to others, from the same pages.
    pub fn copy(&mut self, from: u8, to: &[u8], sector: u64, contents: &[Block]) {
        let count = contents.len() as u64;
        let gpa = self.next_gpa;
        self.next_gpa += (count * SECTOR_BYTES as u64).next_multiple_of(4096);
        let read = self.arrive_from(
            from,
            Operation::Read,
            data_offset(from) + sector,
            count,
            gpa,
        );
        let digests: Digests = contents
            .iter()
            .map(|block| crc32fast::hash(block))
            .collect();
        self.complete_with(read, Status::Ok, Content::Returned(digests));
        for leg in to {
            let honest = std::mem::replace(&mut self.honest_md, false);
            let at = data_offset(*leg) + sector;
            let write = self.arrive_from(*leg, Operation::Write, at, count, gpa);
            self.honest_md = honest;
            self.fetch(write, contents);
            self.complete(write);
        }
    }

    pub fn admin(&mut self, action: AdminAction, phase: AdminPhase, legs: &[u8]) {
        let legs = legs
            .iter()
            .map(|leg| char::from(b'a' + leg).to_string())
            .collect();
        self.mark(Mark::Admin(Admin {
            action,
            phase,
            legs,
        }));
    }

    pub fn flush(&mut self, leg: u8) {
        let request = self.arrive_at(leg, Operation::Flush, 0, 0);
        self.complete_with(request, Status::Ok, Content::NotTaken);
    }

    pub fn quiet(&mut self) {
        self.quiets += 1;
        let id = self.quiets;
        self.mark(Mark::Quiet {
            id,
            pending: String::new(),
        });
        self.push(What::Quiet {
            id,
            pending: Vec::new(),
        });
    }

    /// QEMU is killed, and the next boot begins.
    pub fn crash(&mut self, boot: u32) {
        self.push(What::GuestEnded {
            boot: boot - 1,
            how: GuestEnd::Killed {
                why: "a cut".into(),
            },
        });
        self.push(What::Boot { boot });
    }

    /// A power cut took what a leg had in its cache; this metadata is there now.
    pub fn lose(&mut self, leg: u8, start: u64, block: &Block) {
        self.push(What::Lost {
            leg: LegId(leg),
            start: Sector(start),
            digests: std::iter::once(crc32fast::hash(block)).collect(),
            payload: Some(block.to_vec()),
        });
    }

    pub fn cut(&mut self) {
        self.push(What::GuestEnded {
            boot: 1,
            how: GuestEnd::Killed {
                why: "a cut".into(),
            },
        });
        self.push(What::End);
    }

    pub fn power_off(&mut self) {
        self.mark(Mark::Finish { ok: true });
        self.push(What::GuestEnded {
            boot: 1,
            how: GuestEnd::PoweredOff,
        });
        self.push(What::End);
    }

    /// Runs the checker as the witness does, evidence included, and the same over the journal that this leaves behind. They must agree.
    pub fn verdict(&self) -> Verdict {
        let mut live = Checker::new(&self.header);
        let mut journal = Writer::new(Vec::new(), &self.header).unwrap();
        for event in &self.events {
            journal.append(event).unwrap();
            live.apply(event);
            let mut no = event.no;
            for want in live.wanted() {
                let Some(bytes) = self.contents.get(&(want.leg, want.sector.0, want.version))
                else {
                    continue;
                };
                no.0 += 1;
                let evidence = Event {
                    no,
                    time_us: event.time_us,
                    what: What::Evidence {
                        leg: want.leg,
                        sector: want.sector,
                        version: want.version,
                        bytes: bytes.to_vec(),
                    },
                };
                journal.append(&evidence).unwrap();
                live.apply(&evidence);
            }
        }
        let live = live.finish(EndState::default());
        let bytes = journal.finish().unwrap();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let mut again = Checker::new(reader.header());
        while let Some(event) = reader.next_event().unwrap() {
            again.apply(&event);
        }
        assert_eq!(reader.tail(), None);
        let again = again.finish(EndState::default());
        assert_eq!(live, again, "check equals live");
        live
    }
}
