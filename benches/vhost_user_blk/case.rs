//! What is measured: the list of cases, and the addresses each visits. Pure.

/// What the requests of a case do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Read,
    Write,
    /// 70 % reads, 30 % writes.
    Mixed,
    Flush,
    /// Each write is followed by a flush.
    WriteFlush,
}

/// One request's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    Flush,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
        }
    }
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) load: Load,
    pub(crate) block_bytes: usize,
    pub(crate) sequential: bool,
    /// Requests outstanding, over all queues.
    pub(crate) depth: usize,
    pub(crate) queues: usize,
    /// Each operation goes to both sockets from one buffer, and is complete when both are.
    pub(crate) mirror: bool,
}

impl Case {
    pub(crate) fn new(load: Load, block_bytes: usize, depth: usize) -> Case {
        let size = match block_bytes {
            0x1000 => "4k",
            0x2_0000 => "128k",
            _ => "1m",
        };
        let sequential = block_bytes > 0x1000;
        let load_name = match load {
            Load::Read => "read",
            Load::Write => "write",
            Load::Mixed => "mixed",
            Load::Flush => "flush",
            Load::WriteFlush => "write-flush",
        };
        let name = match (load, sequential) {
            (Load::Flush, _) => format!("flush-qd{depth}"),
            (_, true) => format!("{size}-seq-{load_name}-qd{depth}"),
            (_, false) => format!("{size}-{load_name}-qd{depth}"),
        };
        Case {
            name,
            load,
            block_bytes,
            sequential,
            depth,
            queues: 1,
            mirror: false,
        }
    }

    fn mirrored(mut self) -> Case {
        self.name = format!("mirror-{}", self.name);
        self.mirror = true;
        self
    }

    fn on_queues(mut self, queues: usize) -> Case {
        self.name = format!("{}-q{queues}", self.name);
        self.queues = queues;
        self
    }

    /// Whether what watching costs shows here.
    pub(crate) fn tells_most(&self) -> bool {
        [
            "4k-write-qd1",
            "4k-write-qd32",
            "4k-read-qd32",
            "mirror-4k-write-qd32",
        ]
        .contains(&self.name.as_str())
    }

    /// How many sockets it needs.
    pub(crate) fn legs(&self) -> usize {
        1 + usize::from(self.mirror)
    }

    /// Whether it writes much more than a log of every write could hold.
    pub(crate) fn bulk_write(&self) -> bool {
        self.sequential && self.load != Load::Read
    }

    /// Buffers that the client needs for one queue.
    pub(crate) fn arena_bytes(&self) -> usize {
        self.depth_each() * self.block_bytes
    }

    /// Requests outstanding on each queue.
    pub(crate) fn depth_each(&self) -> usize {
        (self.depth / self.queues).max(1)
    }
}

/// Every case, those that share a number of queues next to each other.
pub(crate) fn all(depths: &[usize], sequential_depth: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for load in [Load::Write, Load::Read, Load::Mixed] {
        cases.extend(depths.iter().map(|&depth| Case::new(load, 0x1000, depth)));
    }
    for block_bytes in [0x2_0000, 0x10_0000] {
        for load in [Load::Write, Load::Read] {
            cases.push(Case::new(load, block_bytes, sequential_depth));
        }
    }
    cases.push(Case::new(Load::Flush, 0x1000, 1));
    cases.push(Case::new(Load::WriteFlush, 0x1000, 1));
    let mut mirrors: Vec<Case> = depths
        .iter()
        .map(|&depth| Case::new(Load::Write, 0x1000, depth).mirrored())
        .collect();
    for block_bytes in [0x2_0000, 0x10_0000] {
        mirrors.push(Case::new(Load::Write, block_bytes, sequential_depth).mirrored());
    }
    cases.extend(mirrors);
    for queues in [2, 4] {
        for load in [Load::Write, Load::Read, Load::Mixed] {
            for &depth in depths.iter().filter(|&&depth| depth >= 2 * queues) {
                cases.push(Case::new(load, 0x1000, depth).on_queues(queues));
            }
        }
    }
    cases
}

