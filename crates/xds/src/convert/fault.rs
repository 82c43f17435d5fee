//! The fault filter's settings, of a connection manager or a route.
//!
//! - reject: a limited rate of responses; statuses that are none
//! - note: runtime keys (there is no runtime), metadata for logs

use std::borrow::Cow;

use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use lateen_traffic::filter::fault::{ABORT_BODY, Abort, AbortWith, Delay, Fault, Percentage};

use super::address::{duration, text};
use super::matcher::header;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};

pub(super) fn fault(value: HttpFault, notes: &mut Notes) -> Result<Fault, Reject> {
    let HttpFault {
        delay,
        abort,
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
        response_rate_limit,
        delay_percent_runtime,
        abort_percent_runtime,
        delay_duration_runtime,
        abort_http_status_runtime,
        max_active_faults_runtime,
        response_rate_limit_percent_runtime,
        abort_grpc_status_runtime,
        // Statistics by a name that clients choose have no bound, and are not kept.
        disable_downstream_cluster_stats: _,
        filter_metadata,
    } = value;
    reject_if_set!(response_rate_limit);
    note_if_set!(notes, "HTTPFault":
        delay_percent_runtime, abort_percent_runtime, delay_duration_runtime, abort_http_status_runtime,
        max_active_faults_runtime, response_rate_limit_percent_runtime, abort_grpc_status_runtime, filter_metadata);
    Ok(Fault {
        delay: delay.map(self::delay).transpose().at("delay")?,
        abort: abort.map(self::abort).transpose().at("abort")?,
        upstream_cluster: text(upstream_cluster),
        headers: each("headers", headers, header)?,
        downstream_nodes: downstream_nodes.into_iter().map(Into::into).collect(),
        max_active: max_active_faults.map(|most| most.value),
    })
}

fn delay(value: FaultDelay) -> Result<Delay, Reject> {
    let FaultDelay { percentage, fault_delay_secifier } = value;
    let fixed = match fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(wait)) => {
            let wait = duration("fixed_delay", wait)?;
            if wait.is_zero() {
                return Err(Reject::field("fixed_delay", "must be above 0"));
            }
            Some(wait)
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => None,
        None => return Err(Reject::new("neither fixed_delay nor header_delay")),
    };
    Ok(Delay { fixed, percentage: share(percentage).at("percentage")? })
}

fn abort(value: FaultAbort) -> Result<Abort, Reject> {
    let FaultAbort { percentage, response_body, error_type } = value;
    let with = match error_type {
        Some(ErrorType::HttpStatus(status)) => match u16::try_from(status) {
            Ok(status) if (200..600).contains(&status) => AbortWith::Http(status),
            _ => return Err(Reject::field("http_status", format_args!("{status} is not in 200..600"))),
        },
        Some(ErrorType::GrpcStatus(status)) => AbortWith::Grpc(status),
        Some(ErrorType::HeaderAbort(_)) => AbortWith::Header,
        None => return Err(Reject::new("none of http_status, grpc_status, header_abort")),
    };
    let body = if response_body.is_empty() { Cow::Borrowed(ABORT_BODY) } else { Cow::Owned(response_body) };
    Ok(Abort { with, percentage: share(percentage).at("percentage")?, body })
}

/// None given is never.
pub(super) fn share(value: Option<FractionalPercent>) -> Result<Percentage, Reject> {
    let FractionalPercent { numerator, denominator } = value.unwrap_or_default();
    let denominator = match DenominatorType::try_from(denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => return Err(Reject::field("denominator", format_args!("{denominator} is not known"))),
    };
    Ok(Percentage { numerator, denominator })
}
