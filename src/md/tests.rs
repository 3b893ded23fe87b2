use super::*;
use proptest::prelude::*;

/// A 1.x superblock as the kernel lays it out, for a leg of 4096 sectors.
fn image(layout: Layout, role: u16, roles: &[u16], events: u64) -> (Sector, Vec<u8>) {
    let at = layout.position(4096).unwrap();
    let mut raw = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efcu32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(16, &[7; 16]);
    put(72, &1u32.to_le_bytes());
    put(80, &2000u64.to_le_bytes());
    put(92, &2u32.to_le_bytes());
    put(128, &1024u64.to_le_bytes());
    put(136, &2048u64.to_le_bytes());
    put(144, &at.0.to_le_bytes());
    put(160, &u32::from(role).to_le_bytes());
    put(200, &events.to_le_bytes());
    put(208, &u64::MAX.to_le_bytes());
    put(220, &u32::try_from(roles.len()).unwrap().to_le_bytes());
    for (index, role) in roles.iter().enumerate() {
        put(256 + 2 * index, &role.to_le_bytes());
    }
    let sum = superblock::checksum_1(&raw, u32::try_from(roles.len()).unwrap());
    raw[216..220].copy_from_slice(&sum.to_le_bytes());
    (at, raw)
}

fn whole() -> SectorRange {
    SectorRange::new(Sector(0), 4096).unwrap()
}

fn two(layout: Layout, roles: [&[u16]; 2], events: [u64; 2]) -> Model {
    let mut model = Model::new([(whole(), None), (whole(), None)].into_iter());
    for leg in 0..2u8 {
        let mut bytes = Bytes::default();
        let (at, raw) = image(
            layout,
            u16::from(leg),
            roles[usize::from(leg)],
            events[usize::from(leg)],
        );
        bytes.put(at, &raw);
        model.observe(LegId(leg), &bytes);
    }
    model
}

/// A partition, or a part that device-mapper cuts out: md counts from its start, the leg from its own.
#[test]
fn an_array_on_parts_of_its_legs_is_found_there() {
    let start = 2048;
    for layout in [Layout::V1_0, Layout::V1_1, Layout::V1_2] {
        let part = SectorRange::new(Sector(start), 4096).unwrap();
        let mut model = Model::new([(part, None), (whole(), None)].into_iter());
        let mut bytes = Bytes::default();
        let (at, raw) = image(layout, 0, &[0, 1], 5);
        bytes.put(Sector(at.0 + start), &raw);
        model.observe(LegId(0), &bytes);
        let member = &model.arrays()[0].members[0];
        assert_eq!(
            member.data,
            SectorRange::new(Sector(start + 1024), 2000).unwrap()
        );
        let own = SectorRange::new(Sector(at.0 + start), 1).unwrap();
        assert!(model.concerns(LegId(0), own));
        let data = SectorRange::new(Sector(start + 500), 1).unwrap();
        assert!(!model.concerns(LegId(0), data));
    }
}

#[test]
fn each_version_1_place_is_found() {
    for layout in [Layout::V1_0, Layout::V1_1, Layout::V1_2] {
        let model = two(layout, [&[0, 1], &[0, 1]], [5, 5]);
        let array = &model.arrays()[0];
        assert_eq!(array.active().count(), 2, "{layout:?}");
        assert_eq!(
            array.members[1].data,
            SectorRange::new(Sector(1024), 2000).unwrap()
        );
        assert!(array.clean);
    }
}