/// Where the requests of one queue go: an endless walk over the blocks of one part of the disk that meets every block once before any
/// again, so that no two requests in flight ever touch the same sectors (as under a filesystem: two legs could end up different otherwise).
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    load: Load,
    sequential: bool,
    block_bytes: u64,
    first_block: u64,
    block_bits: u32,
    step: u64,
}

impl Walk {
    /// The walk of queue number `lane` on a disk of `bytes`; none where the disk is too small for the case.
    pub(crate) fn new(case: &Case, lane: usize, bytes: u64) -> Option<Walk> {
        let block_bytes = u64::try_from(case.block_bytes).ok()?;
        let queues = u64::try_from(case.queues).ok()?;
        let blocks = bytes / block_bytes / queues;
        let block_bits = blocks.checked_ilog2()?;
        if 1 << block_bits < 2 * case.depth_each() {
            return None;
        }
        Some(Walk {
            load: case.load,
            sequential: case.sequential,
            block_bytes,
            first_block: blocks * u64::try_from(lane).ok()?,
            block_bits,
            step: 0,
        })
    }

    /// The next request: what, and at which byte.
    pub(crate) fn step(&mut self) -> (Operation, u64) {
        let step = self.step;
        self.step += 1;
        let block = if self.sequential {
            step & self.mask()
        } else {
            self.shuffled(step)
        };
        let operation = match self.load {
            Load::Read => Operation::Read,
            Load::Write => Operation::Write,
            Load::Mixed if mix(step) % 10 < 3 => Operation::Write,
            Load::Mixed => Operation::Read,
            Load::WriteFlush if step.is_multiple_of(2) => Operation::Write,
            Load::Flush | Load::WriteFlush => Operation::Flush,
        };
        match operation {
            Operation::Flush => (operation, 0),
            Operation::Read | Operation::Write => {
                (operation, (self.first_block + block) * self.block_bytes)
            }
        }
    }

    fn mask(&self) -> u64 {
        (1 << self.block_bits) - 1
    }

    /// A permutation of the blocks: each step below can be undone within `block_bits` bits.
    fn shuffled(&self, step: u64) -> u64 {
        let (mask, half) = (self.mask(), self.block_bits.div_ceil(2));
        let mut block = step & mask;
        for factor in [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03] {
            block = block.wrapping_mul(factor) & mask;
            block ^= block >> half;
        }
        block
    }
}

/// A well-mixed function of a number.
pub(crate) fn mix(number: u64) -> u64 {
    let mut word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "run by tests/bench_client.rs: a bench has no harness for them"
)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let cases = all(&[1, 32, 128], 8);
        let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
    }

    #[test]
    fn a_walk_meets_every_block_once_before_any_again_and_stays_in_its_part() {
        for (sequential, queues, lane) in
            [(false, 1, 0), (true, 1, 0), (false, 4, 3), (false, 2, 1)]
        {
            let case = Case {
                sequential,
                queues,
                ..Case::new(Load::Write, 0x1000, 8)
            };
            let bytes = 1 << 24;
            let mut walk = Walk::new(&case, lane, bytes).expect("large enough");
            let count = 4096 / queues;
            let met: BTreeSet<u64> = (0..count).map(|_| walk.step().1).collect();
            assert_eq!(met.len(), count);
            let part = bytes / queues as u64;
            let range = part * lane as u64..part * (lane as u64 + 1);
            assert!(met.iter().all(|offset| range.contains(offset)));
        }
    }

    #[test]
    fn mixed_is_about_a_third_writes_and_a_flush_follows_each_write() {
        let mut walk =
            Walk::new(&Case::new(Load::Mixed, 0x1000, 1), 0, 1 << 24).expect("large enough");
        let writes = (0..10_000)
            .filter(|_| walk.step().0 == Operation::Write)
            .count();
        assert!((2800..3200).contains(&writes), "{writes}");
        let mut walk =
            Walk::new(&Case::new(Load::WriteFlush, 0x1000, 1), 0, 1 << 24).expect("large enough");
        assert_eq!(
            [walk.step().0, walk.step().0],
            [Operation::Write, Operation::Flush]
        );
    }

    #[test]
    fn a_disk_too_small_has_no_walk() {
        assert!(Walk::new(&Case::new(Load::Write, 0x10_0000, 8), 0, 1 << 22).is_none());
    }
}
