//! Service account tokens of pods: asked for when a volume is made, renewed before they end.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;

use super::Error;
use crate::pod::view;
use bowline_api::chain::chain;

/// Lifetime that is asked for when the volume says nothing, in seconds.
const DEFAULT_LIFETIME: i64 = 3600;
/// No token is used longer than this, however long it lives.
const LONGEST_USE: SignedDuration = SignedDuration::from_hours(24);
/// Part of its life after which a token is renewed: four fifths.
const RENEW_AFTER: (i32, i32) = (4, 5);

/// A token and when to replace it.
#[derive(Clone, Debug)]
pub struct Token {
    pub text: String,
    pub renew_at: Timestamp,
}

/// Pod UID, audience and lifetime.
type Key = (String, String, i64);

/// Tokens in use, so that looking at a volume again asks for no new one.
#[derive(Default)]
pub struct Tokens {
    held: Mutex<HashMap<Key, Token>>,
}

impl Tokens {
    /// The current token for one projection of `pod`.
    pub async fn get(
        &self,
        client: &kube::Client,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<Token, Error> {
        let audience = wanted.audience.clone().unwrap_or_default();
        let lifetime = wanted.expiration_seconds.unwrap_or(DEFAULT_LIFETIME);
        let key = (view::uid(pod).to_owned(), audience.clone(), lifetime);
        let held = self.held.lock().get(&key).cloned();
        if let Some(token) = held.filter(|t| Timestamp::now() < t.renew_at) {
            return Ok(token);
        }
        let token = request(client, pod, audience, lifetime).await?;
        self.held.lock().insert(key, token.clone());
        Ok(token)
    }

    /// The pod with this UID needs no tokens any more.
    pub fn forget(&self, uid: &str) {
        self.held.lock().retain(|(owner, _, _), _| owner != uid);
    }
}

async fn request(
    client: &kube::Client,
    pod: &Pod,
    audience: String,
    lifetime: i64,
) -> Result<Token, Error> {
    let account = view::spec(pod).service_account_name.as_deref().unwrap_or("default");
    let fail = |message: String| Error::Token { account: account.to_owned(), message };
    let asked_at = Timestamp::now();
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: if audience.is_empty() { Vec::new() } else { vec![audience] },
            expiration_seconds: Some(lifetime),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(view::name(pod).to_owned()),
                uid: Some(view::uid(pod).to_owned()),
            }),
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), view::namespace(pod));
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .map_err(|e| fail(chain(&e)))?;
    let status = answer.status.ok_or_else(|| fail("the answer has no token".to_owned()))?;
    let life = status.expiration_timestamp.0.duration_since(asked_at);
    let renew_after = (life * RENEW_AFTER.0 / RENEW_AFTER.1).min(LONGEST_USE);
    let renew_at = asked_at.checked_add(renew_after).unwrap_or(asked_at);
    Ok(Token { text: status.token, renew_at })
}