/// Until md moves the superblock to the new end it is the one at the old end; from then on that one counts no more, whatever it says.
#[test]
fn the_superblock_at_the_end_moves_as_the_leg_grows() {
    let grown = SectorRange::new(Sector(0), 8192).unwrap();
    let mut model = Model::new([(whole(), None)].into_iter());
    let mut bytes = Bytes::default();
    let (old, mut raw) = image(Layout::V1_0, 0, &[0], 5);
    bytes.put(old, &raw);
    model.observe(LegId(0), &bytes);
    assert!(model.suspect(LegId(0)));
    let own = |at: Sector| SectorRange::new(at, 1).unwrap();
    let new = Layout::V1_0.position(8192).unwrap();
    assert!(!model.concerns(LegId(0), own(new)));
    assert!(!model.grew(LegId(0), grown, &bytes));
    assert_eq!(model.superblock(LegId(0)).unwrap().position, old);
    assert!(model.concerns(LegId(0), own(new)) && model.concerns(LegId(0), own(old)));
    // That the leg grew does not make it good again.
    assert_eq!(model.arrays()[0].active().count(), 0);
    raw[80..88].copy_from_slice(&6000u64.to_le_bytes());
    raw[144..152].copy_from_slice(&new.0.to_le_bytes());
    for events in [6u64, 4] {
        raw[200..208].copy_from_slice(&events.to_le_bytes());
        let sum = superblock::checksum_1(&raw, 1);
        raw[216..220].copy_from_slice(&sum.to_le_bytes());
        bytes.put(new, &raw);
        model.written(LegId(0), &bytes);
        let array = &model.arrays()[0];
        assert_eq!((array.sectors, array.events), (6000, events));
    }
    // Torn, it is not the old one that counts.
    raw[200] ^= 1;
    bytes.put(new, &raw);
    assert!(!model.written(LegId(0), &bytes) || model.arrays().is_empty());
    let bad = BadSuperblock::Checksum(Layout::V1_0, new);
    assert_eq!(model.superblock(LegId(0)), Err(&bad));
    // Smaller it never gets.
    assert!(!model.grew(LegId(0), whole(), &bytes));
    assert_eq!(model.superblock(LegId(0)), Err(&bad));
}

#[test]
fn a_leg_that_the_freshest_superblock_calls_faulty_is_not_active() {
    let model = two(Layout::V1_2, [&[0, 0xfffe], &[0, 1]], [6, 5]);
    let array = &model.arrays()[0];
    let active: Vec<_> = array.active().map(|member| member.leg).collect();
    assert_eq!(active, [LegId(0)]);
}

#[test]
fn a_torn_superblock_is_named_and_not_believed() {
    let (at, mut raw) = image(Layout::V1_2, 0, &[0, 1], 5);
    raw[200] ^= 1;
    let mut bytes = Bytes::default();
    bytes.put(at, &raw);
    assert_eq!(
        superblock::find(&bytes, whole()),
        Err(BadSuperblock::Checksum(Layout::V1_2, Sector(8)))
    );
}

#[test]
fn a_superblock_of_another_place_is_named() {
    let (_, raw) = image(Layout::V1_2, 0, &[0, 1], 5);
    let mut bytes = Bytes::default();
    bytes.put(Sector(0), &raw);
    assert_eq!(
        superblock::find(&bytes, whole()),
        Err(BadSuperblock::Elsewhere(Layout::V1_1, Sector(0), 8))
    );
}

#[test]
fn the_first_shared_field_that_differs_is_named() {
    let (_, one) = image(Layout::V1_2, 0, &[0, 1], 5);
    let with = |at: usize| {
        let (_, mut other) = image(Layout::V1_2, 1, &[0, 1], 5);
        other[at] ^= 1;
        superblock::unlike(&one, &other)
    };
    // What is a leg's own: its number, where its data begins, its device's flags.
    for own in [160, 128, 184] {
        assert_eq!(with(own), None, "{own}");
    }
    for (at, name) in [
        (64, "ctime"),
        (200, "events"),
        (224, "logical_block_size"),
        (256, "dev_roles"),
    ] {
        assert_eq!(with(at), Some(name));
    }
}

#[test]
fn version_0_90_is_read() {
    let at = Layout::V0.position(4096).unwrap();
    let mut raw = vec![0; 4096];
    let mut word = |index: usize, value: u32| {
        raw[index * 4..index * 4 + 4].copy_from_slice(&value.to_le_bytes());
    };
    word(0, 0xa92b_4efc);
    word(2, 90);
    word(5, 0x1111);
    word(7, 1);
    word(8, 1900);
    word(10, 2);
    word(33, 1);
    word(39, 9);
    word(41, 9);
    word(43, u32::MAX);
    for slot in 0..2u32 {
        let base = 128 + 32 * slot as usize;
        word(base, slot);
        word(base + 3, slot);
        word(base + 4, 0b110);
    }
    word(992, 1);
    word(995, 1);
    word(996, 0b110 | 1 << 9);
    let sum = superblock::checksum_0(&raw);
    raw[152..156].copy_from_slice(&sum.to_le_bytes());
    let found = superblock::decode(Layout::V0, at, &raw, 4096).unwrap();
    assert_eq!((found.size, found.events, found.dev_number), (3800, 9, 1));
    assert!(found.write_mostly);
    assert_eq!(found.resync_offset, IN_SYNC);
    assert_eq!(
        (found.role_of(0), found.role_of(1), found.role_of(2)),
        (0, 1, 0xffff)
    );
}

