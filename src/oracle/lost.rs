//! The reasons that a lost guest leaves in a report, in one place: who gives them and who looks for them have the same words.

/// QEMU or its guest ended out of turn.
pub(crate) const LOST: &str = "the guest was lost: ";
/// Nothing moved any more, with work outstanding.
pub(crate) const HUNG: &str = "the guest hung: ";
/// Its kernel failed away from storage, or at boot.
pub(crate) const KERNEL: &str = "the guest's kernel failed ";

/// The reason that tells of a lost guest, if one does.
pub fn lost(reasons: &[String]) -> Option<&str> {
    let tells = |reason: &&String| {
        [LOST, HUNG, KERNEL]
            .iter()
            .any(|begin| reason.starts_with(begin))
    };
    reasons.iter().find(tells).map(String::as_str)
}
