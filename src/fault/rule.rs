//! A rule as it is written, in a scenario's `[[fault]]` tables and by `legwatch ctl` alike. docs/faults.md explains every key.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::block::{Sector, SectorRange};

/// One rule: what it matches, what it does, how often. Everything that is named must hold at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name in journal, report and other rules; default: its action, with a number from the second on.
    #[serde(default)]
    pub name: String,
    /// Legs; none: all.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "some"
    )]
    pub legs: Vec<String>,
    /// Operations; none: all that the action makes sense for.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "some"
    )]
    pub on: Vec<Op>,
    /// Sectors of the leg, `START+COUNT`; a request that touches them matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sectors: Option<Span>,
    /// Sectors of the array, `START+COUNT`; matches nothing before the data area is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<Span>,
    /// Only the so many-th match, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Only every so many-th match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// At most so often on each leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
    /// With this probability, above 0 and at most 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Only with so many requests in flight on the leg, this one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u64>,
    /// Only in these boots, from 1.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "some"
    )]
    pub boots: Vec<u32>,
    /// From this request of the leg on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_request: Option<u64>,
    /// Up to this request of the leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_request: Option<u64>,
    /// From so many milliseconds after the start of the legs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<u64>,
    /// Up to so many milliseconds after the start of the legs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<u64>,
    /// Once this mark was set: a step of this name began, or `legwatch ctl … mark` said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_mark: Option<String>,
    /// Until this mark is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_mark: Option<String>,
    /// Only while a step of this name runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<String>,
    /// Only after another rule has fired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
    /// Only where another leg has done something with the twin of this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<Twin>,
    /// Only while another leg has requests in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
    /// At which point of the request's way a failure or a wait happens; default: before its payload is fetched (fail), before its answer (waits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// What happens.
    #[serde(rename = "do")]
    pub action: Do,
    /// Whether the run counts even if this never happens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_not_fire: bool,
}

/// A list that names something: whoever writes an empty one hardly means all.
fn some<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::deserialize(from)?;
    if list.is_empty() {
        return Err(serde::de::Error::custom(
            "an empty list: it can inject nothing; leave the key out to mean all",
        ));
    }
    Ok(list)
}

/// A point on a request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing was fetched yet.
    BeforeFetch,
    /// A write's payload was fetched, and nothing stored.
    BeforeStore,
    /// All is done but the answer.
    BeforeAnswer,
}

/// An operation that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// FLUSH.
    Flush,
    /// DISCARD.
    Discard,
    /// WRITE_ZEROES, with or without unmap.
    WriteZeroes,
}

impl Op {
    /// Its name in the language.
    pub fn name(self) -> &'static str {
        match self {
            Op::Read => "read",
            Op::Write => "write",
            Op::Flush => "flush",
            Op::Discard => "discard",
            Op::WriteZeroes => "write-zeroes",
        }
    }
}

/// Sectors as `START+COUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub SectorRange);

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Span, String> {
        text.parse()
    }
}

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Span, String> {
        let range = text.split_once('+').and_then(|(start, count)| {
            SectorRange::new(
                Sector(start.trim().parse().ok()?),
                count.trim().parse().ok()?,
            )
        });
        range
            .filter(|range| !range.is_empty())
            .map(Span)
            .ok_or_else(|| {
                format!("`{text}` is no range; write START+COUNT in sectors of 512 bytes")
            })
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.0.to_string()
    }
}

/// After another rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The rule's name.
    pub rule: String,
    /// How often it must have fired, on all legs together.
    #[serde(default = "once")]
    pub times: u64,
}

fn once() -> u64 {
    1
}

/// What another leg has done with the write of the same content to the same array sector (that of the request's first sector).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Twin {
    /// The other leg.
    pub leg: String,
    /// What it has done.
    pub is: TwinIs,
}

/// How far the other leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TwinIs {
    /// It has acknowledged the twin.
    Acknowledged,
    /// It holds the twin, or an older write to the sector, in flight.
    InFlight,
    /// The twin has not arrived there.
    Absent,
}

