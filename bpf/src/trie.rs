//! The trie of the filter: which interval an IPv4 address is in, in a few lookups (`filter.bpf.h`).

use crate::skel::select_types::filter_trie;

/// Bits of an address that the first level tells apart, and each of the others.
const TOP_BITS: u32 = 16;
const BLOCK_BITS: u32 = 4;
/// Slots of the first level, and of a block.
const TOP: usize = 1 << TOP_BITS;
const BLOCK: usize = 1 << BLOCK_BITS;
/// The entry is a block to go on with, and no interval.
const INNER: u16 = 0x8000;
/// Bounds that are searched one by one: there is no trie of so few (`FILTER_FEW`).
const FEW: usize = 4;

const _: () = assert!(size_of::<filter_trie>() > TOP * size_of::<u16>());

/// Blocks that there is room for.
const BLOCKS: usize = (size_of::<filter_trie>() / size_of::<u16>() - TOP) / BLOCK;

/// The words of the trie whose intervals begin at these numbers, in their order, the first interval beginning at 0 without
/// an entry; without the blocks that are not in use. Empty if there are few. `None`: it has no room.
pub(crate) fn words(bounds: &[u32]) -> Option<Vec<u16>> {
    if bounds.len() <= FEW {
        return Some(Vec::new());
    }
    let mut words = vec![0; TOP];
    fill(&mut words, 0, 0, u32::BITS - TOP_BITS, TOP, bounds, 0)?;
    Some(words)
}

/// Fills the slots from `at` on, each of which has `1 << bits` addresses, the first of them `from`, which is in `interval`
/// unless a bound is there. All bounds are in these slots.
fn fill(
    words: &mut Vec<u16>,
    at: usize,
    from: u32,
    bits: u32,
    slots: usize,
    mut bounds: &[u32],
    mut interval: u16,
) -> Option<()> {
    let mut next = 0;
    while let Some(first) = bounds.first() {
        let slot = ((first - from) >> bits) as usize;
        words.get_mut(at + next..at + slot)?.fill(interval);
        let of_slot = bounds.partition_point(|bound| ((bound - from) >> bits) as usize == slot);
        let (mut here, rest) = bounds.split_at(of_slot);
        let begin = from + ((slot as u32) << bits);
        if *first == begin {
            interval += 1;
            here = here.get(1..)?;
        }
        let entry = if here.is_empty() {
            interval
        } else {
            let block = (words.len() - TOP) / BLOCK;
            if block >= BLOCKS {
                return None;
            }
            let place = words.len();
            words.resize(place + BLOCK, 0);
            fill(words, place, begin, bits - BLOCK_BITS, BLOCK, here, interval)?;
            INNER | block as u16
        };
        *words.get_mut(at + slot)? = entry;
        interval += here.len() as u16;
        bounds = rest;
        next = slot + 1;
    }
    words.get_mut(at + next..at + slots)?.fill(interval);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the programs do it.
    fn interval(words: &[u16], addr: u32) -> u16 {
        let mut entry = words[(addr >> TOP_BITS) as usize];
        for shift in [12, 8, 4, 0] {
            if entry & INNER != 0 {
                entry = words[TOP + usize::from(entry & !INNER) * BLOCK + (addr >> shift & 15) as usize];
            }
        }
        assert_eq!(entry & INNER, 0, "{addr:x}");
        entry
    }

    fn check(bounds: &[u32], addrs: impl Iterator<Item = u32>) {
        let words = words(bounds).unwrap();
        for addr in addrs {
            let expected = bounds.partition_point(|bound| *bound <= addr);
            assert_eq!(usize::from(interval(&words, addr)), expected, "{addr:x} of {bounds:x?}");
        }
    }

    #[test]
    fn few_bounds_need_none() {
        assert!(words(&[1, 2, 3, 4]).unwrap().is_empty());
        assert_eq!(words(&[1, 2, 3, 4, 0x1_0000]).unwrap().len(), TOP + 4 * BLOCK);
    }

    #[test]
    fn the_most_that_there_may_be_have_room() {
        // Each bound alone in its first-level slot, and none at the beginning of a block.
        let bounds: Vec<u32> = (0..2048).map(|i| (i << 21) + 0x1111).collect();
        check(&bounds, bounds.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]));
        assert_eq!(words(&bounds).unwrap().len(), TOP + BLOCKS * BLOCK);
        check(
            &[0, 1, 2, u32::MAX - 1, u32::MAX],
            [0, 1, 2, 3, u32::MAX - 2, u32::MAX - 1, u32::MAX].into_iter(),
        );
    }

    proptest! {
        #[test]
        fn an_address_is_in_the_interval_that_a_search_finds(
            bounds in prop::collection::btree_set(prop_oneof![any::<u32>(), 0x0a00_0000..0x0a01_2000_u32], 5..200),
            more in prop::collection::vec(any::<u32>(), 50),
        ) {
            let bounds: Vec<u32> = bounds.into_iter().collect();
            let near = bounds.iter().flat_map(|bound| [bound.wrapping_sub(1), *bound, bound.wrapping_add(1)]);
            check(&bounds, near.chain(more));
        }
    }
}
