//! Response flags: why a response was what it was (`%RESPONSE_FLAGS%`).
//!
//! Source: Envoy `docs/root/configuration/observability/access_log/usage.rst`, "%RESPONSE_FLAGS%".

/// Declares the flags in Envoy's order of numbers, with their short and long names.
macro_rules! flags {
    ($($flag:ident $short:literal $long:literal,)*) => {
        /// One response flag.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ResponseFlag { $(#[doc = $long] $flag,)* }

        impl ResponseFlag {
            /// Every flag.
            pub const ALL: &[Self] = &[$(Self::$flag,)*];

            /// The short name, `%RESPONSE_FLAGS%`.
            pub fn short(self) -> &'static str {
                match self { $(Self::$flag => $short,)* }
            }

            /// The long name, `%RESPONSE_FLAGS_LONG%`.
            pub fn long(self) -> &'static str {
                match self { $(Self::$flag => $long,)* }
            }
        }
    };
}

flags! {
    FailedLocalHealthCheck "LH" "FailedLocalHealthCheck",
    NoHealthyUpstream "UH" "NoHealthyUpstream",
    UpstreamRequestTimeout "UT" "UpstreamRequestTimeout",
    LocalReset "LR" "LocalReset",
    UpstreamRemoteReset "UR" "UpstreamRemoteReset",
    UpstreamConnectionFailure "UF" "UpstreamConnectionFailure",
    UpstreamConnectionTermination "UC" "UpstreamConnectionTermination",
    UpstreamOverflow "UO" "UpstreamOverflow",
    NoRouteFound "NR" "NoRouteFound",
    DelayInjected "DI" "DelayInjected",
    FaultInjected "FI" "FaultInjected",
    RateLimited "RL" "RateLimited",
    UnauthorizedExternalService "UAEX" "UnauthorizedExternalService",
    RateLimitServiceError "RLSE" "RateLimitServiceError",
    DownstreamConnectionTermination "DC" "DownstreamConnectionTermination",
    UpstreamRetryLimitExceeded "URX" "UpstreamRetryLimitExceeded",
    StreamIdleTimeout "SI" "StreamIdleTimeout",
    InvalidEnvoyRequestHeaders "IH" "InvalidEnvoyRequestHeaders",
    DownstreamProtocolError "DPE" "DownstreamProtocolError",
    UpstreamMaxStreamDurationReached "UMSDR" "UpstreamMaxStreamDurationReached",
    ResponseFromCacheFilter "RFCF" "ResponseFromCacheFilter",
    NoFilterConfigFound "NFCF" "NoFilterConfigFound",
    DurationTimeout "DT" "DurationTimeout",
    UpstreamProtocolError "UPE" "UpstreamProtocolError",
    NoClusterFound "NC" "NoClusterFound",
    OverloadManagerTerminated "OM" "OverloadManagerTerminated",
    DnsResolutionFailed "DF" "DnsResolutionFailed",
    DropOverload "DO" "DropOverload",
    DownstreamRemoteReset "DR" "DownstreamRemoteReset",
    UnconditionalDropOverload "UDO" "UnconditionalDropOverload",
}

impl ResponseFlag {
    /// The flag with this short name.
    pub fn from_short(short: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|flag| flag.short() == short)
    }
}

/// How many flags are printed in the order in which they were set; hardly a stream has as many.
const ORDERED: u32 = 6;
/// Bits of one flag in the order.
const FLAG_BITS: u32 = 5;

/// A set of response flags, which remembers their order.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseFlags {
    set: u32,
    /// The first flags that were set, the first of them in the lowest bits.
    order: u32,
}

impl ResponseFlags {
    /// Adds `flag`.
    pub fn set(&mut self, flag: ResponseFlag) {
        if self.has(flag) {
            return;
        }
        let count = self.set.count_ones();
        if count < ORDERED {
            self.order |= u32::from(flag as u8) << (count * FLAG_BITS);
        }
        self.set |= 1 << flag as u8;
    }

    /// Whether `flag` is in the set.
    pub fn has(self, flag: ResponseFlag) -> bool {
        self.set & (1 << flag as u8) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.set == 0
    }

    /// Whether both sets share a flag.
    pub fn intersects(self, other: Self) -> bool {
        self.set & other.set != 0
    }

    /// The flags of the set in printing order, which is that in which they were set.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        let ordered = self.set.count_ones().min(ORDERED);
        let number = move |at: u32| (self.order >> (at * FLAG_BITS)) & ((1 << FLAG_BITS) - 1);
        let first = (0..ordered).filter_map(move |at| ResponseFlag::ALL.get(number(at) as usize).copied());
        let is_first = move |flag: ResponseFlag| (0..ordered).any(|at| number(at) == flag as u32);
        let rest = ResponseFlag::ALL.iter().copied().filter(move |flag| self.has(*flag) && !is_first(*flag));
        first.chain(rest)
    }
}

impl PartialEq for ResponseFlags {
    fn eq(&self, other: &Self) -> bool {
        self.set == other.set
    }
}

impl Eq for ResponseFlags {}

impl FromIterator<ResponseFlag> for ResponseFlags {
    fn from_iter<I: IntoIterator<Item = ResponseFlag>>(flags: I) -> Self {
        let mut set = Self::default();
        for flag in flags {
            set.set(flag);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_in_the_order_in_which_they_were_set() {
        let all: Vec<_> = ResponseFlag::ALL.iter().rev().copied().collect();
        for count in 0..all.len() {
            let flags = ResponseFlags::from_iter(all.iter().chain(&all).take(count).copied());
            let printed: Vec<_> = flags.iter().collect();
            assert_eq!(printed.len(), count.min(all.len()));
            assert!(printed.iter().zip(&all).take(ORDERED as usize).all(|(one, other)| one == other));
            assert!(printed.iter().all(|flag| flags.has(*flag)));
        }
        assert!((ResponseFlag::ALL.len() as u32) <= 1 << FLAG_BITS);
    }
}
