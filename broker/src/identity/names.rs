//! What names of services, operators and vehicles are taken from certificates and tokens.
//!
//! Owns their syntax. A name may stand in topics, by the placeholders of a policy, so it is always within one level of them.

use causeway_fleet::Vin;

use crate::shown::shown;

/// Bytes of the longest name.
const NAME_BYTES_MAX: usize = 256;

/// Whether somebody may be called so.
///
/// # Errors
/// What is wrong with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    let forbidden = |c: char| c.is_control() || matches!(c, '/' | '+' | '#');
    match name {
        "" => Err("the name is empty".to_owned()),
        name if name.len() > NAME_BYTES_MAX => Err(format!("the name is longer than {NAME_BYTES_MAX} bytes")),
        name if name.contains(forbidden) => {
            Err(format!("the name {} has one of the characters / + # or a control character", shown(name)))
        }
        _ => Ok(()),
    }
}

/// The vehicle that is called so. Letters are upper case: no other way to write it names the same vehicle.
///
/// # Errors
/// It is no VIN, or `check_digit` is asked for and wrong.
pub fn check_vin(text: &str, check_digit: bool) -> Result<Vin, String> {
    let vin: Vin = text.parse().map_err(|wrong| format!("{} is no VIN: {wrong}", shown(text)))?;
    match check_digit && !vin.has_valid_check_digit() {
        true => Err(format!("the check digit of the VIN {vin} is wrong")),
        false => Ok(vin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_within_one_level_of_a_topic() {
        for good in ["a", "Zoë O'Neil", "ota-1.2", &"x".repeat(256)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a/b", "+", "a#", "a\0b", "a\nb", &"x".repeat(257)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_vin_is_written_in_one_way() {
        assert_eq!(check_vin("1M8GDM9AXKP042788", true).unwrap().as_str(), "1M8GDM9AXKP042788");
        assert!(check_vin("WVWZZZ1JZ3W386752", false).is_ok());
        assert!(check_vin("WVWZZZ1JZ3W386752", true).unwrap_err().contains("check digit"));
        for bad in ["1m8gdm9axkp042788", " 1M8GDM9AXKP042788", "1M8GDM9AXKP04278", "1М8GDM9AXKP042788"] {
            assert!(check_vin(bad, false).unwrap_err().contains("is no VIN"), "{bad}");
        }
    }
}
