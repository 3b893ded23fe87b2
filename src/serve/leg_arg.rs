//! `--leg NAME=MEDIUM[,key=value…]`, as `legwatch serve` takes it.

use std::path::PathBuf;
use std::str::FromStr;

use crate::block::{LEGS_MAX, Sector, SectorRange};
use crate::config::{LegConfig, MediumConfig};
use crate::scenario::Size;

const KEYS: &str = "block_size, queues, read_only, write_cache, discard, write_zeroes, delay_ms, write_delay_ms, late_fetch, packed, event_idx, indirect, data";

/// All legs of a command line.
///
/// # Errors
/// One sentence: what, where, what to do.
pub fn parse_all(args: &[String]) -> Result<Vec<LegConfig>, String> {
    let mut legs: Vec<LegConfig> = Vec::new();
    for arg in args {
        let leg = parse(arg)?;
        if legs.iter().any(|other| other.name == leg.name) {
            return Err(format!(
                "two legs of the name {}; give each its own",
                leg.name
            ));
        }
        if let MediumConfig::File { path } = &leg.medium {
            let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
            let same = |other: &LegConfig| matches!(&other.medium, MediumConfig::File { path: theirs } if real(theirs) == real(path));
            if let Some(other) = legs.iter().find(|other| same(other)) {
                return Err(format!(
                    "legs {} and {} are the same file {}; a mirror needs two",
                    other.name,
                    leg.name,
                    path.display()
                ));
            }
        }
        legs.push(leg);
    }
    if legs.len() > LEGS_MAX {
        return Err(format!(
            "{} legs; at most {LEGS_MAX} are served",
            legs.len()
        ));
    }
    Ok(legs)
}

fn parse(arg: &str) -> Result<LegConfig, String> {
    let form = || format!("--leg {arg}: write NAME=mem:SIZE or NAME=file:PATH, then ,key=value");
    let (name, rest) = arg.split_once('=').ok_or_else(form)?;
    let mut parts = rest.split(',');
    let medium = parts.next().unwrap_or("");
    let (kind, what) = medium.split_once(':').ok_or_else(form)?;
    let medium = match kind {
        "mem" => MediumConfig::Mem {
            bytes: value::<Size>(name, "size", what)?.bytes(),
        },
        "file" if !what.is_empty() => MediumConfig::File {
            path: PathBuf::from(what),
        },
        _ => return Err(form()),
    };
    let mut leg = LegConfig {
        medium,
        ..LegConfig::memory(name, 0)
    };
    for part in parts {
        let (key, text) = part
            .split_once('=')
            .ok_or_else(|| format!("--leg {arg}: `{part}` is no key=value"))?;
        match key {
            "block_size" => leg.block_size = value(name, key, text)?,
            "queues" => leg.queues = value(name, key, text)?,
            "read_only" => leg.read_only = value(name, key, text)?,
            "write_cache" => leg.write_cache = value(name, key, text)?,
            "discard" => leg.discard = value(name, key, text)?,
            "write_zeroes" => leg.write_zeroes = value(name, key, text)?,
            "delay_ms" => leg.delay_ms = value(name, key, text)?,
            "write_delay_ms" => leg.write_delay_ms = value(name, key, text)?,
            "late_fetch" => leg.late_fetch = value(name, key, text)?,
            "packed" => leg.packed = value(name, key, text)?,
            "event_idx" => leg.event_idx = value(name, key, text)?,
            "indirect" => leg.indirect = value(name, key, text)?,
            "data" => leg.data = Some(range(name, text)?),
            _ => return Err(format!("leg {name}: unknown key `{key}`; there are {KEYS}")),
        }
    }
    leg.check()?;
    Ok(leg)
}

fn value<T: FromStr>(leg: &str, key: &str, text: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| format!("leg {leg}: {key} = `{text}`: {error}"))
}

fn range(leg: &str, text: &str) -> Result<SectorRange, String> {
    let form = || format!("leg {leg}: data = `{text}`; write START+COUNT in sectors of 512 bytes");
    let (start, count) = text.split_once('+').ok_or_else(form)?;
    let start = start.parse().map_err(|_| form())?;
    let count = count.parse().map_err(|_| form())?;
    SectorRange::new(Sector(start), count).ok_or_else(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(arg: &str) -> Result<LegConfig, String> {
        parse_all(&[arg.to_owned()]).map(|mut legs| legs.remove(0))
    }

    #[test]
    fn legs_are_read() {
        let leg = one("a=mem:1G,block_size=4096,queues=2,late_fetch=true,data=2048+100").unwrap();
        assert_eq!(leg.medium, MediumConfig::Mem { bytes: 1 << 30 });
        assert_eq!(
            (leg.block_size, leg.queues, leg.late_fetch),
            (4096, 2, true)
        );
        assert_eq!(leg.data, SectorRange::new(Sector(2048), 100));
        assert_eq!(
            one("b=file:/x/y.img").unwrap().medium,
            MediumConfig::File {
                path: "/x/y.img".into()
            }
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (arg, expected) in [
            ("a", "write NAME=mem:SIZE"),
            ("a=disk:1", "write NAME=mem:SIZE"),
            ("a=mem:0", "leg a: size 0"),
            ("a=mem:12x", "`12x` is no size"),
            ("a=mem:1M,colour=red", "unknown key `colour`"),
            ("a=mem:1M,queues=99", "99 queues"),
            ("a=mem:1M,data=5", "START+COUNT"),
            ("=mem:1M", "leg name ``"),
        ] {
            let message = one(arg).unwrap_err();
            assert!(
                message.contains(expected),
                "{expected:?} is not in {message:?}"
            );
        }
        let two = parse_all(&["a=mem:1M".into(), "a=mem:1M".into()]).unwrap_err();
        assert!(two.contains("two legs of the name a"), "{two}");
    }
}
