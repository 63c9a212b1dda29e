//! The verbs, the same for every kind.

pub(crate) mod create;
pub(crate) mod decode;
pub(crate) mod delete;
mod get;
pub(crate) mod meta;
mod patch;
mod selection;
pub(crate) mod update;
mod watch;
pub(crate) mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::app::App;
use crate::authn::User;
use crate::kinds::Kind;
use crate::negotiate::{self, Form};
use crate::query::Query;
use crate::reply::Reply;
use crate::route::Target;
use crate::status::{ApiError, ApiResult};
use crate::subresource;

/// One authorized request on a kind that is served.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) kind: Arc<Kind>,
    pub(crate) user: User,
    pub(crate) verb: &'static str,
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
}

impl Call {
    pub(crate) fn form(&self) -> ApiResult<Form> {
        negotiate::form(&self.headers, &self.query)
    }

    /// The store's key of the object that is named.
    pub(crate) fn key(&self) -> String {
        self.kind.key(&self.target.namespace, &self.target.name)
    }

    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.kind, &self.target.name)
    }

    /// Whether nothing is to be stored.
    pub(crate) fn dry_run(&self) -> ApiResult<bool> {
        match self.query.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "dryRun \"{other}\" is not supported: use \"All\" or leave it out"
            ))),
        }
    }

    /// Who is written into managedFields: the parameter, or the start of the user agent.
    pub(crate) fn manager(&self) -> String {
        let agent = self.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok());
        let agent = agent.unwrap_or("unknown").split('/').next().unwrap_or("unknown");
        let name = self.query.get("fieldManager").unwrap_or(agent);
        name.chars().take(128).collect()
    }

    /// A call of the same user on another object.
    pub(crate) fn sibling(&self, name: &str) -> Self {
        Self {
            app: Arc::clone(&self.app),
            kind: Arc::clone(&self.kind),
            user: self.user.clone(),
            verb: self.verb,
            method: self.method.clone(),
            target: Target { name: name.to_owned(), ..self.target.clone() },
            query: self.query.clone(),
            headers: self.headers.clone(),
        }
    }
}

/// Serves a call on a resource or on one of its subresources that hold parts of the object.
pub(crate) async fn serve(call: Call, body: Bytes) -> ApiResult<Reply> {
    if call.target.subresource.is_empty() && !call.kind.verbs.contains(&call.verb) {
        return Err(ApiError::method_not_allowed());
    }
    let one = matches!(call.verb, "update" | "patch");
    if (one && call.target.name.is_empty())
        || (call.verb == "create"
            && call.target.subresource.is_empty()
            && !call.target.name.is_empty())
    {
        return Err(ApiError::method_not_allowed());
    }
    if let Some(reply) = subresource::serve(&call, &body).await? {
        return Ok(reply);
    }
    // What is left: the object itself, its status, and the likes of it.
    match call.verb {
        "get" => get::get(&call),
        "list" => get::list(&call).await,
        "watch" => watch::watch(&call).await,
        "create" if call.target.subresource.is_empty() => create::create(&call, &body).await,
        "update" => update::update(&call, &body).await,
        "patch" => patch::patch(&call, &body).await,
        "delete" if call.target.subresource.is_empty() => delete::delete(&call, &body).await,
        "deletecollection" => delete::delete_collection(&call, &body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}
