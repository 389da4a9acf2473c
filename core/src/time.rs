//! The one notion of time inside the middle. It never asks for the time: the edge hands it in.

/// Unix time in milliseconds, made monotonic by the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// This many seconds later; saturates.
    pub const fn plus_seconds(self, seconds: u32) -> Millis {
        Millis(self.0.saturating_add(seconds as u64 * 1000))
    }

    /// Whole seconds from `self` until `later`, rounded up; 0 when `later` is past.
    pub const fn seconds_until(self, later: Millis) -> u32 {
        let seconds = later.0.saturating_sub(self.0).div_ceil(1000);
        if seconds > u32::MAX as u64 { u32::MAX } else { seconds as u32 }
    }
}
