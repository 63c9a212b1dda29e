//! Service account tokens: JSON web tokens by ES256, bound to what they were issued for.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::User;
use crate::cache::Cache;
use crate::config::ServiceAccounts;
use crate::kinds;
use crate::object;

/// A point on P-256 in an SPKI: 0x04, X, Y at its end.
const POINT: usize = 65;

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the service account signing key is no PKCS#8 PEM key on P-256")]
    Signing(#[source] jsonwebtoken::errors::Error),
    #[error("a service account public key is no SPKI PEM key on P-256")]
    Public,
}

/// Signs and checks tokens.
pub(crate) struct Tokens {
    issuer: String,
    signing: EncodingKey,
    /// The id of the key that belongs to `signing`: the first public key's.
    signing_id: String,
    public: Vec<Public>,
}

struct Public {
    id: String,
    key: DecodingKey,
    x: String,
    y: String,
}

/// What a token is bound to, besides its service account: it dies with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bound {
    pub(crate) pod: Option<Reference>,
    pub(crate) node: Option<Reference>,
    pub(crate) secret: Option<Reference>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) uid: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    iss: String,
    jti: String,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    private: Private,
}

#[derive(Debug, Serialize, Deserialize)]
struct Private {
    namespace: String,
    serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    secret: Option<Reference>,
}

impl Tokens {
    pub(crate) fn new(config: &ServiceAccounts) -> Result<Self, KeyError> {
        let signing = EncodingKey::from_ec_pem(config.signing_key_pem.as_bytes())
            .map_err(KeyError::Signing)?;
        let public: Option<Vec<Public>> =
            config.public_keys_pem.iter().map(|pem| Public::read(pem)).collect();
        let public = public.filter(|keys| !keys.is_empty()).ok_or(KeyError::Public)?;
        let signing_id = public.first().map(|key| key.id.clone()).unwrap_or_default();
        Ok(Self { issuer: config.issuer.clone(), signing, signing_id, public })
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A token for the service account (an object) that lasts for so many seconds.
    pub(crate) fn issue(
        &self,
        account: &Value,
        bound: Bound,
        audiences: &[String],
        seconds: i64,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let now = jiff::Timestamp::now().as_second();
        let (namespace, name) = (object::namespace(account), object::name(account));
        let claims = Claims {
            aud: audiences.to_vec(),
            exp: now + seconds,
            iat: now,
            nbf: now,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            private: Private {
                namespace: namespace.to_owned(),
                serviceaccount: Reference {
                    name: name.to_owned(),
                    uid: object::uid(account).to_owned(),
                },
                pod: bound.pod,
                node: bound.node,
                secret: bound.secret,
            },
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.signing_id.clone());
        jsonwebtoken::encode(&header, &claims, &self.signing)
    }

    /// The user of a token, if it is signed by us, meant for one of the audiences, not over, and
    /// all that it is bound to is still there.
    pub(super) fn check(&self, cache: &Cache, token: &str, audiences: &[&str]) -> Option<User> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(audiences);
        validation.validate_nbf = true;
        validation.leeway = 5;
        let kid = jsonwebtoken::decode_header(token).ok()?.kid;
        let candidates = self.public.iter().filter(|key| kid.as_ref().is_none_or(|k| *k == key.id));
        let claims = candidates
            .filter_map(|key| jsonwebtoken::decode::<Claims>(token, &key.key, &validation).ok())
            .map(|data| data.claims)
            .next()?;
        still_valid(cache, &claims.private).then(|| user(claims))
    }

    /// The public keys as a JSON web key set (RFC 7517).
    pub(crate) fn key_set(&self) -> Value {
        let keys: Vec<Value> = self
            .public
            .iter()
            .map(|key| {
                json!({"use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256",
                       "x": key.x, "y": key.y})
            })
            .collect();
        json!({ "keys": keys })
    }
}

impl Public {
    fn read(pem: &str) -> Option<Self> {
        let key = DecodingKey::from_ec_pem(pem.as_bytes()).ok()?;
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let spki = STANDARD.decode(body.trim()).ok()?;
        let point = spki.get(spki.len().checked_sub(POINT)?..)?;
        let (x, y) = (point.get(1..33)?, point.get(33..)?);
        Some(Self {
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(&spki)),
            key,
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
        })
    }
}

fn still_valid(cache: &Cache, private: &Private) -> bool {
    let namespace = &private.namespace;
    let lives = |resource: &str, scope: &str, reference: &Reference| {
        let key = format!("{}{scope}{}", kinds::prefix("", resource), reference.name);
        let found = cache.get(&key).map(|entry| entry.value());
        found.is_some_and(|o| reference.uid.is_empty() || object::uid(&o) == reference.uid)
    };
    let scope = format!("{namespace}/");
    lives("serviceaccounts", &scope, &private.serviceaccount)
        && private.pod.as_ref().is_none_or(|pod| lives("pods", &scope, pod))
        && private.secret.as_ref().is_none_or(|secret| lives("secrets", &scope, secret))
        // A node named along with a pod is only told; alone it binds.
        && (private.pod.is_some()
            || private.node.as_ref().is_none_or(|node| lives("nodes", "", node)))
}

fn user(claims: Claims) -> User {
    let private = claims.private;
    let groups = vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{}", private.namespace),
    ];
    let mut user =
        User { name: claims.sub, uid: Some(private.serviceaccount.uid), groups, ..User::default() };
    let mut tell = |name: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value]);
    };
    tell("credential-id", format!("JTI={}", claims.jti));
    if let Some(pod) = private.pod {
        tell("pod-name", pod.name);
        tell("pod-uid", pod.uid);
    }
    if let Some(node) = private.node {
        tell("node-name", node.name);
        tell("node-uid", node.uid);
    }
    user
}
