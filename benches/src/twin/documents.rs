//! The vehicles of this load, and what they report.
//!
//! Owns their VINs, and documents that say about as much as a connected car reports: some 300 bytes, in which a few values
//! change each time. All of it follows from numbers, so that what a query has to find can be counted.

use std::io::Write as _;

/// The vehicles that have a charge below this are what is looked for.
pub(super) const LOW_CHARGE: u32 = 20;

/// A VIN of a fleet of a million.
pub(super) fn vin(number: u32) -> String {
    format!("WVWZZZ1JZ3W{number:06}")
}

/// The charge of a vehicle's battery in percent, in its report of this number.
pub(super) fn charge(vehicle: u32, report: u32) -> u32 {
    mixed(vehicle ^ report.rotate_left(16)) % 101
}

/// How many of the first `vehicles` have a low charge in their first report.
pub(super) fn low_charges(vehicles: u32) -> u64 {
    (0..vehicles).filter(|vehicle| charge(*vehicle, 0) < LOW_CHARGE).count() as u64
}

/// Writes an update document with all that a vehicle reports.
pub(super) fn update(out: &mut Vec<u8>, vehicle: u32, report: u32) {
    out.clear();
    let random = mixed(vehicle.wrapping_add(report.wrapping_mul(7)));
    let (charge, odometer) = (charge(vehicle, report), vehicle % 200_000 + report);
    let (latitude, longitude) = (40 + random % 20, random >> 8 & 15);
    let (north, east, heading) = (random % 9000 + 1000, random >> 4 & 8191, random % 360);
    let (region, is_ignited) = (["eu", "us", "cn"][vehicle as usize % 3], random & 1 == 0);
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "{{\"state\":{{\"reported\":{{\"battery\":{{\"soc\":{charge},\"celsius\":21,\"charging\":false}},\"odometer\":{odometer},\
         \"doors\":{{\"locked\":true,\"open\":[\"boot\"]}},\"tyres\":[231,229,233,230],\"position\":{{\"lat\":{latitude}.{north},\
         \"lon\":{longitude}.{east},\"heading\":{heading}}},\"climate\":{{\"on\":false,\"target\":20}},\"software\":{{\"version\":\"4.2.1\",\
         \"channel\":\"stable\"}},\"range\":{},\"region\":\"{region}\",\"ignition\":{is_ignited}}}}}}}",
        charge * 4,
    );
}

/// Neighbouring numbers become unlike ones.
pub(super) fn mixed(number: u32) -> u32 {
    let number = (number ^ number >> 16).wrapping_mul(0x7FEB_352D);
    let number = (number ^ number >> 15).wrapping_mul(0x846C_A68B);
    number ^ number >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_the_size_that_is_said_and_the_charge_that_is_counted() {
        assert_eq!(vin(7).len(), 17);
        let mut bytes = Vec::new();
        for (vehicle, report) in [(0, 0), (7, 3), (999_999, 1_000_000)] {
            update(&mut bytes, vehicle, report);
            let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let state = &document["state"]["reported"];
            assert_eq!(state["battery"]["soc"], charge(vehicle, report));
            let length = state.to_string().len();
            assert!((280..=330).contains(&length), "{length}");
        }
    }

    #[test]
    fn a_fifth_has_a_low_charge() {
        assert!((1_900..2_100).contains(&low_charges(10_000)));
    }
}
