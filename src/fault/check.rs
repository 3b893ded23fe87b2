//! Whether a list of rules makes sense. Everything that can be refused is refused before anything starts.

use super::rule::{Answer, Do, Op, Rule, Stage};
use crate::block::{Sector, SectorRange};
use crate::config::{LegConfig, MediumConfig};

/// Gives names to the rules that have none: the action, with a number from the second on.
pub fn name_all(rules: &mut [Rule]) {
    for at in 0..rules.len() {
        if !rules[at].name.is_empty() {
            continue;
        }
        let plain = rules[at].action.name();
        let taken = |name: &str| rules.iter().any(|rule| rule.name == name);
        let name = (1..)
            .map(|number| match number {
                1 => plain.to_owned(),
                _ => format!("{plain} {number}"),
            })
            .find(|name| !taken(name))
            .unwrap_or_default();
        rules[at].name = name;
    }
}

/// Whether the rules make sense for the legs.
///
/// # Errors
/// The place of the rule in the list, and one sentence.
pub fn check(rules: &[Rule], legs: &[LegConfig]) -> Result<(), (usize, String)> {
    if rules.len() > 1000 {
        return Err((1000, format!("{} rules; use at most 1000", rules.len())));
    }
    for (at, rule) in rules.iter().enumerate() {
        one(rule, rules, at, legs).map_err(|why| (at, format!("fault `{}`: {why}", rule.name)))?;
    }
    Ok(())
}

