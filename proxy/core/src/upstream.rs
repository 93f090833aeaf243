//! Hosts of clusters and the contract of load balancers: plain immutable data and a few atomics.

mod assignment;
mod checks;
mod health;
mod host;
mod host_set;
mod labels;
mod lb;
mod linear;
mod local_cluster;
mod locality;
mod moment;
mod outlier;
mod priority;
mod reported;
mod roster;
mod subsets;
mod watched;
mod wishes;

#[cfg(test)]
mod tests;

pub use assignment::{Assignment, AssignmentPolicy, CheckTarget, DropOverload, Endpoint, LocalityEndpoints};
pub use checks::{
    CheckEvent, CheckFailure, CheckOutcome, CheckResult, CheckSettings, FailureKind, HostChecks,
    IntervalLimits, Payload, Together, Transition,
};
pub use health::{HealthFlag, HealthStatuses, HostHealth};
pub use host::{Host, HostStats};
pub use host_set::{
    Checking, Duplicates, HostList, HostLists, HostSet, HostSetOptions, HostsUpdate, LocalityHosts,
};
pub use labels::{LB_NAMESPACE, Labels};
pub use lb::{
    Balancer, EntryCounts, HashBalancer, HashFunction, HashTableKind, HashTables, Hashing, LeastRequest,
    LoadBalancer, OverrideBalancer, PickCx, Policy, RuntimeDouble, Scheme, Selection, SlowStart,
    SubsetBalancer, ZoneRouting,
};
pub use linear::{LinearPick, LinearPriorities};
pub use local_cluster::LocalCluster;
pub use locality::Locality;
pub use outlier::{
    Detector, Ejection, EjectionKind, HostResult, OutlierChange, OutlierCounts, OutlierLimits, OutlierRates,
    OutlierSettings, Reached,
};
pub use priority::{Load, Priority};
pub use reported::{AskedReports, ReportedWeights};
pub use roster::Roster;
pub use subsets::{SelectorFallback, SubsetFallback, SubsetSelector, SubsetSettings, SubsetWeights, Subsets};
pub use wishes::{HostQueue, HostWish, HostWishes, OverrideHosts, OverrideSource, StrictHost};
