//! Core dumps hold keys: the process leaves none unless it is told to (`--enable-core-dump`).
//!
//! Source: core(5), getrlimit(2); Envoy `docs/root/operations/cli.rst`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// One octet: no core fits, and who takes cores through a pipe is given none, either, which a limit of 0 would not say.
const NONE: u64 = 1;

/// Lets the process leave a core of any size that whoever started it allows, or none.
///
/// # Errors
/// The system refuses it.
pub fn set(enabled: bool) -> std::io::Result<()> {
    let maximum = getrlimit(Resource::Core).maximum;
    let limit = match enabled {
        true => Rlimit { current: maximum, maximum },
        // (A limit below it stays.)
        false => {
            let none = maximum.map_or(NONE, |maximum| maximum.min(NONE));
            Rlimit { current: Some(none), maximum: Some(none) }
        }
    };
    Ok(setrlimit(Resource::Core, limit)?)
}