#[test]
fn declared_data_areas_are_a_mirror_where_no_superblock_is() {
    let area = SectorRange::new(Sector(100), 1000).unwrap();
    let model = Model::new([(whole(), Some(area)), (whole(), Some(area))].into_iter());
    assert_eq!(model.arrays()[0].active().count(), 2);
    assert!(model.arrays()[0].declared);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(mut raw in prop::collection::vec(any::<u8>(), 4096), magic: bool, sealed: bool, max_dev in 0u32..2100) {
        if magic {
            raw[0..4].copy_from_slice(&0xa92b_4efcu32.to_le_bytes());
            raw[4..8].copy_from_slice(&1u32.to_le_bytes());
            raw[144..152].copy_from_slice(&8u64.to_le_bytes());
            raw[220..224].copy_from_slice(&max_dev.to_le_bytes());
        }
        if sealed {
            let sum = superblock::checksum_1(&raw, max_dev);
            raw[216..220].copy_from_slice(&sum.to_le_bytes());
        }
        for layout in Layout::ALL {
            if let Ok(found) = superblock::decode(layout, Sector(8), &raw, 4096) {
                prop_assert!(found.data().end().0 <= 4096);
            }
        }
        let _free = bitmap::bitmap_header(&raw);
        let mut bytes = Bytes::default();
        bytes.put(Sector(8), &raw);
        let mut model = Model::new([(whole(), None)].into_iter());
        model.observe(LegId(0), &bytes);
    }
}

#[test]
fn a_raid10_in_a_near_layout_is_the_mirrors_that_it_is_made_of() {
    // Layout, legs, chunk, and how many mirrors; 0: refused.
    for (layout, disks, chunk, mirrors) in [
        (0x102u32, 2u32, 128u32, 1),
        (0x103, 3, 128, 1),
        (0x102, 4, 128, 2),
        (0x102, 8, 128, 4),
        (0x103, 6, 128, 2),
        (0x102, 4, 0, 0),
        (0x102, 4, 24, 0),
        (0x102, 3, 128, 0),
        (0x201, 2, 128, 0),
        (0x10102, 2, 128, 1),
        (0x10102, 4, 128, 2),
        (0x103, 2, 128, 0),
        (0x100, 4, 128, 0),
    ] {
        let (at, mut raw) = image(Layout::V1_2, 0, &[0, 1], 5);
        raw[72..76].copy_from_slice(&10u32.to_le_bytes());
        raw[76..80].copy_from_slice(&layout.to_le_bytes());
        raw[88..92].copy_from_slice(&chunk.to_le_bytes());
        raw[92..96].copy_from_slice(&disks.to_le_bytes());
        let sum = superblock::checksum_1(&raw, 2);
        raw[216..220].copy_from_slice(&sum.to_le_bytes());
        let mut model = Model::new([(whole(), None)].into_iter());
        let mut bytes = Bytes::default();
        bytes.put(at, &raw);
        model.observe(LegId(0), &bytes);
        let arrays = model.arrays();
        let refused = arrays[0].refused;
        assert_eq!(
            refused.is_some(),
            mirrors == 0,
            "{layout:#x} {disks}: {refused:?}"
        );
        assert_eq!(arrays.len(), mirrors.max(1), "{layout:#x} {disks}");
        assert!(arrays.iter().all(|array| array.degraded));
        if mirrors > 1 {
            let sectors = 2000 - 2000 % u64::from(chunk);
            assert_eq!(arrays[0].sectors, sectors);
            assert_eq!(arrays[0].whole_sectors(), sectors * mirrors as u64);
            // The leg's slot is 0: it is the first mirror's, and the others have none here.
            assert_eq!(arrays[0].members.len(), 1);
            assert!(arrays[1].members.is_empty());
        }
    }
}

