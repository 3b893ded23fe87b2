//! A survey: what sectors of a device hold, whoever wrote them; the host judges. After a power cut nobody in the guest knows what to expect.

use super::control::Marker;
use super::sys::{self, Memory};
use super::{Error, context, target};
use crate::block::{SECTOR_BYTES, Sector};
use crate::mark::{Mark, SURVEY_MAX};

/// Sectors of one read; a multiple of every block size.
const READ_SECTORS: u64 = 256;

/// Reads `count` sectors (0: to the end) from `start` on, past the page cache, and tells their digests.
pub(super) fn run(
    marker: &mut Marker,
    device: &str,
    number: u16,
    start: u64,
    count: u64,
) -> Result<String, Error> {
    let path = target::find(device)?;
    let file =
        sys::open_direct(&path, libc::O_CLOEXEC).map_err(context(format!("opening {device}")))?;
    let geometry = sys::geometry(&file).map_err(context(format!("the size of {device}")))?;
    let end = match count {
        0 => geometry.sectors,
        count => geometry.sectors.min(start.saturating_add(count)),
    };
    let block = geometry.block_sectors;
    if !start.is_multiple_of(block) || !end.is_multiple_of(block) {
        return Err(Error::new(format!(
            "a survey of sectors {start} to {end} of {device}, whose blocks have {block}"
        )));
    }
    let mut buffer =
        Memory::new(sys::sectors_len(READ_SECTORS)).map_err(context("memory for the survey"))?;
    let mut digests: Vec<u32> = Vec::with_capacity(SURVEY_MAX);
    let (mut told, mut at) = (start, start);
    while at < end {
        let now = READ_SECTORS.min(end - at);
        let out = &mut buffer.bytes_mut()[..sys::sectors_len(now)];
        sys::read_sectors(&file, at, out)
            .map_err(context(format!("reading sectors {at}+{now} of {device}")))?;
        for sector in out.chunks_exact(SECTOR_BYTES) {
            digests.push(crc32fast::hash(sector));
            if digests.len() == SURVEY_MAX {
                told = tell(marker, number, told, &mut digests)?;
            }
        }
        at += now;
    }
    if !digests.is_empty() {
        tell(marker, number, told, &mut digests)?;
    }
    Ok(format!("{} sectors read", end.saturating_sub(start)))
}

/// Tells what was read from `first` on; returns the sector after it.
fn tell(
    marker: &mut Marker,
    target: u16,
    first: u64,
    digests: &mut Vec<u32>,
) -> Result<u64, Error> {
    let next = first + digests.len() as u64;
    marker.tell(&Mark::Survey {
        target,
        sector: Sector(first),
        digests: std::mem::take(digests),
    })?;
    Ok(next)
}
