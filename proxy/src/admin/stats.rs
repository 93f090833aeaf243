//! `/stats`, `/stats/prometheus` and `/reset_counters`.

use http::StatusCode;
use proxy_core::matcher::regex::Search;
use proxy_core::stats::{
    BucketMode, HiddenFilter, KindFilter, Selection, json, prometheus as exposition, text,
};

use super::home;
use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// Prometheus' native histograms need its protobuf exposition, which this proxy has not.
const NATIVE: &str = "prometheusnative";

pub(super) fn stats(state: &dyn AdminState, request: &Request) -> Response {
    if request.param("histogram_buckets") == Some(NATIVE) && request.param("format") != Some("prometheus") {
        let reason = "Invalid histogram_buckets type for non prometheus stats type";
        return Response::error(StatusCode::BAD_REQUEST, reason);
    }
    let selection = match selection(request) {
        Ok(selection) => selection,
        Err(reason) => return Response::error(StatusCode::BAD_REQUEST, reason),
    };
    state.show_statistics();
    match request.param("format").unwrap_or("text") {
        "text" => Response::text(text::render(state.stats(), &selection)),
        "json" => Response::json(json::render(state.stats(), &selection)),
        "html" | "active-html" => {
            Response::html(home::text_page("Statistics", &text::render(state.stats(), &selection)))
        }
        "prometheus" => render_prometheus(state, &selection),
        _ => Response::error(
            StatusCode::BAD_REQUEST,
            "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n",
        ),
    }
}

pub(super) fn prometheus(state: &dyn AdminState, request: &Request) -> Response {
    match selection(request) {
        Ok(selection) => {
            state.show_statistics();
            render_prometheus(state, &selection)
        }
        Err(reason) => Response::error(StatusCode::BAD_REQUEST, reason),
    }
}

pub(super) fn reset_counters(state: &dyn AdminState, _request: &Request) -> Response {
    state.stats().reset_counters();
    Response::ok()
}

fn render_prometheus(state: &dyn AdminState, selection: &Selection) -> Response {
    match exposition::render(state.stats(), selection) {
        Ok(body) => Response::text(body),
        Err(unsupported) => Response::error(StatusCode::BAD_REQUEST, unsupported.to_string()),
    }
}

fn selection(request: &Request) -> Result<Selection, String> {
    let filter = match request.non_empty("filter") {
        Some(filter) => {
            Some(Search::new(filter).map_err(|error| format!("Invalid re2 regex: {}", brief(&error)))?)
        }
        None => None,
    };
    Ok(Selection {
        used_only: request.has("usedonly"),
        filter,
        invert_filter: request.has("invert_filter"),
        kind: kind(request.param("type"))?,
        hidden: hidden(request.param("hidden"))?,
        buckets: buckets(request.param("histogram_buckets"))?,
        text_readouts: request.has("text_readouts"),
    })
}

/// The last line of the engine's message is the reason; those before it draw the expression.
fn brief(message: &str) -> String {
    message.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn kind(name: Option<&str>) -> Result<KindFilter, String> {
    match name {
        None | Some("All") => Ok(KindFilter::All),
        Some("Counters") => Ok(KindFilter::Counters),
        Some("Gauges") => Ok(KindFilter::Gauges),
        Some("Histograms") => Ok(KindFilter::Histograms),
        Some("TextReadouts") => Ok(KindFilter::TextReadouts),
        Some(_) => Err("invalid &type= param".to_owned()),
    }
}

fn hidden(name: Option<&str>) -> Result<HiddenFilter, String> {
    match name {
        None | Some("exclude") => Ok(HiddenFilter::Exclude),
        Some("include") => Ok(HiddenFilter::Include),
        Some("only") => Ok(HiddenFilter::Only),
        Some(_) => Err("usage: /stats?hidden=(include|only|exclude)\n\n".to_owned()),
    }
}

fn buckets(name: Option<&str>) -> Result<BucketMode, String> {
    match name {
        None | Some("") => Ok(BucketMode::Unset),
        Some("summary" | "none") => Ok(BucketMode::Summary),
        Some("cumulative") => Ok(BucketMode::Cumulative),
        Some("disjoint") => Ok(BucketMode::Disjoint),
        Some("detailed") => Ok(BucketMode::Detailed),
        Some(NATIVE) => {
            Err("unsupported prometheusnative histogram type when not using protobuf exposition format"
                .to_owned())
        }
        Some(_) => {
            Err("usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n"
                .to_owned())
        }
    }
}
