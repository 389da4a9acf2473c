//! One file of the faulty disk: what is on the medium, what a reader sees, and what lies between.
//!
//! Owns what survives of unsynced changes, sector by sector. Knows nothing of names.

use std::collections::BTreeMap;

use super::Random;

const SECTOR_BYTES: usize = 512;

/// How much of what was not synced outlives the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Survival {
    Nothing,
    Everything,
    /// Each part with this chance, in percent.
    Some(u64),
}

impl Survival {
    pub(super) fn any(random: &mut Random) -> Survival {
        match random.below(8) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 => Survival::Some(10),
            3 => Survival::Some(90),
            _ => Survival::Some(50),
        }
    }

    pub(super) fn keeps(self, random: &mut Random) -> bool {
        match self {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Some(percent) => random.chance(percent),
        }
    }

    /// Of `versions` that a sector had in turn, how many came to the medium: it has the last of those.
    fn reached(self, versions: u64, random: &mut Random) -> u64 {
        match self {
            Survival::Nothing => 0,
            Survival::Everything => versions,
            Survival::Some(percent) if random.chance(percent) => 1 + random.below(versions),
            Survival::Some(_) => 0,
        }
    }
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

#[derive(Debug, Default)]
pub(super) struct Image {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Change>,
}

impl Image {
    pub(super) fn durable(content: &[u8]) -> Image {
        Image { durable: content.to_vec(), current: content.to_vec(), unsynced: Vec::new() }
    }

    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        write(&mut self.current, bytes, offset);
        self.unsynced.push(Change::Write { offset, bytes: bytes.to_vec() });
    }

    pub(super) fn resize(&mut self, size: usize) {
        self.current.resize(size, 0);
        self.unsynced.push(Change::Resize(size));
    }

    pub(super) fn flip(&mut self, offset: usize, mask: u8) {
        self.current[offset] ^= mask;
        if let Some(byte) = self.durable.get_mut(offset) {
            *byte ^= mask;
        }
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write { offset, bytes } => write(&mut self.durable, &bytes, offset),
                Change::Resize(size) => self.durable.resize(size, 0),
            }
        }
    }

    /// A failed sync: some of it is durable, the rest never will be, and a reader cannot tell.
    pub(super) fn fail_sync(&mut self, survival: Survival, random: &mut Random) {
        self.settle(survival, random);
    }

    pub(super) fn power_cut(&mut self, survival: Survival, random: &mut Random) {
        self.settle(survival, random);
        self.current = self.durable.clone();
    }

    /// Lets part of what was not synced reach the medium and forgets the rest.
    fn settle(&mut self, survival: Survival, random: &mut Random) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let mut versions: BTreeMap<usize, u64> = BTreeMap::new();
        for (sector, _, _) in unsynced.iter().flat_map(pieces) {
            *versions.entry(sector).or_default() += 1;
        }
        for count in versions.values_mut() {
            *count = survival.reached(*count, random);
        }
        let mut size = self.durable.len();
        for change in &unsynced {
            if let Change::Resize(to) = change
                && survival.keeps(random)
            {
                size = *to;
            }
            for (sector, offset, bytes) in pieces(change) {
                if let Some(left) = versions.get_mut(&sector).filter(|left| **left > 0) {
                    *left -= 1;
                    write(&mut self.durable, bytes, offset);
                }
            }
        }
        self.durable.resize(size, 0);
    }
}

/// The parts of a write that lie in one sector each: sector, offset, bytes.
fn pieces(change: &Change) -> impl Iterator<Item = (usize, usize, &[u8])> {
    let (mut offset, mut rest) = match change {
        Change::Write { offset, bytes } => (*offset, bytes.as_slice()),
        Change::Resize(_) => (0, &[][..]),
    };
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = offset;
        let (piece, behind) = rest.split_at(rest.len().min(SECTOR_BYTES - at % SECTOR_BYTES));
        (offset, rest) = (at + piece.len(), behind);
        Some((at / SECTOR_BYTES, at, piece))
    })
}

fn write(content: &mut Vec<u8>, bytes: &[u8], offset: usize) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsynced_sectors_survive_in_any_mixture_and_synced_ones_always() {
        let (mut old, mut new, mut mixed) = (0, 0, 0);
        for seed in 0..200 {
            let mut image = Image::default();
            image.resize(4 * SECTOR_BYTES);
            image.write(&[1; 700], 0);
            image.sync();
            image.write(&[2; 3 * SECTOR_BYTES], SECTOR_BYTES);
            let random = &mut Random::new(seed);
            image.power_cut(Survival::any(random), random);
            assert_eq!(image.current().len(), 4 * SECTOR_BYTES);
            assert!(image.current()[..SECTOR_BYTES].iter().all(|byte| *byte == 1));
            let sectors: Vec<u8> = image.current().chunks(SECTOR_BYTES).skip(1).map(|sector| sector[0]).collect();
            match sectors.iter().filter(|first| **first == 2).count() {
                0 => old += 1,
                3 => new += 1,
                _ => mixed += 1,
            }
        }
        assert!(old > 10 && new > 10 && mixed > 50, "{old} {new} {mixed}");
    }

    #[test]
    fn what_a_failed_sync_was_about_is_not_made_durable_by_the_next() {
        let mut image = Image::default();
        image.resize(SECTOR_BYTES);
        image.sync();
        image.write(b"x", 0);
        image.fail_sync(Survival::Nothing, &mut Random::new(1));
        image.sync();
        assert_eq!(image.current()[0], b'x');
        image.power_cut(Survival::Everything, &mut Random::new(1));
        assert_eq!(image.current()[0], 0);
    }
}
