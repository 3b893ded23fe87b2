//! Folds entries of one cause into findings: same check, same kind, same legs, same thing that the legs got instead.

use std::collections::{BTreeMap, BTreeSet};

use super::checker::Checker;
use super::record::Meant;
use super::words::{headline, reason};
use super::wrong::{Detail, Held, Instead, Write, Wrong};
use crate::block::{LegId, SECTOR_BYTES, SectorRange};
use crate::event::EventNo;
use crate::finding::{
    Cause, Check, Confidence, Example, Expected, Finding, Holding, LegRange, RANGES_MAX, Range,
    VersionLine, Wrongness,
};
use crate::md::ArrayKey;
use crate::shadow::{Origin, RangeSet, State, Version, ZERO_DIGEST};
use crate::stamp::Stamp;

/// Notes of entries that a finding shows.
const NOTES_MAX: usize = 4;

/// What happened to one write (or one range, where no write is known), over all legs.
#[derive(Debug, Default)]
struct Case<'a> {
    wrongs: Vec<&'a Wrong>,
    legs: BTreeSet<LegId>,
}

impl Case<'_> {
    /// The rule that explains every entry.
    fn injected(&self) -> Option<u16> {
        let first = self.wrongs.first()?.injected;
        first.filter(|_| self.wrongs.iter().all(|wrong| wrong.injected.is_some()))
    }
}

/// What the legs got instead, as far as it tells one cause from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Got {
    /// READs of all these sectors, on every leg that is wrong.
    Reads,
    /// READs of some.
    SomeReads,
    /// Nothing.
    Nothing,
    /// It is not known, or does not matter.
    Else,
}

type CaseKey = (
    Check,
    Wrongness,
    ArrayKey,
    Option<Write>,
    Option<SectorRange>,
);
type GroupKey = (
    Check,
    Wrongness,
    Confidence,
    Vec<LegId>,
    Got,
    Option<&'static str>,
    Option<u16>,
);

