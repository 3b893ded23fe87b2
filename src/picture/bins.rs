//! Rates over time in a bounded number of bins: where the run is longer than they reach, two become one.

use serde::Serialize;

/// Bins at most.
const BINS_MAX: usize = 2048;
/// The width that bins begin with, in microseconds.
const WIDTH_US: u64 = 1000;

/// A leg's rates, a number a bin.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Track {
    /// READs ended.
    pub reads: Vec<u32>,
    /// WRITEs ended.
    pub writes: Vec<u32>,
    /// FLUSHes ended.
    pub flushes: Vec<u32>,
    /// DISCARDs and the like ended.
    pub discards: Vec<u32>,
    /// Answered with an error or abandoned.
    pub errors: Vec<u32>,
    /// Sectors of what ended.
    pub sectors: Vec<u64>,
    /// The most in flight.
    pub in_flight: Vec<u32>,
}

/// All legs' rates.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Bins {
    /// Width of a bin in microseconds.
    pub width_us: u64,
    /// Bins that are used.
    pub used: usize,
    /// A leg each.
    pub legs: Vec<Track>,
    #[serde(skip)]
    open: Vec<u32>,
}

impl Bins {
    pub(super) fn new(legs: usize) -> Bins {
        Bins {
            width_us: WIDTH_US,
            used: 0,
            legs: vec![Track::default(); legs],
            open: vec![0; legs],
        }
    }

    /// The bin of a time.
    fn bin(&mut self, us: u64) -> usize {
        loop {
            let at = usize::try_from(us / self.width_us).unwrap_or(usize::MAX);
            if at < BINS_MAX {
                if at >= self.used {
                    self.grow(at + 1);
                }
                return at;
            }
            self.halve();
        }
    }

    fn grow(&mut self, used: usize) {
        for (track, open) in self.legs.iter_mut().zip(&self.open) {
            for counts in track.counts() {
                counts.resize(used, 0);
            }
            track.sectors.resize(used, 0);
            // What is in flight stays in flight while nothing happens.
            track.in_flight.resize(used, *open);
        }
        self.used = used;
    }

    fn halve(&mut self) {
        self.width_us *= 2;
        for track in &mut self.legs {
            for counts in track.counts() {
                *counts = counts.chunks(2).map(|two| two.iter().sum()).collect();
            }
            track.sectors = track
                .sectors
                .chunks(2)
                .map(|two| two.iter().sum())
                .collect();
            let most = |two: &[u32]| two.iter().copied().max().unwrap_or(0);
            track.in_flight = track.in_flight.chunks(2).map(most).collect();
        }
        self.used = self.used.div_ceil(2);
    }

    pub(super) fn arrived(&mut self, leg: usize, us: u64) {
        let at = self.bin(us);
        self.open[leg] += 1;
        let most = &mut self.legs[leg].in_flight[at];
        *most = (*most).max(self.open[leg]);
    }

    pub(super) fn ended(&mut self, leg: usize, us: u64, class: u8, sectors: u64, bad: bool) {
        let at = self.bin(us);
        self.open[leg] = self.open[leg].saturating_sub(1);
        let track = &mut self.legs[leg];
        track.sectors[at] += sectors;
        track.errors[at] += u32::from(bad);
        match class {
            0 => track.reads[at] += 1,
            1 => track.writes[at] += 1,
            2 => track.flushes[at] += 1,
            3 => track.discards[at] += 1,
            _ => {}
        }
    }

    pub(super) fn finish(&mut self, span_us: u64) {
        self.bin(span_us);
    }
}

impl Track {
    fn counts(&mut self) -> [&mut Vec<u32>; 5] {
        [
            &mut self.reads,
            &mut self.writes,
            &mut self.flushes,
            &mut self.discards,
            &mut self.errors,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_fit_and_nothing_is_lost() {
        let mut bins = Bins::new(1);
        for at in 0..10_000u64 {
            bins.arrived(0, at * 10_000);
            bins.ended(0, at * 10_000 + 5, 1, 8, false);
        }
        bins.finish(200_000_000);
        assert!(bins.used <= BINS_MAX && bins.width_us * BINS_MAX as u64 > 200_000_000);
        let track = &bins.legs[0];
        assert_eq!(track.writes.iter().sum::<u32>(), 10_000);
        assert_eq!(track.sectors.iter().sum::<u64>(), 80_000);
        assert_eq!(track.in_flight.iter().max(), Some(&1));
        assert_eq!(track.in_flight.len(), bins.used);
    }
}
