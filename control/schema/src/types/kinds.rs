//! The list of built-in kinds, and their raw schemas.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::{Resource, api, apiextensions_apiserver, kube_aggregator};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::Gvk;

/// Raw schemas by definition name, references as `#/definitions/<name>`.
pub(crate) struct Raw {
    pub definitions: Map<String, Value>,
    /// Each kind with its definition's name.
    pub kinds: Vec<(Gvk, String)>,
}

macro_rules! kinds {
    ($generator:ident, $kinds:ident: $($package:path { $($kind:ident)* })*) => {
        $($({
            use $package as package;
            type Kind = package::$kind;
            let gvk = Gvk::new(Kind::GROUP, Kind::VERSION, Kind::KIND);
            let schema = $generator.subschema_for::<Kind>();
            $kinds.push((gvk, reference(&schema)));
        })*)*
    };
}

/// Generates the schemas of all kinds. Takes some tens of milliseconds and some ten megabytes: callers
/// keep what they need and drop the rest.
pub(crate) fn raw() -> Raw {
    let settings = SchemaSettings::draft07().with(|s| {
        s.definitions_path = "/definitions".into();
        s.meta_schema = None;
        s.transforms.clear();
    });
    let mut generator = settings.into_generator();
    let mut kinds = workloads(&mut generator);
    kinds.extend(policies(&mut generator));
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::APIGroupList>();
    generator.subschema_for::<meta::APIResourceList>();
    generator.subschema_for::<meta::APIVersions>();
    Raw { definitions: generator.take_definitions(false), kinds }
}

fn reference(schema: &schemars::Schema) -> String {
    let target = schema.get("$ref").and_then(Value::as_str).unwrap_or_default();
    target.rsplit('/').next().unwrap_or_default().to_owned()
}

fn workloads(generator: &mut SchemaGenerator) -> Vec<(Gvk, String)> {
    let mut kinds = Vec::new();
    kinds!(generator, kinds:
        api::core::v1 {
            Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service
            ServiceAccount
        }
        api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob Job }
        api::coordination::v1 { Lease }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        api::storage::v1 {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
        }
    );
    kinds
}

fn policies(generator: &mut SchemaGenerator) -> Vec<(Gvk, String)> {
    let mut kinds = Vec::new();
    kinds!(generator, kinds:
        api::admissionregistration::v1 {
            MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
            ValidatingWebhookConfiguration
        }
        api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
        api::authorization::v1 {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
            SubjectAccessReview
        }
        api::certificates::v1 { CertificateSigningRequest }
        api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        api::node::v1 { RuntimeClass }
        api::policy::v1 { Eviction PodDisruptionBudget }
        api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
        api::scheduling::v1 { PriorityClass }
        apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    );
    kinds
}
