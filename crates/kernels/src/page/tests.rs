use proptest::prelude::*;

use super::*;

/// Values that every dtype holds exactly, so that reading back is equality.
fn row(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + seed * 13) % 127) as f32 - 63.0).collect()
}

fn layouts() -> impl Strategy<Value = PageLayout> {
    (1..4usize, prop_oneof![1..20usize, 30..140usize], prop::collection::vec(1..9usize, 0..3), 0..5usize)
        .prop_map(|(heads, d, sides, format)| {
            PageLayout::new(heads, d, sides, KvFormat::ALL[format]).unwrap()
        })
}

/// Fills every slot of a page with rows that tell slots apart.
fn filled(layout: &PageLayout, seed: usize) -> Buffer {
    let mut page = layout.zeroed_page().unwrap();
    let width = layout.heads() * layout.head_dim();
    for slot in 0..PAGE_ENTRIES {
        let salt = seed + 3 * slot;
        layout.write_key_value(&mut page, slot, &row(width, salt), &row(width, salt + 1)).unwrap();
        for (channel, &side) in layout.side_widths().iter().enumerate() {
            layout.write_side(&mut page, slot, channel, &row(side, salt + 2 + channel)).unwrap();
        }
    }
    page
}

fn entry(layout: &PageLayout, page: &Buffer, slot: usize) -> Vec<Vec<f32>> {
    let keys = (0..layout.heads()).map(|head| layout.read_key(page, slot, head).unwrap());
    let values = (0..layout.heads()).map(|head| layout.read_value(page, slot, head).unwrap());
    let sides = (0..layout.side_widths().len()).map(|c| layout.read_side(page, slot, c).unwrap());
    keys.chain(values).chain(sides).collect()
}

/// What a page of its own gives back of an entry: codes round, but none of its neighbours has a part in that.
fn held(layout: &PageLayout, key: &[f32], value: &[f32]) -> Vec<Vec<f32>> {
    let mut page = layout.zeroed_page().unwrap();
    layout.write_key_value(&mut page, 0, key, value).unwrap();
    let mut rows = entry(layout, &page, 0);
    rows.truncate(2 * layout.heads());
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_read_back_and_nothing_else_changes(layout in layouts(), slot in 0..PAGE_ENTRIES) {
        let mut page = filled(&layout, 5);
        let before: Vec<_> = (0..PAGE_ENTRIES).map(|s| entry(&layout, &page, s)).collect();
        let width = layout.heads() * layout.head_dim();
        let (key, value) = (row(width, 901), row(width, 902));
        layout.write_key_value(&mut page, slot, &key, &value).unwrap();
        for other in 0..PAGE_ENTRIES {
            let now = entry(&layout, &page, other);
            if other == slot {
                prop_assert_eq!(&now[..2 * layout.heads()], &held(&layout, &key, &value));
                let d = layout.head_dim();
                // Of rows from -63 to 63 half a step at most.
                let (key_off, value_off) = match layout.format() {
                    KvFormat::Q8 => (0.26, 0.26),
                    KvFormat::Q4 => (0.26, 4.3),
                    _ => (0.0, 0.0),
                };
                for head in 0..layout.heads() {
                    let of_head = head * d..(head + 1) * d;
                    let close = |a: &[f32], b: &[f32], off: f32| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= off);
                    prop_assert!(close(&now[head], &key[of_head.clone()], key_off));
                    prop_assert!(close(&now[layout.heads() + head], &value[of_head], value_off));
                }
                prop_assert_eq!(&now[2 * layout.heads()..], &before[slot][2 * layout.heads()..]);
            } else {
                prop_assert_eq!(&now, &before[other]);
            }
        }
    }

    #[test]
    fn a_run_of_entries_equals_one_by_one(layout in layouts(), slot in 0..20usize, count in 0..12usize, gap in 0..5usize) {
        let width = layout.heads() * layout.head_dim();
        let stride = width + gap;
        let (keys, values) = (row(12 * stride, 1), row(12 * stride, 2));
        let (mut run, mut single) = (filled(&layout, 0), filled(&layout, 0));
        layout.write_keys_values(&mut run, slot, count, &keys, &values, stride).unwrap();
        for i in 0..count {
            let rows = i * stride..i * stride + width;
            layout.write_key_value(&mut single, slot + i, &keys[rows.clone()], &values[rows]).unwrap();
        }
        for s in 0..PAGE_ENTRIES {
            prop_assert_eq!(entry(&layout, &run, s), entry(&layout, &single, s));
        }
    }

    #[test]
    fn a_copied_entry_is_the_entry(layout in layouts(), from in 0..PAGE_ENTRIES, to in 0..PAGE_ENTRIES) {
        let source = filled(&layout, 40);
        let (mut target, mut within) = (filled(&layout, 80), source.clone());
        let others = filled(&layout, 80);
        layout.copy_entry(&source, from, &mut target, to).unwrap();
        layout.copy_entry_within(&mut within, from, to).unwrap();
        for slot in 0..PAGE_ENTRIES {
            let expected = if slot == to { entry(&layout, &source, from) } else { entry(&layout, &others, slot) };
            prop_assert_eq!(entry(&layout, &target, slot), expected);
            let expected = entry(&layout, &source, if slot == to { from } else { slot });
            prop_assert_eq!(entry(&layout, &within, slot), expected);
        }
    }
}

