//! What part of a collection a list or watch is about.

use bowline_api::selector::{FieldSelector, LabelSelector};

use super::Call;
use crate::cache::Entry;
use crate::status::{ApiError, ApiResult};

/// Label and field selectors of a request.
pub(super) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(super) fn of(call: &Call) -> ApiResult<Self> {
        let labels = LabelSelector::parse(call.query.get("labelSelector").unwrap_or_default());
        let labels = labels.map_err(|error| {
            ApiError::bad_request(format!("unable to parse labelSelector: {error}"))
        })?;
        let fields = FieldSelector::parse(call.query.get("fieldSelector").unwrap_or_default());
        let mut fields = fields.map_err(|error| {
            ApiError::bad_request(format!("unable to parse fieldSelector: {error}"))
        })?;
        for requirement in &mut fields.requirements {
            let stored = stored_field(call, &requirement.field);
            if !call.kind.fields.contains(&stored.as_str()) {
                let message = format!("field label not supported: {}", requirement.field);
                return Err(ApiError::bad_request(message));
            }
            requirement.field = stored;
        }
        Ok(Self { labels, fields })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, entry: &Entry) -> bool {
        self.labels.matches_by(|name| entry.label(name))
            && self.fields.matches_by(|name| entry.field(name).to_owned())
    }

    /// The one name that is asked for, as `kubectl get -w NAME` does.
    pub(super) fn name(&self) -> Option<&str> {
        self.fields.required("metadata.name")
    }
}

/// Events have other field names in events.k8s.io than in the store.
fn stored_field(call: &Call, field: &str) -> String {
    if !call.kind.converts() || call.kind.kind != "Event" {
        return field.to_owned();
    }
    match field.strip_prefix("regarding") {
        Some(rest) => format!("involvedObject{rest}"),
        None if field == "reportingController" => "reportingComponent".to_owned(),
        None => field.to_owned(),
    }
}
