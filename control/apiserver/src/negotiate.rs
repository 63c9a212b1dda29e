//! Which form of an answer the client takes, by its `Accept` header.

use bowline_schema::table::IncludeObject;
use http::HeaderMap;
use http::header::ACCEPT;

use crate::query::Query;
use crate::status::{ApiError, ApiResult};

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table(IncludeObject),
    PartialMetadata,
}

/// One element of an `Accept` header.
struct Media<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Media<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        Self { name, parameters: parts.filter_map(|part| part.split_once('=')).collect() }
    }

    fn parameter(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    fn is_json(&self) -> bool {
        matches!(self.name, "application/json" | "application/*" | "*/*")
    }
}

fn media(headers: &HeaderMap) -> Vec<Media<'_>> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(Media::parse).collect()
}

/// The first form that the client asks for and that is served; an object if it does not say.
pub(crate) fn form(headers: &HeaderMap, query: &Query) -> ApiResult<Form> {
    let wanted = media(headers);
    if wanted.is_empty() {
        return Ok(Form::Object);
    }
    let found = wanted.iter().filter(|media| media.is_json()).find_map(|media| {
        let meta = media.parameter("g") == "meta.k8s.io";
        match media.parameter("as") {
            "" => Some(Form::Object),
            "Table" if meta => Some(Form::Table(include(query))),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if meta => {
                Some(Form::PartialMetadata)
            }
            _ => None,
        }
    });
    found.ok_or_else(|| ApiError::not_acceptable("application/json"))
}

fn include(query: &Query) -> IncludeObject {
    match query.get("includeObject") {
        Some("None") => IncludeObject::None,
        Some("Object") => IncludeObject::Object,
        _ => IncludeObject::Metadata,
    }
}

/// Whether the client prefers the aggregated form of discovery (KEP-3352).
pub(crate) fn wants_aggregated_discovery(headers: &HeaderMap) -> bool {
    let wanted = media(headers);
    let first = wanted.iter().find(|media| {
        media.is_json()
            && matches!(media.parameter("as"), "" | "APIGroupDiscoveryList")
            && matches!(media.parameter("v"), "" | "v2")
    });
    first.is_some_and(|media| media.parameter("as") == "APIGroupDiscoveryList")
}

/// Whether the client names this media type, in part or whole.
pub(crate) fn accepts(headers: &HeaderMap, part: &str) -> bool {
    media(headers).iter().any(|media| media.name.contains(part))
}

pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(http::header::ACCEPT_ENCODING).iter();
    values.filter_map(|v| v.to_str().ok()).any(|value| value.contains("gzip"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(accept: &'static str) -> ApiResult<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, http::HeaderValue::from_static(accept));
        form(&headers, &Query::default())
    }

    #[test]
    fn the_first_form_that_is_served_is_taken() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert!(matches!(asked(table), Ok(Form::Table(_))));
        let proto = "application/vnd.kubernetes.protobuf,application/json";
        assert!(matches!(asked(proto), Ok(Form::Object)));
        assert!(matches!(asked("*/*"), Ok(Form::Object)));
        let refused = asked("application/vnd.kubernetes.protobuf").map_err(|e| e.code);
        assert_eq!(refused, Err(406), "protobuf alone is not served");
    }
}
