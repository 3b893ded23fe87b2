//! Lines of a kernel's trace: which function, which module, how sure.

use std::fmt;

/// A function in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Without offset and compiler's suffix: `raid1_end_write_request`.
    pub name: String,
    /// The module it is in; nothing when it is built in.
    pub module: Option<String>,
    /// Whether the unwinder is sure of it (no `?` before it).
    pub reliable: bool,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            Some(module) => write!(f, "{} [{module}]", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Modules that are storage's, besides those whose name starts with `dm_`.
const MODULES: &[&str] = &[
    "md_mod",
    "raid0",
    "raid1",
    "raid10",
    "raid456",
    "linear",
    "bcache",
    "virtio_blk",
    "null_blk",
    "loop",
    "brd",
];

/// What the names of built-in storage functions start with, leading underscores aside.
const PREFIXES: &[&str] = &[
    "md_",
    "mddev_",
    "raid0_",
    "raid1_",
    "raid10_",
    "raid5_",
    "bitmap_",
    "llbitmap_",
    "dm_",
    "bio_",
    "blk_",
    "blkdev_",
    "blkcg_",
    "bdev_",
    "bd_",
    "bch_",
    "bcache_",
    "submit_bio",
    "submit_flushes",
    "virtblk_",
    "virtio_queue_rq",
    "block_",
    "elv_",
    "dd_",
    "bfq_",
    "kyber_",
    "sbitmap_",
    "rq_qos_",
    "wbt_",
    "disk_",
    "genhd_",
    "del_gendisk",
    "add_disk",
    "device_add_disk",
    "flush_bio",
    "handle_read_error",
    "handle_write_finished",
    "narrow_write_error",
    "fix_read_error",
    "freeze_array",
    "wait_barrier",
    "raise_barrier",
    "super_written",
    "alloc_behind_master_bio",
    "handle_stripe",
];

/// Names that start like the block layer's and are not: mounting the root (init), bitmaps as such (lib), and bits of lists.
const NOT_STORAGE: &[&str] = &[
    "bitmap_find",
    "bitmap_set",
    "bitmap_clear",
    "bitmap_parse",
    "bitmap_print",
    "bitmap_zalloc",
    "bitmap_alloc",
    "bitmap_weight",
    "bitmap_equal",
    "bitmap_or",
    "bitmap_and",
    "bitmap_xor",
    "bitmap_list",
    "bitmap_free",
    "bitmap_gather",
    "bitmap_scatter",
    "bitmap_fold",
    "bitmap_onto",
    "bitmap_remap",
    "bitmap_cut",
    "block_dump",
    "dm_fast",
    "dd_to",
    "sbitmap_resize_unused",
];

/// Whether a function belongs to md, dm, bcache, the block layer or virtio_blk.
pub fn is_storage(function: &Function) -> bool {
    if let Some(module) = &function.module {
        return MODULES.contains(&module.as_str()) || module.starts_with("dm_");
    }
    let name = function.name.trim_start_matches('_');
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !NOT_STORAGE.iter().any(|prefix| name.starts_with(prefix))
}

/// A kernel line's text after its time stamp and, where there is one, the caller (`[    1.234567][  T123]`); nothing when the line has
/// no time stamp. A console may put a level (`<4>`) in front.
pub(super) fn without_stamp(line: &str) -> Option<&str> {
    let line = line
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'))
        .map_or(line, |(_, rest)| rest);
    let (stamp, mut rest) = line.strip_prefix('[')?.split_once(']')?;
    let (seconds, micros) = stamp.trim_start().split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(micros) {
        return None;
    }
    if let Some(caller) = rest.trim_start().strip_prefix('[')
        && let Some((caller, after)) = caller.split_once(']')
        && caller.trim_start().starts_with(['T', 'C'])
        && digits(caller.trim_start().get(1..)?)
    {
        rest = after;
    }
    Some(rest.trim_start())
}

/// Whether a report ends with this line.
pub(super) fn ends_report(text: &str) -> bool {
    text.starts_with("---[ end trace")
        || text.starts_with("---[ end Kernel panic")
        || text.starts_with("Rebooting in ")
}

/// The function that a line of a trace names.
///
/// Known forms: ` raid1d+0x1b/0x2a0 [raid1]`, ` ? bio_endio+0x1/0x2`, `RIP: 0010:raid1d+0x1b/0x2a0 [raid1]`, and the same with a build
/// id after the module (`[raid1 1f2e…]`), as newer kernels print it; `WARNING:`'s own line is not one.
pub(super) fn function_in(text: &str) -> Option<Function> {
    let text = match text.strip_prefix("RIP: ") {
        // The second RIP of a report is user space's: `RIP: 0033:0x7f…`.
        Some(rest) => rest.split_once(':').map_or(rest, |(_, rest)| rest),
        None => text,
    };
    let text = text.trim();
    let (text, reliable) = text
        .strip_prefix("? ")
        .map_or((text, true), |rest| (rest, false));
    let mut words = text.split_whitespace();
    let (symbol, place) = words.next()?.split_once('+')?;
    let (offset, size) = place.split_once('/')?;
    let hex = |text: &str| {
        text.strip_prefix("0x").is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    let named = symbol.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && symbol
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte));
    if !named || !hex(offset) || !hex(size) {
        return None;
    }
    let module = words
        .next()
        .and_then(|word| word.strip_prefix('['))
        .map(|word| word.trim_end_matches(']').replace('-', "_"));
    // `.isra.0`, `.constprop.0`, `.cold` are the compiler's.
    let name = symbol.split('.').next().unwrap_or(symbol).to_owned();
    Some(Function {
        name,
        module,
        reliable,
    })
}
