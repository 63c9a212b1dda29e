//! Certificates for kubelets: who gets one, and for what.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::PostParams;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;

use crate::kit::Trial;

fn request(
    name: &str,
    node: &str,
    signer: &str,
    usage: &str,
    sans: &[&str],
) -> CertificateSigningRequest {
    let key = KeyPair::generate().expect("a key");
    let sans: Vec<String> = sans.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(sans).expect("valid names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(&key).and_then(|csr| csr.pem()).expect("a request");
    let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"signerName": signer, "usages": ["digital signature", usage], "request": ""}}))
    .expect("a valid object");
    csr.spec.request = k8s_openapi::ByteString(pem.into_bytes());
    csr
}

const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

fn certificate(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().is_some_and(|status| status.certificate.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelets_get_the_certificates_that_are_theirs_and_no_others() {
    let trial = Trial::start(|_| {}).await;
    let api = trial.all::<CertificateSigningRequest>();
    let parameters = PostParams::default();
    let as_node = trial.as_user("system:node:n1", "system:nodes").await;
    let node_api: Api<CertificateSigningRequest> = Api::all(as_node);

    let own = request("own", "n1", CLIENT, "client auth", &[]);
    node_api.create(&parameters, &own).await.expect("a request");
    trial.wait(&api, "own", certificate).await;

    // Asked before the node has its addresses, granted as soon as it has.
    let serving = request("serving", "n1", SERVING, "server auth", &["n1", "192.168.0.1"]);
    node_api.create(&parameters, &serving).await.expect("a request");
    let foreign = request("foreign", "n1", SERVING, "server auth", &["n1", "10.9.9.9"]);
    node_api.create(&parameters, &foreign).await.expect("a request");
    let other = request("other", "n2", CLIENT, "client auth", &[]);
    node_api.create(&parameters, &other).await.expect("a request");
    trial.create(&trial.all::<Node>(), json!({"metadata": {"name": "n1"}})).await;
    trial.beat("n1").await;
    trial.wait(&api, "serving", certificate).await;
    for name in ["foreign", "other"] {
        let csr = api.get(name).await.expect("it is there");
        assert!(!certificate(&csr), "{name} is not this node's to have");
    }
}
