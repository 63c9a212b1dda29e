//! get and list.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bowline_store::{Query as StoreQuery, StoreError};
use serde::{Deserialize, Serialize};

use super::Call;
use super::selection::Selection;
use crate::cache::Entry;
use crate::present::{self, ListMeta};
use crate::reply::Reply;
use crate::status::{ApiError, ApiResult};

/// Records read from the store at once for a page of an older list.
const PAGE: usize = 500;

pub(super) fn get(call: &Call) -> ApiResult<Reply> {
    let form = call.form()?;
    let entry = call.app.cache.get(&call.key()).ok_or_else(|| call.not_found())?;
    Ok(present::entry(&call.kind, form, 200, &entry))
}

/// Where the next page of a list begins.
#[derive(Serialize, Deserialize)]
struct Continue {
    revision: u64,
    after: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> ApiResult<Self> {
        let decoded = URL_SAFE_NO_PAD.decode(text).ok();
        decoded
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

pub(super) async fn list(call: &Call) -> ApiResult<Reply> {
    let form = call.form()?;
    let selection = Selection::of(call)?;
    let limit = call.query.number("limit").and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let (entries, meta) = match (call.query.get("continue"), exact_revision(call)?) {
        (Some(token), _) => older(call, &selection, limit, Continue::decode(token)?).await?,
        (None, Some(revision)) => {
            let start = Continue { revision, after: String::new() };
            older(call, &selection, limit, start).await?
        }
        (None, None) => newest(call, &selection, limit),
    };
    Ok(present::list(&call.kind, form, entries, &meta))
}

/// The revision that the client wants the list to be exactly of. (Any other wish is met by the
/// cache: it is never older than what the client may have seen.)
fn exact_revision(call: &Call) -> ApiResult<Option<u64>> {
    let given = call.query.get("resourceVersion");
    let revision = given.map(|text| {
        text.parse::<u64>()
            .map_err(|_| ApiError::bad_request(format!("invalid resource version \"{text}\"")))
    });
    let revision = revision.transpose()?;
    match (call.query.get("resourceVersionMatch"), revision) {
        (None, Some(revision)) | (Some("NotOlderThan"), Some(revision)) => {
            let newest = call.app.cache.revision();
            if revision > newest {
                return Err(ApiError::future_version(revision, newest));
            }
            Ok(None)
        }
        (Some("Exact"), Some(revision)) if revision > 0 => Ok(Some(revision)),
        (None, None) => Ok(None),
        (Some(how), _) => Err(ApiError::bad_request(format!(
            "resourceVersionMatch \"{how}\" does not go with the resourceVersion given"
        ))),
    }
}

fn newest(call: &Call, selection: &Selection, limit: Option<usize>) -> (Vec<Arc<Entry>>, ListMeta) {
    let prefix = call.kind.prefix_in(&call.target.namespace);
    let cache = &call.app.cache;
    let snapshot = cache.list(&prefix, limit, |entry| selection.matches(entry));
    let mut meta = ListMeta { revision: snapshot.revision, ..ListMeta::default() };
    if snapshot.more
        && let Some(last) = snapshot.entries.last()
    {
        let after = last.key.to_string();
        meta.more = Some(Continue { revision: snapshot.revision, after }.encode());
        if selection.is_everything() {
            let all = cache.list(&prefix, None, |_| true).entries.len();
            meta.remaining = Some(all.saturating_sub(snapshot.entries.len()));
        }
    }
    (snapshot.entries, meta)
}

/// A list, or the rest of one, at an older revision: the store still has it.
async fn older(
    call: &Call,
    selection: &Selection,
    limit: Option<usize>,
    start: Continue,
) -> ApiResult<(Vec<Arc<Entry>>, ListMeta)> {
    let prefix = call.kind.prefix_in(&call.target.namespace);
    let Continue { revision, mut after } = start;
    let mut entries = Vec::new();
    let mut meta = ListMeta { revision, ..ListMeta::default() };
    loop {
        let query = StoreQuery {
            prefix: prefix.clone(),
            after: Some(after.clone()).filter(|key| !key.is_empty()),
            limit: Some(PAGE),
            at: Some(revision),
        };
        let page = call.app.store.list(query).await.map_err(|error| expired(&error))?;
        for record in &page.records {
            let entry = Entry::new(record, Some((&call.kind.storage, &call.kind.fields)));
            if !selection.matches(&entry) {
                continue;
            }
            if limit.is_some_and(|limit| entries.len() == limit) {
                meta.more = Some(Continue { revision, after }.encode());
                return Ok((entries, meta));
            }
            after = record.key.to_string();
            entries.push(Arc::new(entry));
        }
        match page.records.last() {
            Some(last) if page.more => after = last.key.to_string(),
            _ => return Ok((entries, meta)),
        }
    }
}

fn expired(error: &StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You \
             must start a new list without the continue parameter.",
        ),
        StoreError::Future { wanted, newest } => ApiError::future_version(*wanted, *newest),
        other => ApiError::unavailable(other.to_string()),
    }
}