/// What goes on on another leg, whatever sectors it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// The other leg.
    pub leg: String,
    /// At least so many requests are in flight there.
    #[serde(default = "once")]
    pub in_flight: u64,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Do {
    /// Answer with an error, do nothing else.
    Fail(Answer),
    /// Hold it for ever: it ends when its queue does.
    NeverAnswer,
    /// Answer late.
    Delay(Delay),
    /// Hold it until it is released.
    Hold(Hold),
    /// Answer it behind requests that arrived later.
    Reorder(Reorder),
    /// Acknowledge and store nothing.
    Lose,
    /// Store a part.
    Tear(Tear),
    /// Store (write) or return (read) something else.
    Corrupt(Corrupt),
    /// Store to, or read from, another place.
    Misdirect(Misdirect),
    /// Return what was there before.
    Stale(Stale),
    /// Fetch a write's payload just before its completion, as slow DMA does.
    LateFetch,
    /// Fetch the first half at arrival, the second just before completion.
    SplitFetch(SplitFetch),
    /// Acknowledge a flush and make nothing durable.
    FlushLie,
    /// Serve nothing for a while.
    Stall(Stall),
    /// Refuse every change from now on, this one included.
    ReadOnly,
    /// The sectors can't be read until they are written again.
    BadSectors,
    /// Fail everything from now on.
    Dead,
    /// Cut the power of all legs: nothing is answered any more, and volatile caches lose what was not flushed.
    PowerCut,
    /// Close the leg's socket, and listen again after a while: a frontend has to connect again.
    Disconnect(Disconnect),
    /// Have QEMU take the device away from the guest, and put it back after a while (`legwatch run` alone).
    Unplug(Unplug),
    /// Make the leg larger, and tell its frontend.
    Resize(Resize),
}

/// An error for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Acknowledged.
    Ok,
    /// `VIRTIO_BLK_S_IOERR`
    IoError,
    /// `VIRTIO_BLK_S_UNSUPP`
    Unsupported,
}

/// How late an answer comes: `ms` alone; or from `ms` to `to_ms`, uniform; or most at `ms`, with one in a hundred at `p99_ms` or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Milliseconds: all of it, the least, or the median.
    pub ms: u32,
    /// The most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<u32>,
    /// What one in a hundred reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<u32>,
}

/// What releases a held request. With none, `legwatch ctl … release`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// A mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_mark: Option<String>,
    /// A rule that fires after the request arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_rule: Option<String>,
    /// Not longer than this, whatever else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most_ms: Option<u32>,
}

/// How far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reorder {
    /// So many requests that end after its arrival are answered before it.
    pub behind: u64,
    /// Not longer than this: there may be no others.
    #[serde(default = "a_while")]
    pub at_most_ms: u32,
}

fn a_while() -> u32 {
    100
}

/// Which part of a write is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tear {
    /// Which sectors are stored.
    pub keep: Part,
    /// How many; default: half for prefix and suffix, by chance for random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sectors: Option<u64>,
    /// The answer.
    #[serde(default = "answer_ok")]
    pub answer: Answer,
}

fn answer_ok() -> Answer {
    Answer::Ok
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Its first sectors.
    Prefix,
    /// Its last sectors.
    Suffix,
    /// Any.
    Random,
}

/// What becomes of bytes; exactly one of `flip_bits`, `stuck`, `fill`, `random`, `from_sector`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Corrupt {
    /// So many bits of the request, by chance, are flipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip_bits: Option<u32>,
    /// One bit of every sector is stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Stuck>,
    /// Every byte is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<u8>,
    /// Every byte is by chance.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub random: bool,
    /// The content of the sectors from this one of the leg on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_sector: Option<u64>,
    /// A corrupted read stays so until the sectors are written again. (What was corrupted when it was written always does.)
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
}

/// A stuck bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stuck {
    /// The byte in the sector, 0 to 511.
    pub byte: u16,
    /// The bit, 0 (lowest) to 7.
    pub bit: u8,
    /// What it always is.
    pub one: bool,
}

/// Where a misdirected request goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Misdirect {
    /// The first sector there; default: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_sector: Option<u64>,
    /// The leg; default: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_leg: Option<String>,
}