impl Checker {
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut cases: BTreeMap<CaseKey, Case<'_>> = BTreeMap::new();
        for wrong in self.wrongs.entries() {
            let range = wrong.write.is_none().then_some(wrong.array);
            let key = (wrong.check, wrong.kind, wrong.key, wrong.write, range);
            let case = cases.entry(key).or_default();
            case.legs.insert(wrong.leg);
            case.wrongs.push(wrong);
        }
        let mut groups: BTreeMap<GroupKey, Vec<Case<'_>>> = BTreeMap::new();
        for ((check, kind, _, _, _), case) in cases {
            let confidence = case
                .wrongs
                .iter()
                .map(|wrong| wrong.confidence)
                .min()
                .unwrap_or(Confidence::Suspect);
            let legs = case.legs.iter().copied().collect();
            let got = got(&case.wrongs);
            // Known only if all of it is.
            let known = case.wrongs.iter().map(|wrong| wrong.known).min().flatten();
            let injected = case.injected();
            groups
                .entry((check, kind, confidence, legs, got, known, injected))
                .or_default()
                .push(case);
        }
        self.join_lagging(&mut groups);
        groups
            .iter()
            .map(|(key, cases)| self.finding(key, cases))
            .collect()
    }

    /// A leg that lags is judged at rest only, so writes that were overwritten before are held against the other legs alone. Where all else is the
    /// same, they join the finding about all legs; the ranges of each leg stay its own.
    fn join_lagging<'a>(&self, groups: &mut BTreeMap<GroupKey, Vec<Case<'a>>>) {
        let lags = |leg: &LegId| {
            self.world
                .checked(*leg)
                .is_some_and(|(array, member)| array.may_lag(member))
        };
        let keys: Vec<GroupKey> = groups.keys().cloned().collect();
        for small in &keys {
            let large = keys.iter().find(|large| {
                (large.0, large.1, large.2, large.4, large.5)
                    == (small.0, small.1, small.2, small.4, small.5)
                    && large.3.len() > small.3.len()
                    && small.3.iter().all(|leg| large.3.contains(leg))
                    && large.3.iter().all(|leg| small.3.contains(leg) || lags(leg))
            });
            if let Some(large) = large
                && let Some(cases) = groups.remove(small)
            {
                groups.entry(large.clone()).or_default().extend(cases);
            }
        }
    }

    fn name(&self, leg: LegId) -> String {
        self.world.header.leg_name(leg).to_owned()
    }

    fn finding(&self, key: &GroupKey, cases: &[Case<'_>]) -> Finding {
        let (check, kind, confidence, legs, got, known, injected) = key;
        let (check, kind, got) = (*check, *kind, *got);
        let wrongs = || cases.iter().flat_map(|case| case.wrongs.iter().copied());
        let mut array = RangeSet::default();
        let mut on_legs: BTreeMap<LegId, RangeSet> = BTreeMap::new();
        for wrong in wrongs() {
            match self.world.md.array(wrong.key) {
                Some(of) => of.on_whole(wrong.array).for_each(|part| array.insert(part)),
                None => array.insert(wrong.array),
            }
            on_legs.entry(wrong.leg).or_default().insert(wrong.on_leg);
        }
        let writes: BTreeSet<Write> = wrongs().filter_map(|wrong| wrong.write).collect();
        let first = wrongs().map(|wrong| wrong.at.0).min().unwrap_or(0);
        let last = wrongs().map(|wrong| wrong.at.0).max().unwrap_or(0);
        let names: Vec<String> = legs.iter().map(|leg| self.name(*leg)).collect();
        let start = array.ranges().next().map_or(0, |range| range.start().0);
        let detail = wrongs()
            .filter_map(|wrong| Some((wrong, wrong.detail.as_deref()?)))
            .min_by_key(|(wrong, detail)| (wrong.at, detail.sector));
        let example = detail
            .filter(|(_, detail)| !detail.legs.is_empty())
            .map(|(wrong, detail)| self.example(wrong.key, detail));
        let detail = detail.map(|(_, detail)| detail);
        let sectors = array.count();
        let count = writes.len() as u64;
        Finding {
            id: id(check, kind, &names, start),
            check,
            kind,
            confidence: *confidence,
            headline: headline(check, kind, count, sectors, &names),
            detail: self.words(kind, got, legs, wrongs()),
            legs: names,
            array: array
                .ranges()
                .take(RANGES_MAX)
                .map(|range| Range {
                    start: range.start().0,
                    count: range.count(),
                })
                .collect(),
            leg_ranges: on_legs
                .iter()
                .flat_map(|(leg, ranges)| {
                    ranges.ranges().take(RANGES_MAX).map(|range| LegRange {
                        leg: self.name(*leg),
                        start: range.start().0,
                        count: range.count(),
                    })
                })
                .collect(),
            sectors,
            writes: count,
            first_wrong: detail.and_then(|detail| detail.first_wrong.clone()),
            first,
            last,
            cause: injected.map_or(Cause::Kernel, |_| Cause::Injected),
            reason: match injected {
                Some(rule) => format!(
                    "the guest read this content from what fault `{}` had made of a leg",
                    self.rule_name(*rule)
                ),
                None => format!("{}{}", reason(check, kind), direction(got)),
            },
            promise: check.promise().to_owned(),
            example,
            story: detail.map_or_else(Vec::new, |detail| detail.story.clone()),
            notes: wrongs()
                .filter_map(|wrong| wrong.note.clone())
                .take(NOTES_MAX)
                .collect(),
            known: known.map(str::to_owned),
        }
    }

    /// The legs, and what they got instead.
    fn words<'a>(
        &self,
        kind: Wrongness,
        got: Got,
        legs: &[LegId],
        wrongs: impl Iterator<Item = &'a Wrong>,
    ) -> String {
        let names: Vec<String> = legs.iter().map(|leg| self.name(*leg)).collect();
        let who = match &names[..] {
            [one] => format!("leg {one}"),
            many => format!("legs {}", many.join(", ")),
        };
        let all = match names.len() {
            1 => "it",
            2 => "both legs",
            _ => "all of them",
        };
        let (mut from, mut to) = (u64::MAX, 0);
        for instead in wrongs.filter_map(|wrong| wrong.instead) {
            if instead.reads > 0 {
                from = from.min(instead.first.0);
                to = to.max(instead.last.0);
            }
        }
        let tail = match got {
            Got::Reads => format!(
                "; {all} got a READ of these sectors between issue and acknowledgement (#{from} … #{to})"
            ),
            Got::SomeReads => format!(
                "; READs of some of these sectors arrived between issue and acknowledgement (#{from} … #{to})"
            ),
            Got::Nothing => {
                "; no request touched these sectors between issue and acknowledgement".to_owned()
            }
            Got::Else => String::new(),
        };
        // The headline says it.
        if kind == Wrongness::Read {
            return String::new();
        }
        format!("{who}: {}{tail}", kind.name())
    }

    fn example(&self, key: ArrayKey, detail: &Detail) -> Example {
        Example {
            array_sector: self.world.md.on_whole(key, detail.sector).0,
            expected: detail.expected.map(|meant| {
                let bytes = self.book.bytes(&meant);
                Expected {
                    what: format!(
                        "writer {} #{}{}",
                        meant.stamp.writer,
                        meant.stamp.sequence,
                        encrypted(&meant)
                    ),
                    digest: crc32fast::hash(&bytes),
                    bytes: hex(&bytes),
                }
            }),
            legs: detail
                .legs
                .iter()
                .map(|held| self.holding(held, detail))
                .collect(),
        }
    }

    fn holding(&self, held: &Held, detail: &Detail) -> Holding {
        let current = held.versions.first().copied();
        let digest = current.and_then(|version| version.digest);
        let read = current.and_then(|version| {
            let bytes = self.evidence.get(&(held.leg, held.sector, version.no))?;
            // Only content whose digest proves it is evidence.
            (bytes.len() == SECTOR_BYTES && Some(crc32fast::hash(bytes)) == version.digest)
                .then(|| bytes.clone())
        });
        let known = held
            .stamp
            .map(|(meant, _)| self.book.bytes(&meant).to_vec());
        let zeros = (digest == Some(ZERO_DIGEST)).then(|| vec![0; SECTOR_BYTES]);
        let bytes = known.or(zeros).or(read);
        let what = match (held.stamp, digest, &bytes) {
            (Some((meant, at)), _, _) => format!(
                "writer {} #{} of array sector {at}{}",
                meant.stamp.writer,
                meant.stamp.sequence,
                encrypted(&meant)
            ),
            (None, Some(ZERO_DIGEST), _) => "zeros".into(),
            (None, _, Some(bytes)) => {
                let iv = detail.expected.and_then(|meant| meant.iv);
                describe(&self.book.plain(iv, bytes), self.world.header.run)
            }
            (None, Some(digest), None) => format!("unknown content (CRC-32 {digest:08x})"),
            (None, None, None) => "initial content that was never read".into(),
        };
        let nature = bytes.as_deref().filter(|_| !held.good).map(|bytes| {
            let expected = detail.expected.map(|meant| meant.stamp);
            let own = held.stamp.map(|(meant, _)| meant).or(detail.expected);
            let plain = self.book.plain(own.and_then(|meant| meant.iv), bytes);
            super::nature::look(&plain, expected.as_ref(), self.world.header.run)
        });
        Holding {
            leg: self.name(held.leg),
            sector: held.sector.0,
            good: held.good,
            what,
            bytes: bytes.as_deref().map(hex),
            nature,
            history: held.versions.iter().map(version_line).collect(),
        }
    }
}

