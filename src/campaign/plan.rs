//! What a campaign runs: rows (a scenario on a kernel) times seeds, and the part of it that one machine takes.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::expectation::Expectation;

/// The version of the plan's form in `results.jsonl`.
pub const VERSION: u32 = 1;
/// Parts of a campaign; one of so many still comes to its next run in no time.
const PARTS_MAX: u64 = 100_000;

/// A scenario on a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Names the row in the campaign: scenario and kernel, and for the museum the bug. At most one row has it.
    pub key: String,
    /// The scenario's name.
    pub scenario: String,
    /// As `legwatch run` takes it.
    pub path: String,
    /// The kernel as it was named.
    pub kernel: String,
    /// Its version, as far as it is known: `6.1.192`.
    pub version: String,
    /// CRC-32 of the scenario's text; `None`: an older legwatch did not tell.
    pub text_crc32: Option<u32>,
    /// What a run has to show.
    pub expect: Expectation,
    /// Why the row does not run: the scenario is not for this kernel.
    pub skip: Option<String>,
    /// Why the row can't run: the kernel can't be had.
    pub unavailable: Option<String>,
    /// A run tries so many seeds, counted up, until it shows what is expected; races need it. At least 1.
    pub tries: u32,
}

impl Row {
    /// Whether it runs; else it only says why not.
    pub fn runs(&self) -> bool {
        self.skip.is_none() && self.unavailable.is_none()
    }
}

/// A whole campaign. A partitioned one has the same plan on every machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`VERSION`].
    pub version: u32,
    /// The version of legwatch that made it; `None`: an older one.
    pub legwatch: Option<String>,
    /// The rows, in the order of reports.
    pub rows: Vec<Row>,
    /// The first seed.
    pub seed: u64,
    /// Seeds a row, counted up from the first; `None`: as many as the time allows.
    pub repeat: Option<u64>,
    /// What is added to every run: `--accel tcg`, `--strict`, ….
    pub options: Vec<String>,
}

/// One run of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The row's place in the plan.
    pub row: usize,
    /// The seed.
    pub seed: u64,
}

impl Plan {
    /// All runs, a seed of every row before the next seed: an early end has seen every row. May be endless, see [`Plan::is_endless`].
    pub fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        let any = self.rows.iter().any(Row::runs);
        let rounds =
            (0..self.repeat.unwrap_or(u64::MAX)).take_while(move |round| any || *round == 0);
        rounds.flat_map(move |round| {
            (0..self.rows.len()).filter_map(move |row| {
                // What does not run need not be told for every seed.
                let runs = round == 0 || self.rows[row].runs();
                runs.then_some(Cell {
                    row,
                    seed: self.seed.wrapping_add(round),
                })
            })
        })
    }

    /// Whether its runs have no end: no number of seeds, and a row that runs.
    pub fn is_endless(&self) -> bool {
        self.repeat.is_none() && self.rows.iter().any(Row::runs)
    }

    /// A run's name: the row's and the seed.
    pub fn key(&self, cell: Cell) -> String {
        format!("{}@{}", self.rows[cell.row].key, cell.seed)
    }
}

/// The part of a campaign that one machine takes: run `k` of `n` by the hash of its name, so that it does not depend on what else runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// From 1.
    pub k: u64,
    /// How many.
    pub n: u64,
}

impl Partition {
    /// Whether a run of this name is in it.
    pub fn has(self, key: &str) -> bool {
        hash(key) % self.n == self.k - 1
    }
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Partition, String> {
        let part = text
            .strip_prefix("hash:")
            .and_then(|rest| rest.split_once('/'))
            .and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match part {
            Some((k, n)) if n <= PARTS_MAX && (1..=n).contains(&k) => Ok(Partition { k, n }),
            _ => Err(format!(
                "`{text}` is no partition; write hash:K/N with K from 1 to N and N up to {PARTS_MAX}, such as hash:1/4"
            )),
        }
    }
}

/// FNV-1a, 64 bits: the same everywhere and for ever. Its low bits alone are weak, so the high ones are folded in.
fn hash(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 32)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(scenario: &str, kernel: &str) -> Row {
        Row {
            key: format!("{scenario}@{kernel}"),
            scenario: scenario.into(),
            path: scenario.into(),
            kernel: kernel.into(),
            version: kernel.rsplit(':').next().unwrap_or_default().into(),
            text_crc32: Some(1),
            expect: Expectation::clean(),
            skip: None,
            unavailable: None,
            tries: 1,
        }
    }

    pub(crate) fn plan(repeat: Option<u64>) -> Plan {
        Plan {
            version: VERSION,
            legwatch: Some("0.1.0".into()),
            rows: vec![
                row("quick", "pinned:6.1"),
                row("quick", "pinned:6.12"),
                row("behind", "pinned:6.1"),
                row("behind", "pinned:6.12"),
            ],
            seed: 1,
            repeat,
            options: Vec::new(),
        }
    }

    #[test]
    fn every_row_is_seen_before_a_seed_is_raised_and_what_does_not_run_is_told_once() {
        let mut plan = plan(Some(2));
        plan.rows[2].skip = Some("not for it".into());
        let cells: Vec<_> = plan.cells().map(|cell| (cell.row, cell.seed)).collect();
        assert_eq!(
            cells,
            [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (1, 2), (3, 2)]
        );
        plan.repeat = None;
        let far = plan.cells().nth(1_000_000).unwrap();
        assert!(far.seed > 300_000);
    }

    #[test]
    fn runs_end_where_no_row_runs() {
        for repeat in [Some(u64::MAX), None] {
            let mut plan = plan(repeat);
            assert_eq!(plan.is_endless(), repeat.is_none());
            for row in &mut plan.rows {
                row.skip = Some("not for it".into());
            }
            plan.rows[3].unavailable = Some("it can't be had".into());
            assert_eq!(plan.cells().take(9).count(), 4);
            assert!(!plan.is_endless());
        }
    }

    #[test]
    fn partitions_take_every_run_once() {
        let plan = plan(Some(100));
        for n in [1, 2, 3, 7] {
            let mut taken = 0;
            for k in 1..=n {
                let part: Partition = format!("hash:{k}/{n}").parse().unwrap();
                let mine = plan
                    .cells()
                    .filter(|cell| part.has(&plan.key(*cell)))
                    .count();
                assert!(
                    mine > 400 / usize::try_from(n).unwrap() / 2,
                    "{part:?}: {mine}"
                );
                taken += mine;
            }
            assert_eq!(taken, 400);
        }
        for bad in [
            "",
            "1/2",
            "hash:0/2",
            "hash:3/2",
            "hash:1/0",
            "hash:a/b",
            "hash:1/100001",
        ] {
            assert!(bad.parse::<Partition>().unwrap_err().contains("hash:K/N"));
        }
    }
}
