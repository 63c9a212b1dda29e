//! Who asks, and may they? Client certificates, else TokenReview; rights by SubjectAccessReview
//! about `nodes/<what>` of this node. Source: "Kubelet authentication/authorization".

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::Config;

/// Group whose members may do everything.
const MASTERS: &str = "system:masters";
/// How long an answer of the API server is believed.
const GRANTED_FOR: Duration = Duration::from_secs(300);
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Answers that are kept.
const MAX_KEPT: usize = 1024;

/// The client CA can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the client CA bundle is not PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("the client CA bundle has a bad certificate")]
    Certificate(#[from] rustls::Error),
    #[error("the client CA bundle can't verify clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Somebody, as the API server would name them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// The user that a verified client certificate names: CN, and O for groups.
pub(super) fn user_of(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned);
    Some(User { name, groups: groups.collect() })
}

type Question = (User, &'static str, &'static str);

pub(super) struct Auth {
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    webhook: Option<kube::Client>,
    node: String,
    tokens: Mutex<HashMap<String, (Instant, Option<User>)>>,
    rights: Mutex<HashMap<Question, (Instant, bool)>>,
}

impl Auth {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let verifier = match &config.auth.client_ca {
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    roots.add(certificate?)?;
                }
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let builder =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                Some(builder.allow_unauthenticated().build()?)
            }
            None => None,
        };
        Ok(Self {
            verifier,
            webhook: (config.auth.webhook && !config.standalone).then(|| config.client.clone()),
            node: config.node_name.clone(),
            tokens: Mutex::default(),
            rights: Mutex::default(),
        })
    }

    pub(super) fn client_verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.verifier.clone()
    }

    /// Whom a bearer token names.
    pub(super) async fn by_token(&self, token: &str) -> Option<User> {
        let client = self.webhook.as_ref()?;
        let kept = self.tokens.lock().get(token).cloned();
        if let Some((at, user)) = kept
            && at.elapsed() < REFUSED_FOR
        {
            return user;
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: None },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(client.clone());
        let status = api.create(&PostParams::default(), &review).await.ok()?.status?;
        let user = status
            .user
            .filter(|_| status.authenticated == Some(true))
            .and_then(|u| Some(User { name: u.username?, groups: u.groups.unwrap_or_default() }));
        let mut tokens = self.tokens.lock();
        if tokens.len() >= MAX_KEPT {
            tokens.clear();
        }
        tokens.insert(token.to_owned(), (Instant::now(), user.clone()));
        user
    }

    /// May `user` do `verb` on `nodes/<what>` of this node?
    pub(super) async fn allows(
        &self,
        user: &User,
        verb: &'static str,
        what: &'static str,
    ) -> Result<bool, String> {
        if user.groups.iter().any(|g| g == MASTERS) {
            return Ok(true);
        }
        let Some(client) = &self.webhook else { return Ok(false) };
        let question = (user.clone(), verb, what);
        let kept = self.rights.lock().get(&question).copied();
        if let Some((at, granted)) = kept
            && at.elapsed() < (if granted { GRANTED_FOR } else { REFUSED_FOR })
        {
            return Ok(granted);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(what.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let granted = answer.map_err(|e| e.to_string())?.status.is_some_and(|s| s.allowed);
        let mut rights = self.rights.lock();
        if rights.len() >= MAX_KEPT {
            rights.clear();
        }
        rights.insert(question, (Instant::now(), granted));
        Ok(granted)
    }
}
