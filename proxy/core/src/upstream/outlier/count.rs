//! Which statistic counts what.

use super::EjectionKind;
use crate::stats::SharedCounter;
use crate::stats::groups::OutlierDetectionStats;

/// Those that were found to be outliers.
pub(super) fn detected(stats: &OutlierDetectionStats, kind: EjectionKind) -> &SharedCounter {
    match kind {
        EjectionKind::Consecutive5xx => &stats.ejections_detected_consecutive_5xx,
        EjectionKind::ConsecutiveGatewayFailure => &stats.ejections_detected_consecutive_gateway_failure,
        EjectionKind::SuccessRate => &stats.ejections_detected_success_rate,
        EjectionKind::ConsecutiveLocalOriginFailure => {
            &stats.ejections_detected_consecutive_local_origin_failure
        }
        EjectionKind::SuccessRateLocalOrigin => &stats.ejections_detected_local_origin_success_rate,
        EjectionKind::FailurePercentage => &stats.ejections_detected_failure_percentage,
        EjectionKind::FailurePercentageLocalOrigin => {
            &stats.ejections_detected_local_origin_failure_percentage
        }
        EjectionKind::Degraded => &stats.ejections_detected_degradation,
    }
}

/// Those that were ejected for it, if hosts are.
pub(super) fn enforced_by(stats: &OutlierDetectionStats, kind: EjectionKind) -> Option<&SharedCounter> {
    Some(match kind {
        EjectionKind::Consecutive5xx => &stats.ejections_enforced_consecutive_5xx,
        EjectionKind::ConsecutiveGatewayFailure => &stats.ejections_enforced_consecutive_gateway_failure,
        EjectionKind::SuccessRate => &stats.ejections_enforced_success_rate,
        EjectionKind::ConsecutiveLocalOriginFailure => {
            &stats.ejections_enforced_consecutive_local_origin_failure
        }
        EjectionKind::SuccessRateLocalOrigin => &stats.ejections_enforced_local_origin_success_rate,
        EjectionKind::FailurePercentage => &stats.ejections_enforced_failure_percentage,
        EjectionKind::FailurePercentageLocalOrigin => {
            &stats.ejections_enforced_local_origin_failure_percentage
        }
        EjectionKind::Degraded => return None,
    })
}
