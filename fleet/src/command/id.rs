//! The numbers of commands.
//!
//! Owns their form and that none is given twice, also by a broker that begins again from a backup: the clock stands above.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// Below the sequence stands the number of the shard.
const SHARD_BITS: u32 = 6;
/// Below the clock, so many bits count commands of one millisecond. Of more than that, the numbers are ahead of the clock.
const COUNT_BITS: u32 = 12;
/// Digits behind the first character, of five bits each.
const DIGITS: usize = 12;
const FIRST: u8 = b'c';
/// Crockford's base 32, in lower case: in the order of the numbers.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const NUMBER_MAX: u64 = (1 << (5 * DIGITS)) - 1;

/// Names one command, for ever. As text `c` and 12 digits of Crockford's base 32; later ones of a shard are greater.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(NonZeroU64);

/// A [`CommandId`] as text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CommandIdText([u8; 1 + DIGITS]);

impl CommandId {
    /// Characters of the text.
    pub const LENGTH: usize = 1 + DIGITS;

    /// The command of a number that [`CommandId::number`] told.
    pub fn new(number: u64) -> Option<CommandId> {
        NonZeroU64::new(number).filter(|number| number.get() <= NUMBER_MAX).map(CommandId)
    }

    /// As a number: 60 bits.
    pub fn number(self) -> u64 {
        self.0.get()
    }

    /// The shard that gave it, on which its vehicle lives.
    pub fn shard(self) -> u16 {
        (self.0.get() & ((1 << SHARD_BITS) - 1)) as u16
    }

    /// When it was given: Unix time in milliseconds, or a little later.
    pub fn given_ms(self) -> u64 {
        self.0.get() >> (SHARD_BITS + COUNT_BITS)
    }

    /// As text.
    pub fn text(self) -> CommandIdText {
        let mut text = [FIRST; CommandId::LENGTH];
        let mut number = self.0.get();
        for digit in text[1..].iter_mut().rev() {
            *digit = ALPHABET[(number & 31) as usize];
            number >>= 5;
        }
        CommandIdText(text)
    }

    /// The command whose text these bytes are.
    pub fn of_bytes(bytes: &[u8]) -> Option<CommandId> {
        let (first, digits) = bytes.split_first()?;
        if *first != FIRST || digits.len() != DIGITS {
            return None;
        }
        let number = digits.iter().try_fold(0, |number, digit| {
            let value = ALPHABET.iter().position(|known| known == digit)?;
            Some(number << 5 | value as u64)
        });
        number.and_then(CommandId::new)
    }
}

impl CommandIdText {
    /// The text.
    pub fn as_str(&self) -> &str {
        // It is made of ASCII, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is none of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the number of a command is c and 12 characters of 0-9 and a-z without i, l, o and u")]
pub struct NoCommandId;

impl FromStr for CommandId {
    type Err = NoCommandId;

    fn from_str(text: &str) -> Result<CommandId, NoCommandId> {
        CommandId::of_bytes(text.as_bytes()).ok_or(NoCommandId)
    }
}

/// Gives the numbers of one shard.
#[derive(Debug, Clone, Default)]
pub struct CommandIds {
    /// The last that was given, without the shard.
    last: u64,
}

impl CommandIds {
    /// The next one. `now_ms` is Unix time in milliseconds, which may stand still.
    pub fn next(&mut self, now_ms: u64, shard: u16) -> CommandId {
        self.last = (self.last + 1).max(now_ms << COUNT_BITS);
        let number = (self.last << SHARD_BITS | u64::from(shard) & ((1 << SHARD_BITS) - 1)) & NUMBER_MAX;
        // The clock has 42 bits: until the year 2109 it is no zero.
        CommandId(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }

    /// One was given before.
    pub fn given(&mut self, id: CommandId) {
        self.last = self.last.max(id.number() >> SHARD_BITS);
    }

    /// Whatever was given before this time was not noted: the next is greater than all of it.
    pub fn begin_after(&mut self, now_ms: u64) {
        self.last = self.last.max((now_ms + 1) << COUNT_BITS);
    }

    /// Whether the shard may have given it.
    pub fn may_have_given(&self, id: CommandId) -> bool {
        id.number() >> SHARD_BITS <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_text_and_back() {
        for number in [1, 31, 32, 0x0ABC_DEF0_1234_5678, NUMBER_MAX] {
            let id = CommandId::new(number).unwrap();
            assert_eq!(id.text().as_str().len(), CommandId::LENGTH);
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.number(), number);
        }
        assert_eq!(CommandId::new(NUMBER_MAX).unwrap().to_string(), "czzzzzzzzzzzz");
        assert_eq!(CommandId::new(0), None);
        assert_eq!(CommandId::new(NUMBER_MAX + 1), None);
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", "c", "c000000000000", "c00000000001", "c0000000000011", "d000000000001", "c00000000000U"] {
            assert_eq!(text.parse::<CommandId>(), Err(NoCommandId), "{text}");
        }
        for text in
            ["c00000000000i", "c00000000000l", "c00000000000o", "c00000000000u", "C000000000001", "c00000000000\u{e9}"]
        {
            assert_eq!(text.parse::<CommandId>(), Err(NoCommandId), "{text}");
        }
    }

    #[test]
    fn numbers_only_grow_as_text_too() {
        let mut ids = CommandIds::default();
        let mut last = ids.next(1_777_888_999_123, 5);
        for now in [1_777_888_999_123, 1_777_888_999_124, 1_777_888_999_000, 1_777_888_999_200] {
            for _ in 0..10_000 {
                let next = ids.next(now, 5);
                assert!(next > last && next.to_string() > last.to_string());
                assert_eq!(next.shard(), 5);
                last = next;
            }
        }
    }

    #[test]
    fn another_run_gives_others() {
        let now = 1_777_888_999_123;
        let mut ids = CommandIds::default();
        let before: Vec<CommandId> = (0..4000).map(|_| ids.next(now, 0)).collect();
        assert!(ids.may_have_given(before[3999]));
        let mut again = CommandIds::default();
        assert!(!again.may_have_given(before[0]));
        again.begin_after(now);
        assert!(again.next(now, 0) > before[3999]);
        let mut noted = CommandIds::default();
        noted.given(before[3999]);
        assert!(noted.next(now, 0) > before[3999]);
    }

    #[test]
    fn the_clock_has_room() {
        let year_2100 = 4_102_444_800_000;
        let id = CommandIds::default().next(year_2100, 63);
        assert_eq!((id.given_ms(), id.shard()), (year_2100, 63));
    }
}