fn one(rule: &Rule, rules: &[Rule], at: usize, legs: &[LegConfig]) -> Result<(), String> {
    if rules[..at].iter().any(|other| other.name == rule.name) {
        return Err("two rules have this name; give each its own".into());
    }
    let known = || {
        legs.iter()
            .map(|leg| leg.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let leg = |name: &str| {
        legs.iter()
            .find(|leg| leg.name == name)
            .ok_or_else(|| format!("unknown leg `{name}`; the legs are {}", known()))
    };
    let mut targets: Vec<&LegConfig> = Vec::new();
    for name in &rule.legs {
        if targets.iter().any(|target| target.name == *name) {
            return Err(format!("legs names `{name}` twice"));
        }
        targets.push(leg(name)?);
    }
    if targets.is_empty() {
        targets.extend(legs);
    }
    let fits = rule.action.fits();
    if let Some(op) = rule.on.iter().find(|op| !fits.contains(op)) {
        return Err(format!(
            "{} does nothing to a {}, only to {}",
            rule.action.name(),
            op.name(),
            names(fits)
        ));
    }
    counts(rule)?;
    if let Some(depth) = rule.depth {
        in_flight("depth", depth, &targets)?;
    }
    if let Some(stage) = rule.stage {
        let fits = match rule.action {
            Do::Fail(_) => true,
            Do::Delay(_) | Do::Hold(_) | Do::NeverAnswer => {
                if stage == Stage::BeforeStore && !rule.operations().contains(&Op::Write) {
                    return Err("stage before-store is about writes; this rule matches none".into());
                }
                true
            }
            Do::Reorder(_)
            | Do::Lose
            | Do::Tear(_)
            | Do::Corrupt(_)
            | Do::Misdirect(_)
            | Do::Stale(_)
            | Do::LateFetch
            | Do::SplitFetch(_)
            | Do::FlushLie
            | Do::Stall(_)
            | Do::ReadOnly
            | Do::BadSectors
            | Do::Dead
            | Do::PowerCut
            | Do::Disconnect(_)
            | Do::Unplug(_)
            | Do::Resize(_) => false,
        };
        if !fits {
            return Err(format!(
                "{} has no such stage; leave it out",
                rule.action.name()
            ));
        }
    }
    let flush_alone = rule.operations().iter().all(|op| *op == Op::Flush);
    if flush_alone && (rule.sectors.is_some() || rule.array.is_some() || rule.twin.is_some()) {
        return Err("a flush has no sectors: it can't match".into());
    }
    let can_come = |op: Op| targets.iter().any(|leg| offers(leg, op));
    if !rule.operations().iter().any(|op| can_come(*op)) {
        return Err(format!(
            "no leg of the rule takes a {} (its configuration says so): it can inject nothing",
            names(rule.operations())
        ));
    }
    for (key, span) in [("sectors", rule.sectors), ("array sectors", rule.array)] {
        if let Some(span) = span
            && ends_before(&targets, rules, span.0.start().0)
        {
            return Err(format!(
                "{key} {} are past the end of every leg: it can inject nothing",
                span.0
            ));
        }
    }
    if let Some(after) = &rule.after {
        waits_for(rule, rules, &after.rule)?;
        if after.times == 0 {
            return Err("after.times = 0 is no condition; leave it out".into());
        }
        if let Some(other) = rules.iter().find(|other| other.name == after.rule) {
            follows(rule, other, after.times, legs.len())?;
        }
    }
    if let Some(twin) = &rule.twin {
        leg(&twin.leg)?;
        if rule.legs.iter().all(|name| *name == twin.leg) && !rule.legs.is_empty() {
            return Err(format!(
                "twin.leg `{}` is the rule's own leg; name another",
                twin.leg
            ));
        }
        if legs.len() < 2 {
            return Err("a twin needs a second leg".into());
        }
        if !rule.operations().contains(&Op::Write) {
            return Err(format!(
                "only writes have twins, and the rule is about {}; put \"write\" into `on`, or leave `twin` out",
                names(rule.operations())
            ));
        }
    }
    if let Some(beside) = &rule.beside {
        leg(&beside.leg)?;
        if beside.in_flight == 0 {
            return Err("beside.in_flight = 0 is no condition; leave it out".into());
        }
        if !rule.legs.is_empty() && rule.legs.iter().all(|name| *name == beside.leg) {
            return Err(format!(
                "beside.leg `{}` is the rule's own leg; say depth instead",
                beside.leg
            ));
        }
        in_flight("beside.in_flight", beside.in_flight, &[leg(&beside.leg)?])?;
    }
    action(rule, rules, &targets, &leg)
}

fn names(ops: &[Op]) -> String {
    let names: Vec<&str> = ops.iter().map(|op| op.name()).collect();
    names.join(", ")
}

/// The first rule that asks for something that only QEMU's owner can do, by its place.
pub fn needs_qemu(rules: &[Rule]) -> Option<usize> {
    rules
        .iter()
        .position(|rule| matches!(rule.action, Do::Unplug(_)))
}

/// Why such a rule is refused where legwatch does not own QEMU.
pub fn no_qemu(rule: &Rule) -> String {
    format!(
        "fault `{}`: unplug is for scenarios of `legwatch run`, which owns QEMU; use disconnect or dead here",
        rule.name
    )
}

/// Whether `name` is another rule, and does not wait for this one itself.
fn waits_for(rule: &Rule, rules: &[Rule], name: &str) -> Result<(), String> {
    let find = |name: &str| rules.iter().find(|other| other.name == name);
    let Some(mut other) = find(name) else {
        return Err(format!("after: there is no rule `{name}`"));
    };
    for _ in 0..rules.len() {
        if other.name == rule.name {
            return Err(format!(
                "after: it waits for `{name}`, which waits for it: it can inject nothing"
            ));
        }
        match other.after.as_ref().and_then(|after| find(&after.rule)) {
            Some(next) => other = next,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Whether another rule can have fired so often when this one is to.
fn follows(rule: &Rule, other: &Rule, times: u64, legs: usize) -> Result<(), String> {
    let legs = match other.legs.len() {
        0 => legs,
        some => some,
    };
    let each = other.nth.map(|_| 1).or(other.at_most);
    let most = each.map(|each| each.saturating_mul(legs as u64));
    if let Some(most) = most.filter(|most| times > *most) {
        return Err(format!(
            "after: `{}` fires {most} times at most, never {times}: it can inject nothing",
            other.name
        ));
    }
    if let (Some(first), Some(last)) = (other.boots.iter().min(), rule.boots.iter().max())
        && first > last
    {
        return Err(format!(
            "after: `{}` fires in boot {first} at the earliest, and this rule is over with boot {last}: it can inject nothing",
            other.name
        ));
    }
    Ok(())
}

/// Whether so many requests can be in flight on one of the legs.
fn in_flight(key: &str, wanted: u64, legs: &[&LegConfig]) -> Result<(), String> {
    /// What a queue has room for (virtio 1.2, 2.7 and 2.8: the queue size is at most 32768).
    const RING_MAX: u64 = 32_768;
    let queues = legs.iter().map(|leg| u64::from(leg.queues)).max();
    let most = queues.unwrap_or(1).saturating_mul(RING_MAX);
    if wanted > most {
        return Err(format!(
            "{key} = {wanted}, and the queues have room for {most} at most: it can inject nothing"
        ));
    }
    Ok(())
}

fn counts(rule: &Rule) -> Result<(), String> {
    let zero = |value: Option<u64>, key: &str| match value {
        Some(0) => Err(format!("{key} = 0: it can inject nothing")),
        Some(_) | None => Ok(()),
    };
    zero(rule.nth, "nth")?;
    zero(rule.every, "every")?;
    zero(rule.at_most, "at_most")?;
    zero(rule.to_request, "to_request")?;
    if rule.depth == Some(0) {
        return Err("depth = 0 is no condition; leave it out".into());
    }
    if rule.nth.is_some() && (rule.every.is_some() || rule.at_most.is_some_and(|most| most > 1)) {
        return Err("nth is one match; it contradicts every and at_most".into());
    }
    if let Some(p) = rule.probability
        && !(p > 0.0 && p <= 1.0)
    {
        return Err(format!("probability = {p}; use more than 0 and at most 1"));
    }
    let empty = |from: Option<u64>, to: Option<u64>, keys: &str| match (from, to) {
        (Some(from), Some(to)) if to < from => Err(format!(
            "{keys}: {to} is before {from}: it can inject nothing"
        )),
        _ => Ok(()),
    };
    empty(
        rule.from_request,
        rule.to_request,
        "from_request and to_request",
    )?;
    empty(rule.from_ms, rule.to_ms, "from_ms and to_ms")?;
    if let Some(to) = rule.to_request {
        let from = rule.from_request.unwrap_or(1).max(1);
        let room = to.saturating_sub(from).saturating_add(1);
        for (key, wanted) in [("nth", rule.nth), ("every", rule.every)] {
            if let Some(wanted) = wanted.filter(|wanted| *wanted > room) {
                return Err(format!(
                    "{key} = {wanted}, and requests {from} to {to} are {room}: it can inject nothing"
                ));
            }
        }
    }
    if rule.from_mark.is_some() && rule.from_mark == rule.to_mark {
        return Err("from_mark and to_mark are the same: it can inject nothing".into());
    }
    if rule.boots.contains(&0) {
        return Err("boot 0; boots count from 1".into());
    }
    Ok(())
}

fn action<'a>(
    rule: &Rule,
    rules: &[Rule],
    targets: &[&LegConfig],
    leg: &dyn Fn(&str) -> Result<&'a LegConfig, String>,
) -> Result<(), String> {
    match &rule.action {
        Do::Fail(Answer::Ok) => {
            return Err("fail = \"ok\" is no failure; use io-error or unsupported".into());
        }
        Do::Delay(delay) => {
            if delay.to_ms.is_some() && delay.p99_ms.is_some() {
                return Err("to_ms and p99_ms at once; a delay is uniform or has a tail".into());
            }
            let most = delay.to_ms.or(delay.p99_ms).unwrap_or(delay.ms);
            if most == 0 {
                return Err("a delay of 0 ms: it can inject nothing".into());
            }
            if most < delay.ms {
                return Err(format!("a delay from {} to {most} ms", delay.ms));
            }
        }
        Do::Hold(hold) => {
            if hold.at_most_ms == Some(0) {
                return Err("a hold of at most 0 ms: it can inject nothing".into());
            }
            if let Some(mark) = &hold.until_mark
                && rule.from_mark.as_ref() == Some(mark)
            {
                return Err(format!(
                    "until_mark: `{mark}` is set before the rule begins (from_mark), so nothing is held: it can inject nothing"
                ));
            }
            if let Some(name) = &hold.until_rule {
                // Whoever releases may well wait for this one (`after`): it has fired once it holds something.
                if !rules.iter().any(|other| other.name == *name) {
                    return Err(format!("until_rule: there is no rule `{name}`"));
                }
                let once = rule.nth.is_some() || rule.at_most == Some(1);
                if *name == rule.name && once && targets.len() < 2 && hold.at_most_ms.is_none() {
                    return Err(format!(
                        "until_rule: `{name}` fires once, and would have to again to release what it holds; say never-answer"
                    ));
                }
            }
        }
        Do::Reorder(reorder) if reorder.behind == 0 || reorder.at_most_ms == 0 => {
            return Err("behind = 0 or at_most_ms = 0: it can inject nothing".into());
        }
        Do::Tear(tear) if tear.sectors == Some(0) => {
            return Err("a tear that keeps 0 sectors; use lose or fail".into());
        }
        Do::Corrupt(corrupt) => {
            let ways = [
                corrupt.flip_bits.is_some(),
                corrupt.stuck.is_some(),
                corrupt.fill.is_some(),
                corrupt.random,
                corrupt.from_sector.is_some(),
            ];
            if ways.into_iter().filter(|way| *way).count() != 1 {
                return Err(
                    "give corrupt exactly one of flip_bits, stuck, fill, random, from_sector"
                        .into(),
                );
            }
            if let Some(from) = corrupt.from_sector
                && ends_before(targets, rules, from)
            {
                return Err(format!(
                    "from_sector = {from} is past the end of every leg: it can inject nothing"
                ));
            }
            if let Some(bits) = corrupt.flip_bits
                && !(1..=4096).contains(&bits)
            {
                return Err(format!(
                    "flip_bits = {bits}; use 1 to 4096, the bits of a sector"
                ));
            }
            if let Some(stuck) = corrupt.stuck
                && (stuck.byte > 511 || stuck.bit > 7)
            {
                return Err(format!(
                    "byte {} bit {}; use bytes 0 to 511 and bits 0 to 7",
                    stuck.byte, stuck.bit
                ));
            }
        }
        Do::Misdirect(to) => {
            if to.to_sector.is_none() && to.to_leg.is_none() {
                return Err("misdirect to where? give it to_sector, to_leg, or both".into());
            }
            let there = match &to.to_leg {
                Some(name) => vec![leg(name)?],
                None => targets.to_vec(),
            };
            if let Some(sector) = to.to_sector
                && ends_before(&there, rules, sector)
            {
                return Err(format!(
                    "to_sector = {sector} is past the end of the leg that it is about: it can inject nothing"
                ));
            }
            let same_leg = match &to.to_leg {
                Some(name) => targets.iter().all(|leg| leg.name == *name),
                None => true,
            };
            // A request that touches sector 0 begins there, and no other sector says where a request begins.
            let first = SectorRange::new(Sector(0), 1);
            let same_sector = to
                .to_sector
                .is_none_or(|to| to == 0 && rule.sectors.map(|span| span.0) == first);
            if same_leg && same_sector {
                return Err(
                    "a request is misdirected to its own place: it can inject nothing".into(),
                );
            }
        }
        Do::Stale(stale) => {
            if !(1..=16).contains(&stale.versions) {
                return Err(format!("versions = {}; use 1 to 16", stale.versions));
            }
            if rule.sectors.is_none() {
                return Err(
                    "stale needs sectors = \"START+COUNT\": old versions are kept for these alone"
                        .into(),
                );
            }
        }
        Do::Stall(stall) if stall.ms == 0 => {
            return Err("a stall of 0 ms: it can inject nothing".into());
        }
        Do::Resize(resize) => {
            for leg in targets {
                let block = u64::from(leg.block_size / 512);
                if !resize.sectors.is_multiple_of(block) {
                    return Err(format!(
                        "resize to {} sectors: leg {} has blocks of {block}",
                        resize.sectors, leg.name
                    ));
                }
            }
            if targets
                .iter()
                .all(|leg| size(leg).is_some_and(|size| resize.sectors <= size))
            {
                return Err(format!(
                    "resize to {} sectors: every leg has as many already, and none can shrink",
                    resize.sectors
                ));
            }
        }
        Do::Fail(_)
        | Do::NeverAnswer
        | Do::Reorder(_)
        | Do::Lose
        | Do::Tear(_)
        | Do::LateFetch
        | Do::SplitFetch(_)
        | Do::FlushLie
        | Do::Stall(_)
        | Do::ReadOnly
        | Do::BadSectors
        | Do::Dead
        | Do::PowerCut
        | Do::Disconnect(_)
        | Do::Unplug(_) => {}
    }
    Ok(())
}

/// A leg's size in sectors, where its configuration has it.
fn size(leg: &&LegConfig) -> Option<u64> {
    match leg.medium {
        MediumConfig::Mem { bytes } => Some(bytes / 512),
        MediumConfig::File { .. } => None,
    }
}

/// Whether every leg ends before this sector, as far as sizes are known, with what rules make them grow to.
fn ends_before(legs: &[&LegConfig], rules: &[Rule], sector: u64) -> bool {
    let grown = |leg: &LegConfig| {
        let of_leg = |rule: &&Rule| rule.legs.is_empty() || rule.legs.contains(&leg.name);
        let mut most = 0;
        for rule in rules.iter().filter(of_leg) {
            if let Do::Resize(resize) = &rule.action {
                most = most.max(resize.sectors);
            }
        }
        most
    };
    legs.iter()
        .all(|leg| size(leg).is_some_and(|size| sector >= size.max(grown(leg))))
}

/// Whether the leg's configuration lets a frontend ask for this.
fn offers(leg: &LegConfig, op: Op) -> bool {
    match op {
        Op::Read => true,
        Op::Write => !leg.read_only,
        Op::Flush => leg.write_cache,
        Op::Discard => leg.discard && !leg.read_only,
        Op::WriteZeroes => leg.write_zeroes && !leg.read_only,
    }
}

/// Whether the rules make sense where nobody can set marks, release what is held or cut the power by hand: `steps` are the steps' names of every
/// boot.
///
/// # Errors
/// As for [`check`].
pub fn check_alone(rules: &[Rule], steps: &[Vec<String>]) -> Result<(), (usize, String)> {
    const BY_HAND: &str = "or do it by hand, with --control and `legwatch ctl`";
    let is_step = |name: &String| steps.iter().any(|names| names.contains(name));
    let first = |name: &String| {
        let step = |names: &Vec<String>| names.iter().position(|step| step == name);
        let mut boots = steps.iter().enumerate();
        boots.find_map(|(boot, names)| Some((boot, step(names)?)))
    };
    let cuts = rules.iter().any(|rule| matches!(rule.action, Do::PowerCut));
    for (at, rule) in rules.iter().enumerate() {
        let wrong = |why: String| Err((at, format!("fault `{}`: {why}; {BY_HAND}", rule.name)));
        if let Some(mark) = rule.from_mark.as_ref().filter(|mark| !is_step(mark)) {
            return wrong(format!(
                "from_mark: no step is called `{mark}`, so nothing sets it, and the rule can inject nothing: name a step"
            ));
        }
        if let Some(mark) = rule.to_mark.as_ref().filter(|mark| !is_step(mark)) {
            return wrong(format!(
                "to_mark: no step is called `{mark}`, so nothing sets it, and the rule never ends: name a step, or leave it out"
            ));
        }
        // Marks stay set: once the last is, nothing of the rule is left.
        for (key, begin) in [("from_mark", &rule.from_mark), ("during", &rule.during)] {
            if let (Some(begin), Some(end)) = (begin, &rule.to_mark)
                && first(end) <= first(begin)
            {
                return wrong(format!(
                    "to_mark: step `{end}` begins no later than `{begin}` ({key}): it can inject nothing"
                ));
            }
        }
        // A step of an earlier boot will do.
        if let (Some(mark), Some(last)) = (&rule.from_mark, rule.boots.iter().max())
            && let Some(first) = steps.iter().position(|names| names.contains(mark))
            && u32::try_from(first).is_ok_and(|first| first >= *last)
        {
            return wrong(format!(
                "from_mark: step `{mark}` begins in boot {} at the earliest, and the rule is over with boot {last}: it can inject nothing",
                first.saturating_add(1)
            ));
        }
        if rule.action == Do::FlushLie && !cuts {
            return wrong(
                "what a lying flush did not make durable is missed after a power cut alone, and no rule cuts the power: it can inject nothing; add one"
                    .into(),
            );
        }
        if let Do::Hold(hold) = &rule.action
            && hold.at_most_ms.is_none()
            && hold.until_rule.is_none()
            && !hold.until_mark.as_ref().is_some_and(is_step)
        {
            return wrong(
                "nothing releases what it holds: give hold the name of a step (until_mark), until_rule or at_most_ms, or say never-answer"
                    .into(),
            );
        }
    }
    Ok(())
}

/// Whether the boots and steps that rules speak of are there: `steps` are the steps' names of every boot.
///
/// # Errors
/// As for [`check`].
pub fn check_steps(rules: &[Rule], steps: &[Vec<String>]) -> Result<(), (usize, String)> {
    for (at, rule) in rules.iter().enumerate() {
        let wrong = |why: String| Err((at, format!("fault `{}`: {why}", rule.name)));
        let number = |place: usize| u32::try_from(place + 1).unwrap_or(u32::MAX);
        let last = u32::try_from(steps.len()).unwrap_or(u32::MAX);
        if let Some(boot) = rule.boots.iter().find(|boot| **boot > last) {
            return wrong(format!("boot {boot}; there are {last}"));
        }
        if let Some(during) = &rule.during {
            let mut there = steps
                .iter()
                .enumerate()
                .filter(|(place, _)| rule.boots.is_empty() || rule.boots.contains(&number(*place)));
            if !there.any(|(_, names)| names.contains(during)) {
                return wrong(format!(
                    "during: no step is called `{during}` in its boots: it can inject nothing"
                ));
            }
        }
    }
    Ok(())
}
