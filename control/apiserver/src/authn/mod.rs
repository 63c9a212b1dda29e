//! Who asks: client certificate, service account token, bootstrap token, or nobody in particular.

mod bootstrap;
mod cert;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::query;
use crate::status::{ApiError, ApiResult};

pub(crate) use cert::identity as certificate_identity;
pub(crate) use token::{Bound, KeyError, Reference, Tokens};

pub(crate) const ANONYMOUS: &str = "system:anonymous";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const NODES: &str = "system:nodes";
pub(crate) const NODE_PREFIX: &str = "system:node:";

/// A name with its groups, as authorization sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub(crate) fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(ToString::to_string).collect();
        Self { name: name.into(), groups, ..Self::default() }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node whose kubelet this is.
    pub(crate) fn node(&self) -> Option<&str> {
        self.is_in(NODES).then(|| self.name.strip_prefix(NODE_PREFIX)).flatten()
    }

    /// As reviews show it.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if let Some(uid) = &self.uid {
            info["uid"] = json!(uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }

    fn authenticated(mut self) -> Self {
        if !self.is_in(AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// Tells who sends a request.
pub(crate) struct Authenticator {
    pub(crate) tokens: Tokens,
    cache: Arc<Cache>,
}

impl Authenticator {
    pub(crate) fn new(tokens: Tokens, cache: Arc<Cache>) -> Self {
        Self { tokens, cache }
    }

    /// A credential that is given must be right: a wrong one is not taken for none.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&User>,
    ) -> ApiResult<User> {
        if let Some(user) = certificate {
            return Ok(user.clone().authenticated());
        }
        if let Some(token) = bearer(headers) {
            let audiences = [self.tokens.issuer()];
            return self.check_token(&token, &audiences).ok_or_else(ApiError::unauthorized);
        }
        if headers.contains_key(http::header::AUTHORIZATION) {
            return Err(ApiError::unauthorized());
        }
        Ok(User::new(ANONYMOUS, &[UNAUTHENTICATED]))
    }

    /// The user of a token that is meant for one of the audiences.
    pub(crate) fn check_token(&self, token: &str, audiences: &[&str]) -> Option<User> {
        if token.contains('.') && token.len() == bootstrap::TOKEN_LENGTH {
            return bootstrap::check(&self.cache, token).map(User::authenticated);
        }
        self.tokens.check(&self.cache, token, audiences).map(User::authenticated)
    }
}

/// The token of `Authorization: Bearer` or, for browsers' WebSockets, of the subprotocol.
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    use base64::Engine as _;
    let protocols = headers.get(http::header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let prefix = "base64url.bearer.authorization.k8s.io.";
    let encoded = protocols.split(',').find_map(|p| p.trim().strip_prefix(prefix))?;
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(decoded).ok()
}

/// The user that the request wants to act as, from the `Impersonate-` headers.
pub(crate) fn impersonated(headers: &HeaderMap) -> ApiResult<Option<User>> {
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let groups: Vec<String> = headers.get_all("impersonate-group").iter().map(text).collect();
    let Some(name) = headers.get("impersonate-user").map(text) else {
        return match groups.is_empty() {
            true => Ok(None),
            false => Err(ApiError::bad_request("groups are impersonated, but no user")),
        };
    };
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix("impersonate-extra-") {
            extra.entry(query::decode(key, false)).or_default().push(text(value));
        }
    }
    let uid = headers.get("impersonate-uid").map(text);
    let mut user = User { name, uid, groups, extra };
    let implied = service_account_groups(&user.name);
    if user.groups.is_empty() {
        user.groups.extend(implied);
    }
    let standard = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.is_in(standard) {
        user.groups.push(standard.to_owned());
    }
    Ok(Some(user))
}

/// Namespace and name of the service account that is a user's name.
pub(crate) fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// Groups that a service account is in by its name.
fn service_account_groups(user: &str) -> Vec<String> {
    let Some((namespace, _)) = service_account(user) else { return Vec::new() };
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}
