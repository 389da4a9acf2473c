//! Owns the shape of the test tables: what a test and a section are, and the macro that writes them down. Never runs one.

use anyhow::Result;

use crate::context::Ctx;
use crate::restart::Ending;

/// One test. It passes when `run` returns Ok, and is skipped when it returns the error of `context::skip`.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Section prefix, slash, function name: `3.1/second_connect_closes`.
    pub name: &'static str,
    /// The statements it can find a broker guilty of: `MQTT-…` for MQTT 5, `MQTT311-…` for MQTT 3.1.1.
    pub ids: &'static [&'static str],
    /// How the broker ends in the middle of it, if it does: such tests run together, after all others.
    pub ending: Option<Ending>,
    /// The test.
    pub run: fn(&Ctx) -> Result<()>,
}

/// The tests of one section of the specification.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Prefix of the test names.
    pub prefix: &'static str,
    /// Title for the reports.
    pub title: &'static str,
    /// The tests.
    pub tests: &'static [Test],
    /// Server statements that cannot be judged from outside: id and reason.
    pub unobservable: &'static [(&'static str, &'static str)],
}

/// Writes a [`Section`]: `tests` maps functions of the file to statement ids, `unobservable` maps ids to reasons. With
/// `ending`, its tests restart the broker.
macro_rules! section {
    (prefix: $prefix:literal, title: $title:literal, tests: $tests:tt, unobservable: $lost:tt $(,)?) => {
        $crate::registry::section! {
            prefix: $prefix,
            title: $title,
            ending: None,
            tests: $tests,
            unobservable: $lost,
        }
    };
    (
        prefix: $prefix:literal,
        title: $title:literal,
        ending: $ending:expr,
        tests: { $($function:ident => [$($id:literal),+ $(,)?]),* $(,)? },
        unobservable: { $($lost:literal => $reason:literal),* $(,)? } $(,)?
    ) => {
        $crate::registry::Section {
            prefix: $prefix,
            title: $title,
            tests: &[$($crate::registry::Test {
                name: concat!($prefix, "/", stringify!($function)),
                ids: &[$($id),+],
                ending: $ending,
                run: $function,
            }),*],
            unobservable: &[$(($lost, $reason)),*],
        }
    };
}
pub(crate) use section;
