//! Vehicle identification numbers.
//!
//! Owns the syntax of ISO 3779 and the check digit of the United States and Canada. It never decides whether a vehicle exists.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A vehicle identification number: 17 upper-case letters and digits without I, O and Q (ISO 3779).
///
/// The check digit is not part of the syntax, because most of the world's makers do not use it: see
/// [`Vin::has_valid_check_digit`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vin([u8; Vin::LENGTH]);

/// Why a text is no [`Vin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VinError {
    /// Not 17 characters long.
    #[error("a VIN has 17 characters, not {0}")]
    Length(usize),
    /// A character that ISO 3779 does not allow, at this position (the first is 1).
    #[error("a VIN has no {character:?} (position {position}): it is made of 0-9 and A-Z without I, O and Q")]
    Character {
        /// The character found.
        character: char,
        /// Where, counted from 1.
        position: usize,
    },
}

impl Vin {
    /// The number of characters.
    pub const LENGTH: usize = 17;

    /// The first of all in their order.
    pub const FIRST: Vin = Vin([b'0'; Vin::LENGTH]);

    /// The last of all in their order.
    pub const LAST: Vin = Vin([b'Z'; Vin::LENGTH]);

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets past `from_str`, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The world manufacturer identifier: the first three characters.
    pub fn manufacturer(&self) -> &str {
        &self.as_str()[..3]
    }

    /// Whether the ninth character is the check digit of 49 CFR 565.15, which vehicles sold in the United States and
    /// Canada must carry.
    pub fn has_valid_check_digit(&self) -> bool {
        self.0[8] == check_digit(&self.0)
    }
}

/// The check digit over the other 16 characters: the weighted sum of their values modulo 11, with X for 10.
fn check_digit(characters: &[u8; Vin::LENGTH]) -> u8 {
    const WEIGHTS: [u32; Vin::LENGTH] = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2];
    let sum: u32 = characters.iter().zip(WEIGHTS).map(|(&character, weight)| value(character) * weight).sum();
    match sum % 11 {
        10 => b'X',
        // Below 10 here, so it fits.
        digit => b'0' + digit as u8,
    }
}

fn value(character: u8) -> u32 {
    let value = match character {
        b'0'..=b'9' => character - b'0',
        b'A'..=b'H' => character - b'A' + 1,
        b'J'..=b'R' => character - b'J' + 1,
        b'S'..=b'Z' => character - b'S' + 2,
        _ => 0,
    };
    u32::from(value)
}

impl FromStr for Vin {
    type Err = VinError;

    fn from_str(text: &str) -> Result<Vin, VinError> {
        let allowed = |c: char| matches!(c, '0'..='9' | 'A'..='Z') && !matches!(c, 'I' | 'O' | 'Q');
        if let Some((index, character)) = text.chars().enumerate().find(|&(_, c)| !allowed(c)) {
            return Err(VinError::Character { character, position: index + 1 });
        }
        // All ASCII by now: bytes are characters.
        text.as_bytes().try_into().map(Vin).map_err(|_| VinError::Length(text.len()))
    }
}

impl fmt::Display for Vin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Vin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vin({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_iso_3779() {
        let vin: Vin = "1M8GDM9AXKP042788".parse().unwrap();
        assert_eq!(vin.to_string(), "1M8GDM9AXKP042788");
        assert_eq!(vin.manufacturer(), "1M8");
        assert_eq!("".parse::<Vin>(), Err(VinError::Length(0)));
        assert_eq!("1M8GDM9AXKP04278".parse::<Vin>(), Err(VinError::Length(16)));
        assert_eq!("1M8GDM9AXKP0427888".parse::<Vin>(), Err(VinError::Length(18)));
        for (text, character, position) in [
            ("IM8GDM9AXKP042788", 'I', 1),
            ("1O8GDM9AXKP042788", 'O', 2),
            ("1MQGDM9AXKP042788", 'Q', 3),
            ("1M8gDM9AXKP042788", 'g', 4),
            ("1M8GDM9AXKP04278/", '/', 17),
            ("1M8GDM9AXKP04278é", 'é', 17),
        ] {
            assert_eq!(text.parse::<Vin>(), Err(VinError::Character { character, position }));
        }
    }

    #[test]
    fn check_digit_is_separate_from_the_syntax() {
        for text in ["1M8GDM9AXKP042788", "11111111111111111", "5GZCZ43D13S812715"] {
            assert!(text.parse::<Vin>().unwrap().has_valid_check_digit(), "{text}");
        }
        // A European number, which carries no check digit, and one with a digit changed.
        for text in ["WVWZZZ1JZ3W386752", "1M8GDM9AXKP042789"] {
            assert!(!text.parse::<Vin>().unwrap().has_valid_check_digit(), "{text}");
        }
    }
}
