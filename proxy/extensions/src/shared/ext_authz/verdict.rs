//! What an authorization service decided, whichever way it was asked.

use bytes::Bytes;
use http::StatusCode;
use prost_types::Struct;
use proxy_core::callout::{Called, grpc};
use xds_api::envoy::config::core::v3::HeaderValueOption;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_api::envoy::service::auth::v3::check_response::HttpResponse;
use xds_api::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};

use super::mutation::{Action, Mutation};

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may pass.
    Ok,
    /// It may not.
    Denied,
    /// Nobody could tell.
    Error,
}

/// A decision and what is to be done with it.
#[derive(Debug)]
pub struct Verdict {
    /// What it comes to.
    pub decision: Decision,
    /// Changes of the request's headers.
    pub request: Vec<Mutation>,
    /// Headers to take from the request.
    pub remove: Vec<String>,
    /// Changes of the headers of the response to a request that passes.
    pub response: Vec<Mutation>,
    /// Headers of the reply to one that does not.
    pub reply: Vec<Mutation>,
    /// Parameters of the path to set.
    pub set_parameters: Vec<(String, String)>,
    /// Parameters of the path to remove.
    pub remove_parameters: Vec<String>,
    /// Status of the reply.
    pub status: Option<StatusCode>,
    /// Body of the reply.
    pub body: Bytes,
    /// Metadata for other filters.
    pub metadata: Struct,
    /// A header was to be changed in a way that there is not.
    pub has_unknown_action: bool,
    /// What gRPC says of the call; `None` if it was none of gRPC.
    pub grpc_status: Option<u32>,
}

impl Verdict {
    /// Whether parameters of the path are changed.
    pub fn changes_path(&self) -> bool {
        !self.set_parameters.is_empty() || !self.remove_parameters.is_empty()
    }

    /// A bare decision.
    pub fn new(decision: Decision) -> Self {
        Self {
            decision,
            request: Vec::new(),
            remove: Vec::new(),
            response: Vec::new(),
            reply: Vec::new(),
            set_parameters: Vec::new(),
            remove_parameters: Vec::new(),
            status: None,
            body: Bytes::new(),
            metadata: Struct::default(),
            has_unknown_action: false,
            grpc_status: None,
        }
    }

    /// What a service of gRPC answered.
    pub fn of_grpc(called: &Called) -> Self {
        let response: CheckResponse = match grpc::message(called) {
            Ok(response) => response,
            Err(status) => return Self { grpc_status: Some(status), ..Self::new(Decision::Error) },
        };
        let CheckResponse { status, dynamic_metadata, http_response } = response;
        let status = status.map_or(0, |status| status.code);
        let mut verdict = Self::new(match (status, &http_response) {
            (0, _) => Decision::Ok,
            (_, Some(HttpResponse::ErrorResponse(_))) => Decision::Error,
            (_, Some(HttpResponse::DeniedResponse(_) | HttpResponse::OkResponse(_)) | None) => {
                Decision::Denied
            }
        });
        verdict.grpc_status = u32::try_from(status).ok();
        verdict.metadata = dynamic_metadata.unwrap_or_default();
        if verdict.decision == Decision::Denied {
            verdict.status = Some(StatusCode::FORBIDDEN);
        }
        match http_response {
            Some(HttpResponse::OkResponse(response)) => verdict.take_ok(response),
            Some(HttpResponse::DeniedResponse(response)) if verdict.decision == Decision::Denied => {
                verdict.take_reply(response);
            }
            Some(HttpResponse::ErrorResponse(response)) if verdict.decision == Decision::Error => {
                verdict.take_reply(response);
            }
            Some(HttpResponse::DeniedResponse(_) | HttpResponse::ErrorResponse(_)) | None => {}
        }
        verdict
    }

    #[allow(deprecated, reason = "services still send it")]
    fn take_ok(&mut self, response: OkHttpResponse) {
        let OkHttpResponse {
            headers,
            headers_to_remove,
            dynamic_metadata,
            response_headers_to_add,
            query_parameters_to_set,
            query_parameters_to_remove,
        } = response;
        // (The older place has the last word.)
        if let Some(metadata) = dynamic_metadata {
            self.metadata = metadata;
        }
        if self.decision != Decision::Ok {
            return;
        }
        self.request = request_mutations(headers);
        self.response = self.response_mutations(response_headers_to_add);
        self.remove = headers_to_remove;
        let parameters = query_parameters_to_set.into_iter();
        self.set_parameters = parameters.map(|parameter| (parameter.key, parameter.value)).collect();
        self.remove_parameters = query_parameters_to_remove;
    }

    fn take_reply(&mut self, response: DeniedHttpResponse) {
        let DeniedHttpResponse { status, headers, body } = response;
        self.reply = reply_mutations(headers);
        self.body = body.into();
        let code = status.map(|status| status.code).filter(|code| *code > 0);
        let status = code.and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
        self.status = status.or(self.status);
    }

    fn response_mutations(&mut self, headers: Vec<HeaderValueOption>) -> Vec<Mutation> {
        let mut action = |option: &HeaderValueOption| match asks_to_append(option) {
            Some(true) => Action::Add,
            Some(false) => Action::Overwrite,
            None => match HeaderAppendAction::try_from(option.append_action) {
                Ok(HeaderAppendAction::AppendIfExistsOrAdd) => Action::Add,
                Ok(HeaderAppendAction::AddIfAbsent) => Action::AddIfAbsent,
                Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => Action::Overwrite,
                Ok(HeaderAppendAction::OverwriteIfExists) => Action::OverwriteIfThere,
                Err(_) => {
                    self.has_unknown_action = true;
                    Action::Overwrite
                }
            },
        };
        let mut all: Vec<_> = headers.into_iter().map(|option| mutation(action(&option), option)).collect();
        // (Envoy has a list for each action.)
        all.sort_by_key(|mutation| match mutation.action {
            Action::Add | Action::AppendIfThere => 0,
            Action::Overwrite => 1,
            Action::AddIfAbsent => 2,
            Action::OverwriteIfThere => 3,
        });
        all
    }
}

/// Of a request's headers nothing but `append` is looked at, as in Envoy, and what is appended comes last.
fn request_mutations(headers: Vec<HeaderValueOption>) -> Vec<Mutation> {
    let action = |option: &HeaderValueOption| match asks_to_append(option) {
        Some(true) => Action::AppendIfThere,
        Some(false) | None => Action::Overwrite,
    };
    let mut all: Vec<_> = headers.into_iter().map(|option| mutation(action(&option), option)).collect();
    all.sort_by_key(|mutation| mutation.action == Action::AppendIfThere);
    all
}

/// A reply has all headers that are not to be appended to others, as in Envoy.
fn reply_mutations(headers: Vec<HeaderValueOption>) -> Vec<Mutation> {
    let set = headers.into_iter().filter(|option| asks_to_append(option) != Some(true));
    set.map(|option| mutation(Action::Add, option)).collect()
}

#[allow(deprecated, reason = "services still send `append`")]
fn asks_to_append(option: &HeaderValueOption) -> Option<bool> {
    option.append
}

fn mutation(action: Action, option: HeaderValueOption) -> Mutation {
    let header = option.header.unwrap_or_default();
    Mutation { name: header.key, value: header.value.into_bytes(), action }
}