#[test]
fn where_an_array_lies_on_a_leg_follows_from_its_own_slot() {
    for (slot, array, on_leg) in [
        (0u16, 0, Some(1024)),
        (1, 300, Some(1024 + 128 + 300 - 256)),
        (3, 300, None),
        (3, 128, Some(1024)),
    ] {
        let (at, mut raw) = image(Layout::V1_2, slot, &[0, 1, 2, 3], 5);
        raw[72..76].copy_from_slice(&10u32.to_le_bytes());
        raw[76..80].copy_from_slice(&0x102u32.to_le_bytes());
        raw[88..92].copy_from_slice(&128u32.to_le_bytes());
        raw[92..96].copy_from_slice(&4u32.to_le_bytes());
        let sum = superblock::checksum_1(&raw, 4);
        raw[216..220].copy_from_slice(&sum.to_le_bytes());
        let found = superblock::decode(Layout::V1_2, at, &raw, 4096).unwrap();
        let on = OnLeg::of(&found).unwrap();
        let range = SectorRange::new(Sector(array), 8).unwrap();
        let there = on.of_array(range);
        assert_eq!(there.map(|there| there.start().0), on_leg, "{slot} {array}");
        if let Some(there) = there {
            assert_eq!(on.on_array(there).collect::<Vec<_>>(), [range]);
        }
    }
}

#[test]
fn a_counter_at_its_end_is_one_like_others() {
    for (own, other, active) in [
        (u64::MAX, u64::MAX, 2),
        (u64::MAX - 1, u64::MAX, 2),
        (0, u64::MAX, 1),
    ] {
        let mut model = Model::new([(whole(), None), (whole(), None)].into_iter());
        for (slot, events) in [(0u16, own), (1, other)] {
            let (at, raw) = image(Layout::V1_2, slot, &[0, 1], events);
            let mut bytes = Bytes::default();
            bytes.put(at, &raw);
            model.observe(LegId(u8::try_from(slot).unwrap()), &bytes);
        }
        let arrays = model.arrays();
        assert_eq!(arrays[0].active().count(), active, "{own} {other}");
    }
}

/// Assembled with a leg one event behind, md writes the next superblocks one after the other: in between that leg is two behind, and good.
#[test]
fn a_leg_that_md_took_stays_active_while_its_next_superblock_is_on_the_way() {
    let put = |model: &mut Model, slot: u16, roles: &[u16], events: u64| {
        let (at, raw) = image(Layout::V1_2, slot, roles, events);
        let mut bytes = Bytes::default();
        bytes.put(at, &raw);
        model.written(LegId(u8::try_from(slot).unwrap()), &bytes);
    };
    let active = |model: &Model| -> Vec<u8> {
        let of = model.arrays()[0].active();
        of.map(|member| member.leg.0).collect()
    };
    let both: &[u16] = &[0, 1];
    let mut model = two(Layout::V1_2, [both, both], [1, 0]);
    assert_eq!(active(&model), [0, 1]);
    put(&mut model, 0, both, 2);
    assert_eq!(active(&model), [0, 1], "its own is on the way");
    put(&mut model, 1, both, 2);
    assert_eq!(active(&model), [0, 1]);

    // It never comes: the next one leaves it three behind.
    let mut model = two(Layout::V1_2, [both, both], [1, 0]);
    put(&mut model, 0, both, 2);
    put(&mut model, 0, both, 3);
    assert_eq!(active(&model), [0]);
    // It failed: the next one says so at once.
    let mut model = two(Layout::V1_2, [both, both], [1, 1]);
    put(&mut model, 0, &[0, 0xfffe], 2);
    assert_eq!(active(&model), [0]);
    // It went back by two itself, as a cut does it: md leaves it out.
    let mut model = two(Layout::V1_2, [both, both], [3, 3]);
    put(&mut model, 1, both, 1);
    assert_eq!(active(&model), [0]);
    // Two behind from the start: md does not take it.
    assert_eq!(active(&two(Layout::V1_2, [both, both], [2, 0])), [0]);
    assert_eq!(active(&two(Layout::V1_2, [both, both], [0, 2])), [1]);
}
