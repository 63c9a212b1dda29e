//! Approves and signs certificate requests of kubelets, and signs client certificates that a user
//! approved. Old requests are deleted.
//!
//! Approved are: a bootstrapper's request for a node's client certificate, a node's request for
//! its own next one, and a node's request for a serving certificate for addresses that its Node
//! object has.

mod sign;

use std::sync::Arc;
use std::time::Duration;

use bowline_api::informer::Key;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use time::OffsetDateTime;

use self::sign::{CLIENT, CLIENT_KUBELET, Request, SERVING_KUBELET};
use crate::context::{Context, Error, Reconciled, is_code, seconds};
use crate::queue::Queue;

const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// A node may ask before its Node object has its addresses.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long requests are kept once they are answered, and while they are not.
const KEEP_ANSWERED: Duration = Duration::from_secs(3600);
const KEEP_PENDING: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.requests.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(csr) = context.caches.requests.get(&key) else { return Ok(None) };
    let answered = is(&csr, "Denied") || is(&csr, "Failed") || certificate(&csr).is_some();
    let left = time_left(&context, &csr, answered);
    if left.is_zero() {
        delete(&context, &csr).await?;
        return Ok(None);
    }
    let signer = csr.spec.signer_name.as_str();
    if answered || ![CLIENT, CLIENT_KUBELET, SERVING_KUBELET].contains(&signer) {
        return Ok(Some(left));
    }
    let request = match Request::parse(&csr.spec.request.0) {
        Ok(request) => request,
        Err(error) => {
            fail(&context, &csr, &error.to_string()).await?;
            return Ok(Some(left));
        }
    };
    if is(&csr, "Approved") {
        sign(&context, &csr, request).await?;
        return Ok(Some(left));
    }
    if request.check(&csr.spec).is_err() || signer == CLIENT {
        // A user may still look at it, and deny it.
        return Ok(Some(left));
    }
    if may_have(&context, &csr, &request) {
        approve(&context, &csr).await?;
        return Ok(Some(left));
    }
    Ok(Some(if signer == SERVING_KUBELET { LOOK_AGAIN } else { left }))
}

fn is(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|one| one.type_ == kind && one.status == "True")
}

fn certificate(csr: &CertificateSigningRequest) -> Option<&ByteString> {
    csr.status.as_ref()?.certificate.as_ref().filter(|bytes| !bytes.0.is_empty())
}

fn time_left(context: &Context, csr: &CertificateSigningRequest, answered: bool) -> Duration {
    let keep = if answered { KEEP_ANSWERED } else { KEEP_PENDING };
    let created = csr.metadata.creation_timestamp.as_ref().map_or(context.now(), |time| time.0);
    let age = context.now().duration_since(created);
    keep.saturating_sub(Duration::try_from(age).unwrap_or_default())
}

fn may_have(context: &Context, csr: &CertificateSigningRequest, request: &Request) -> bool {
    let user = csr.spec.username.as_deref().unwrap_or_default();
    let itself = user == request.name;
    if csr.spec.signer_name == CLIENT_KUBELET {
        let groups = csr.spec.groups.as_deref().unwrap_or_default();
        return itself || groups.iter().any(|group| group == BOOTSTRAPPERS);
    }
    let Some(name) = request.node().filter(|_| itself) else { return false };
    let Some(node) = context.caches.nodes.named(name) else { return false };
    let addresses = node.status.as_ref().and_then(|status| status.addresses.clone());
    let addresses = addresses.unwrap_or_default();
    let has = |text: &str| addresses.iter().any(|one| one.address == text);
    request.dns.iter().all(|dns| dns == name || has(dns))
        && request.addresses.iter().all(|address| has(&address.to_string()))
}

fn condition(
    context: &Context,
    kind: &str,
    reason: &str,
    text: &str,
) -> CertificateSigningRequestCondition {
    let now = Some(seconds(context.now()));
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(text.to_owned()),
        last_update_time: now.clone(),
        last_transition_time: now,
    }
}

async fn approve(context: &Context, csr: &CertificateSigningRequest) -> Result<(), Error> {
    let text = "Auto approving kubelet certificate after its subject and requester were checked.";
    let mut changed = csr.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(condition(context, "Approved", "AutoApproved", text));
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let name = csr.name_any();
    let parameters = PostParams::default();
    let written = api.replace_subresource("approval", &name, &parameters, &changed).await?;
    context.caches.requests.observe(written);
    Ok(())
}

async fn sign(
    context: &Context,
    csr: &CertificateSigningRequest,
    request: Request,
) -> Result<(), Error> {
    // Without a CA of ours another signer is at work.
    let Some(ca) = &context.config.ca else { return Ok(()) };
    let now = OffsetDateTime::from_unix_timestamp(context.now().as_second());
    let now = now.map_err(|error| Error::Other(error.to_string()))?;
    let life = context.config.certificate_lifetime;
    let checked = request.check(&csr.spec);
    match checked.and_then(|()| request.sign(&csr.spec, ca, life, now)) {
        Ok(pem) => {
            let mut changed = csr.clone();
            let status = changed.status.get_or_insert_default();
            status.certificate = Some(ByteString(pem.into_bytes()));
            write_status(context, &changed).await
        }
        Err(error) => fail(context, csr, &error.to_string()).await,
    }
}

async fn fail(context: &Context, csr: &CertificateSigningRequest, why: &str) -> Result<(), Error> {
    let mut changed = csr.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(condition(context, "Failed", "SignerValidationFailure", why));
    write_status(context, &changed).await
}

async fn write_status(context: &Context, csr: &CertificateSigningRequest) -> Result<(), Error> {
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let written = api.replace_status(&csr.name_any(), &PostParams::default(), csr).await?;
    context.caches.requests.observe(written);
    Ok(())
}

async fn delete(context: &Context, csr: &CertificateSigningRequest) -> Result<(), Error> {
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    match api.delete(&csr.name_any(), &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
