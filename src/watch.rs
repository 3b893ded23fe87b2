//! What a run watches, and which checks are blind for what it does not.

use std::collections::BTreeSet;

use crate::finding::Check;

/// A part of the watching that can be switched off, beside each check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A CRC-32 of each sector that is fetched or returned.
    Crc,
    /// The second look at a write's buffer, just before its answer.
    Buffer,
    /// The journal: without it the run can't be judged again.
    Journal,
    /// The fold of all events into shadows, and with it every check of the legs.
    Shadow,
}

impl Part {
    const ALL: [Part; 4] = [Part::Crc, Part::Buffer, Part::Journal, Part::Shadow];

    fn name(self) -> &'static str {
        match self {
            Part::Crc => "crc",
            Part::Buffer => "buffer",
            Part::Journal => "journal",
            Part::Shadow => "shadow",
        }
    }

    /// The checks that see nothing without it.
    fn blinds(self, check: Check) -> bool {
        match self {
            Part::Crc => matches!(
                check,
                Check::Stamp
                    | Check::AckAll
                    | Check::AllLegs
                    | Check::SameData
                    | Check::DiscardAll
                    | Check::CleanEq
                    | Check::BufStable
                    | Check::SamePages
                    | Check::BitClearEq
                    | Check::CrashCovered
                    | Check::ResyncEq
                    | Check::RecEq
                    | Check::Durable
            ),
            Part::Buffer => check == Check::BufStable,
            Part::Journal => false,
            Part::Shadow => Check::LEGS.contains(&check),
        }
    }
}

/// What is watched: everything, unless something was switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    parts_off: BTreeSet<Part>,
    checks_off: BTreeSet<Check>,
}

/// The key among a run's options in the journal's header.
pub const OPTION: &str = "watch";

impl Watch {
    /// Reads words: `all` (where it begins), `none`, and parts or checks by name to be watched, or with `no-` before them not to be. A list that
    /// begins with a part or check to be watched begins with none.
    ///
    /// # Errors
    /// One sentence about the first word that is none.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Watch, String> {
        let mut watch = Watch::default();
        for (at, word) in words.iter().map(|word| word.as_ref().trim()).enumerate() {
            let (on, name) = match word.strip_prefix("no-") {
                Some(name) => (false, name),
                None => (true, word),
            };
            if name == "all" || word == "none" {
                watch = if on && word != "none" {
                    Watch::default()
                } else {
                    Watch::none()
                };
                continue;
            }
            if at == 0 && on {
                watch = Watch::none();
            }
            let part = Part::ALL.into_iter().find(|part| part.name() == name);
            let check = Check::LEGS.into_iter().find(|check| check.name() == name);
            match (part, check, on) {
                (Some(part), _, true) => {
                    watch.parts_off.remove(&part);
                }
                (Some(part), _, false) => {
                    watch.parts_off.insert(part);
                }
                (None, Some(check), true) => watch.see(check),
                (None, Some(check), false) => {
                    watch.checks_off.insert(check);
                }
                (None, None, _) => return Err(unknown(word)),
            }
        }
        Ok(watch)
    }

    fn none() -> Watch {
        Watch {
            parts_off: Part::ALL.into_iter().collect(),
            checks_off: Check::LEGS.into_iter().collect(),
        }
    }

    /// Switches a check on, and the parts that it needs.
    fn see(&mut self, check: Check) {
        self.checks_off.remove(&check);
        self.parts_off.retain(|part| !part.blinds(check));
    }

    /// What [`Watch::words`] gave, from a run's options; everything, where they say nothing.
    pub fn of(options: &serde_json::Value) -> Watch {
        let words: Vec<&str> = options
            .get(OPTION)
            .and_then(serde_json::Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(serde_json::Value::as_str)
            .collect();
        // A word that only a newer version knows switches something off that this one does not have.
        Watch::parse(&words).unwrap_or_default()
    }

    /// What is switched off, in words that [`Watch::parse`] reads.
    pub fn words(&self) -> Vec<String> {
        let parts = self.parts_off.iter().map(|part| part.name());
        let checks = self.checks_off.iter().map(|check| check.name());
        parts
            .chain(checks)
            .map(|name| format!("no-{name}"))
            .collect()
    }

    /// Whether a part is watched.
    pub fn has(&self, part: Part) -> bool {
        !self.parts_off.contains(&part)
    }

    /// Whether a check can't see: it, or a part that it needs, is off.
    pub fn is_blind(&self, check: Check) -> bool {
        self.checks_off.contains(&check) || self.parts_off.iter().any(|part| part.blinds(check))
    }

    /// The checks that can't see.
    pub fn blind(&self) -> impl Iterator<Item = Check> {
        Check::LEGS
            .into_iter()
            .filter(|check| self.is_blind(*check))
    }

    /// Whether nothing looks at what the legs hold: such a run can't be called clean.
    pub fn sees_no_content(&self) -> bool {
        [
            Check::Stamp,
            Check::AllLegs,
            Check::SameData,
            Check::CleanEq,
        ]
        .into_iter()
        .all(|check| self.is_blind(check))
    }
}

fn unknown(word: &str) -> String {
    let parts = Part::ALL.map(Part::name).join(", ");
    let checks = Check::LEGS.map(Check::name).join(", ");
    format!(
        "--watch: `{word}` is no part and no check; use all, none, {parts}, {checks}, each with `no-` before it to switch it off"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(words: &str) -> Watch {
        Watch::parse(&words.split(',').collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn words_switch_parts_and_checks_and_come_back() {
        assert_eq!(Watch::parse::<&str>(&[]), Ok(Watch::default()));
        assert_eq!(watch("all").blind().count(), 0);
        assert_eq!(watch("none").blind().count(), Check::LEGS.len());
        assert_eq!(watch("no-all"), watch("none"));
        let crc = watch("no-crc");
        assert!(crc.is_blind(Check::Stamp) && !crc.is_blind(Check::DirtyFirst));
        assert!(crc.sees_no_content() && crc.has(Part::Buffer));
        let buffer = watch("no-buffer");
        assert_eq!(buffer.blind().collect::<Vec<_>>(), [Check::BufStable]);
        let one = watch("buf-stable");
        assert!(!one.is_blind(Check::BufStable) && one.is_blind(Check::Stamp));
        assert!(one.has(Part::Crc) && one.has(Part::Shadow) && !one.has(Part::Journal));
        for words in [
            "all",
            "none",
            "no-crc,no-journal",
            "stamp,journal",
            "all,no-shadow",
        ] {
            let first = watch(words);
            let options = serde_json::json!({ OPTION: first.words() });
            assert_eq!(Watch::of(&options), first, "{words}");
        }
        assert!(
            Watch::parse(&["no-such"])
                .unwrap_err()
                .contains("`no-such`")
        );
        assert_eq!(Watch::of(&serde_json::Value::Null), Watch::default());
    }
}
