//! `/`: a plain page with a link or a button per endpoint.

use std::fmt::Write as _;

use super::request::Request;
use super::response::Response;
use super::routes::{ENDPOINTS, Effect};
use super::state::AdminState;

pub(super) fn page(_state: &dyn AdminState, _request: &Request) -> Response {
    let mut rows = String::new();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path != "/") {
        let path = endpoint.path;
        let action = match endpoint.effect {
            Effect::Reads => format!("<a href=\"{}\">{path}</a>", path.trim_start_matches('/')),
            Effect::Changes => format!(
                "<form action=\"{}\" method=\"post\"><button>{path}</button></form>",
                path.trim_start_matches('/')
            ),
        };
        let _ = writeln!(rows, "<tr><td>{action}</td><td>{}</td></tr>", escape(endpoint.help));
    }
    Response::html(document("Admin", &format!("<table>\n{rows}</table>\n")))
}

/// A page that shows text as it is.
pub(super) fn text_page(title: &str, text: &str) -> String {
    document(title, &format!("<pre>{}</pre>\n", escape(text)))
}

fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body>\n\
         <h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