/// What is added to a stamp whose bytes are shown as the array has them.
fn encrypted(meant: &Meant) -> &'static str {
    meant.iv.map_or("", |_| ", encrypted")
}

fn got(wrongs: &[&Wrong]) -> Got {
    let insteads: Option<Vec<Instead>> = wrongs.iter().map(|wrong| wrong.instead).collect();
    match insteads {
        None => Got::Else,
        Some(all) if all.iter().all(|instead| instead.all) => Got::Reads,
        Some(all) if all.iter().any(|instead| instead.reads > 0) => Got::SomeReads,
        Some(_) => Got::Nothing,
    }
}

fn id(check: Check, kind: Wrongness, legs: &[String], start: u64) -> String {
    let kind = kind.name().replace(' ', "-");
    let text = format!("{}/{kind}/{}/{start}", check.name(), legs.join(","));
    format!("{}-{:08x}", check.name(), crc32fast::hash(text.as_bytes()))
}

/// What the requests that came instead say about the cause.
fn direction(got: Got) -> &'static str {
    match got {
        Got::Reads => {
            "; READs of exactly these sectors came in its stead, so the kernel sent the write in the wrong direction"
        }
        Got::SomeReads | Got::Nothing | Got::Else => "",
    }
}

fn describe(bytes: &[u8], run: u64) -> String {
    match Stamp::read(bytes) {
        Some((stamp, whole)) => format!(
            "{}writer {} #{} of target {} sector {}{}",
            if whole { "" } else { "a damaged stamp of " },
            stamp.writer,
            stamp.sequence,
            stamp.target,
            stamp.sector,
            if stamp.run == run {
                ""
            } else {
                ", from another run"
            }
        ),
        None => "content that is no stamp".to_owned(),
    }
}

fn version_line(version: &Version) -> VersionLine {
    let origin = match version.origin {
        Origin::Initial => "initial content",
        Origin::Write => "written",
        Origin::Zero => "zeroed",
    };
    let state = match (version.origin, version.state) {
        (Origin::Initial, _) => String::new(),
        (_, State::InFlight) => ", in flight".to_owned(),
        (_, State::Acknowledged) => format!(", completed {}", version.ended),
        (_, State::InDoubt) => ", answered with an error or not at all".to_owned(),
    };
    let changed = if version.changed {
        ", buffer changed in flight"
    } else {
        ""
    };
    let what = if version.is_found() {
        "what was there before, left by the power cut".to_owned()
    } else {
        format!("{origin}{state}{changed}")
    };
    VersionLine {
        event: version.no.0,
        request: version.request,
        digest: version.digest,
        gpa: version.gpa,
        what,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(out, "{byte:02x}").expect("a string takes everything");
    }
    out
}

/// A finding that is not made of entries.
pub(crate) fn plain(
    check: Check,
    kind: Wrongness,
    key: &str,
    at: EventNo,
    headline: String,
    detail: String,
) -> Finding {
    Finding {
        id: format!(
            "{}-{:08x}",
            check.name(),
            crc32fast::hash(format!("{}/{key}", kind.name()).as_bytes())
        ),
        check,
        kind,
        confidence: Confidence::Proven,
        headline,
        detail,
        legs: Vec::new(),
        array: Vec::new(),
        leg_ranges: Vec::new(),
        sectors: 0,
        writes: 0,
        first_wrong: None,
        first: at.0,
        last: at.0,
        cause: Cause::Kernel,
        reason: reason(check, kind).to_owned(),
        promise: check.promise().to_owned(),
        example: None,
        story: Vec::new(),
        notes: Vec::new(),
        known: None,
    }
}