#[test]
fn panels_do_not_overlap_and_fill_the_page() {
    let layout = PageLayout::new(2, 5, vec![3, 7], DType::Bf16).unwrap();
    let offsets =
        [layout.key_offset(0), layout.key_offset(1), layout.value_offset(0), layout.value_offset(1)];
    assert_eq!(offsets, [0, 160, 320, 480]);
    assert_eq!(
        (layout.side_offset(0), layout.side_offset(1), layout.side_offset(2)),
        (Some(640), Some(736), None)
    );
    assert_eq!((layout.elements(), layout.bytes(), layout.entry_bytes()), (960, 1920, 60));
}

#[test]
fn a_page_of_codes_has_half_a_bit_more_for_each_number_of_8_bits_and_one_for_each_of_4() {
    // 8 heads of 128, as an 8B model has them: entries of 4096 bytes in bf16.
    let entry = |format| PageLayout::new(8, 128, vec![], format).unwrap().entry_bytes();
    assert_eq!(KvFormat::ALL.map(entry), [8192, 4096, 4096, 2176, 1728]);
    let layout = PageLayout::new(2, 40, vec![3], KvFormat::Q4).unwrap();
    // Keys 40 * 32 bytes and a group; values 32 rows of two lines of 16 bytes, and two groups.
    let (key, value) = ((1280 + 128) / 2, (1024 + 256) / 2);
    let offsets = [layout.key_offset(1), layout.value_offset(0), layout.value_offset(1)];
    assert_eq!(offsets, [key, 2 * key, 2 * key + value]);
    assert_eq!(layout.side_offset(0), Some(2 * (key + value)));
    assert_eq!((layout.bytes(), layout.key_value_bytes()), (4 * (key + value) + 192, 4 * (key + value) / 32));
}

#[test]
fn impossible_layouts_are_errors() {
    let new = PageLayout::new;
    assert!(matches!(new(0, 8, vec![], DType::F32), Err(KernelError::Invalid { .. })));
    assert!(matches!(new(1, 0, vec![], DType::F32), Err(KernelError::Invalid { .. })));
    assert!(matches!(new(1, 8, vec![0], DType::F32), Err(KernelError::Invalid { .. })));
    assert!(matches!(new(usize::MAX, 8, vec![], DType::F32), Err(KernelError::TooLarge { .. })));
    assert!(matches!(new(1, 8, vec![usize::MAX / 2], DType::F32), Err(KernelError::TooLarge { .. })));
    assert!(matches!(new(1, usize::MAX / 256, vec![], DType::F32), Err(KernelError::TooLarge { .. })));
    for heads_and_width in [(usize::MAX / 64, 1), (1, usize::MAX - 3), (usize::MAX / 4096, 64)] {
        let (heads, width) = heads_and_width;
        let refused = PageLayout::new(heads, width, vec![], KvFormat::Q4);
        assert!(matches!(refused, Err(KernelError::TooLarge { .. })));
    }
    assert!(matches!(new(1, 1, vec![usize::MAX / 64; 3], DType::F16), Err(KernelError::TooLarge { .. })));
}

#[test]
fn misuse_is_an_error_and_never_a_panic() {
    let layout = PageLayout::new(2, 4, vec![3], DType::F32).unwrap();
    let mut page = layout.zeroed_page().unwrap();
    let good = [0.0; 8];
    assert!(layout.write_key_value(&mut page, 32, &good, &good).is_err());
    assert!(layout.write_key_value(&mut page, usize::MAX, &good, &good).is_err());
    assert!(layout.write_key_value(&mut page, 0, &good[..7], &good).is_err());
    assert!(layout.write_keys_values(&mut page, 31, 2, &[0.0; 16], &[0.0; 16], 8).is_err());
    assert!(layout.write_keys_values(&mut page, 0, 2, &[0.0; 16], &[0.0; 16], 7).is_err());
    assert!(layout.write_keys_values(&mut page, 0, 2, &[0.0; 15], &[0.0; 16], 8).is_err());
    assert!(layout.write_keys_values(&mut page, 0, 2, &[0.0; 16], &[0.0; 16], usize::MAX).is_err());
    assert!(layout.write_side(&mut page, 0, 1, &[0.0; 3]).is_err());
    assert!(layout.write_side(&mut page, 0, 0, &[0.0; 2]).is_err());
    assert!(layout.read_key(&page, 0, 2).is_err());
    assert!(layout.read_side(&page, 0, usize::MAX).is_err());
    let other = PageLayout::new(2, 4, vec![3], DType::F16).unwrap();
    let half = other.zeroed_page().unwrap();
    assert!(layout.read_value(&half, 0, 0).is_err());
    assert!(layout.copy_entry(&half, 0, &mut page, 0).is_err());
    assert!(layout.copy_entry_within(&mut page, 0, 32).is_err());
}