/// How old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stale {
    /// So many versions back, 1 to 16; fewer where there were fewer.
    #[serde(default = "one")]
    pub versions: u8,
}

fn one() -> u8 {
    1
}

/// When the second half is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitFetch {
    /// So many milliseconds after the first.
    pub ms: u32,
}

/// For how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stall {
    /// Milliseconds.
    pub ms: u32,
    /// Only the queue that the request came on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queue: bool,
}

/// How long nobody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnect {
    /// Milliseconds.
    #[serde(default = "a_moment")]
    pub ms: u32,
}

fn a_moment() -> u32 {
    200
}

/// How long the device is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unplug {
    /// Milliseconds from its removal to its return.
    #[serde(default = "a_second")]
    pub ms: u32,
    /// Whether it comes back in this boot.
    #[serde(default = "yes")]
    pub back: bool,
}

fn a_second() -> u32 {
    1000
}

fn yes() -> bool {
    true
}

/// How large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The leg's new size in sectors.
    pub sectors: u64,
}

impl Do {
    /// The action's name.
    pub fn name(&self) -> &'static str {
        match self {
            Do::Fail(_) => "fail",
            Do::NeverAnswer => "never-answer",
            Do::Delay(_) => "delay",
            Do::Hold(_) => "hold",
            Do::Reorder(_) => "reorder",
            Do::Lose => "lose",
            Do::Tear(_) => "tear",
            Do::Corrupt(_) => "corrupt",
            Do::Misdirect(_) => "misdirect",
            Do::Stale(_) => "stale",
            Do::LateFetch => "late-fetch",
            Do::SplitFetch(_) => "split-fetch",
            Do::FlushLie => "flush-lie",
            Do::Stall(_) => "stall",
            Do::ReadOnly => "read-only",
            Do::BadSectors => "bad-sectors",
            Do::Dead => "dead",
            Do::PowerCut => "power-cut",
            Do::Disconnect(_) => "disconnect",
            Do::Unplug(_) => "unplug",
            Do::Resize(_) => "resize",
        }
    }

    /// The operations that the action makes sense for.
    pub fn fits(&self) -> &'static [Op] {
        match self {
            Do::Lose => &[Op::Write, Op::Discard, Op::WriteZeroes],
            Do::Tear(_) | Do::LateFetch | Do::SplitFetch(_) => &[Op::Write],
            Do::Corrupt(_) | Do::Misdirect(_) | Do::BadSectors => &[Op::Read, Op::Write],
            Do::Stale(_) => &[Op::Read],
            Do::FlushLie => &[Op::Flush],
            Do::Fail(_)
            | Do::NeverAnswer
            | Do::Delay(_)
            | Do::Hold(_)
            | Do::Reorder(_)
            | Do::Stall(_)
            | Do::ReadOnly
            | Do::Dead
            | Do::PowerCut
            | Do::Disconnect(_)
            | Do::Unplug(_)
            | Do::Resize(_) => &[Op::Read, Op::Write, Op::Flush, Op::Discard, Op::WriteZeroes],
        }
    }
}

impl Rule {
    /// The operations that it matches.
    pub fn operations(&self) -> &[Op] {
        if self.on.is_empty() {
            self.action.fits()
        } else {
            &self.on
        }
    }

    /// Whether the rule takes a disk's data, or the disk, away: what a budget counts.
    pub fn damages(&self) -> bool {
        match self.action {
            Do::Fail(_)
            | Do::Lose
            | Do::Tear(_)
            | Do::Corrupt(_)
            | Do::Misdirect(_)
            | Do::Stale(_)
            | Do::ReadOnly
            | Do::BadSectors
            | Do::FlushLie
            | Do::Unplug(_)
            | Do::Dead => true,
            Do::NeverAnswer
            | Do::Delay(_)
            | Do::Hold(_)
            | Do::Reorder(_)
            | Do::LateFetch
            | Do::SplitFetch(_)
            | Do::Stall(_)
            | Do::PowerCut
            | Do::Disconnect(_)
            | Do::Resize(_) => false,
        }
    }
}
