//! Which shard a session lives on.
//!
//! Owns by which name a client is looked for: see [`causeway_fleet::home_shard`].

use causeway_core::{Vin, vehicle_of_client};

/// The number of the shard that has the sessions of this client, of so many. The same for ever.
///
/// All clients of a vehicle (`{VIN}` and `{VIN}/{suffix}`) live on the shard of its VIN, with all that is about the vehicle.
pub fn home_shard(client_id: &str, shards: u32) -> u32 {
    let vehicle = vehicle_of_client(client_id);
    causeway_fleet::home_shard(vehicle.as_ref().map_or(client_id, Vin::as_str), shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client identifiers, and their homes with as many shards as [`COUNTS`] says. Made with another program.
    const VECTORS: &[(&str, &[u32; COUNTS.len()])] = &[
        ("", &[0, 0, 1, 0, 1, 20]),
        ("abc", &[0, 0, 0, 2, 2, 42]),
        ("vehicle-17", &[0, 0, 2, 0, 6, 56]),
        ("WVWZZZ1JZ3W386752", &[0, 0, 1, 2, 4, 26]),
        ("WVWZZZ1JZ3W386752/hmi", &[0, 0, 1, 2, 4, 26]),
        ("fahrzeug/ü", &[0, 0, 2, 2, 2, 18]),
    ];
    const COUNTS: [u32; 6] = [1, 2, 3, 4, 7, 64];

    #[test]
    fn the_same_for_ever() {
        for (client_id, homes) in VECTORS {
            let found = COUNTS.map(|shards| home_shard(client_id, shards));
            assert_eq!(&found, *homes, "{client_id:?}");
        }
    }

    #[test]
    fn shards_get_their_share() {
        const CLIENTS: u32 = 30_000;
        for shards in [2, 3, 8] {
            let mut counts = vec![0; shards as usize];
            for vehicle in 0..CLIENTS {
                counts[home_shard(&format!("WVWZZZ1JZ3W{vehicle:06}"), shards) as usize] += 1;
            }
            let share = CLIENTS / shards;
            let is_fair = |count: &u32| count.abs_diff(share) < share / 20;
            assert!(counts.iter().all(is_fair), "{counts:?}");
        }
    }
}
