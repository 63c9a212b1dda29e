//! The list of built-in kinds, and their raw schemas.
//!
//! Raw schemas are generated kind by kind and handed on definition by definition: all of them at once
//! would take some twenty megabytes, for a moment, of a server that should idle below sixty.

use std::borrow::Cow;
use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::{Resource, api, apiextensions_apiserver, kube_aggregator};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::Gvk;

/// Definitions by name, references as `#/definitions/<name>`.
pub(crate) type Definitions = Map<String, Value>;

/// A type that has a schema.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// The definition's name.
    pub name: fn() -> Cow<'static, str>,
    generate: fn(&mut SchemaGenerator),
}

/// A built-in kind.
#[derive(Clone)]
pub(crate) struct Kind {
    pub gvk: Gvk,
    pub source: Source,
}

impl Source {
    fn of<T: JsonSchema>() -> Self {
        Self {
            name: T::schema_name,
            generate: |generator| {
                generator.subschema_for::<T>();
            },
        }
    }

    /// This type's definition and all that it refers to.
    pub(crate) fn definitions(self) -> Definitions {
        let settings = SchemaSettings::draft07().with(|s| {
            s.definitions_path = "/definitions".into();
            s.meta_schema = None;
            s.transforms.clear();
        });
        let mut generator = settings.into_generator();
        (self.generate)(&mut generator);
        generator.take_definitions(false)
    }
}

/// Hands each definition that the sources need to `visit`, once.
pub(crate) fn visit(
    sources: impl IntoIterator<Item = Source>,
    mut visit: impl FnMut(&str, &Value, &Definitions),
) {
    let mut seen: HashSet<String> = HashSet::new();
    for source in sources {
        if seen.contains(&*(source.name)()) {
            continue;
        }
        let definitions = source.definitions();
        for (name, schema) in &definitions {
            if seen.insert(name.clone()) {
                visit(name, schema, &definitions);
            }
        }
    }
}

/// What operations take and answer besides the kinds themselves.
pub(crate) fn common() -> Vec<Source> {
    vec![
        Source::of::<meta::Status>(),
        Source::of::<meta::DeleteOptions>(),
        Source::of::<meta::ListMeta>(),
        Source::of::<meta::Patch>(),
    ]
}

macro_rules! kinds {
    ($($package:path { $($kind:ident)* })*) => {
        vec![$($({
            use $package as package;
            type Type = package::$kind;
            let gvk = Gvk::new(Type::GROUP, Type::VERSION, Type::KIND);
            Kind { gvk, source: Source::of::<Type>() }
        }),*),*]
    };
}

/// All built-in kinds.
pub(crate) fn all() -> Vec<Kind> {
    let mut kinds = workloads();
    kinds.extend(policies());
    kinds
}

fn workloads() -> Vec<Kind> {
    kinds!(
        api::core::v1 {
            Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node
            PersistentVolume PersistentVolumeClaim Pod PodTemplate ReplicationController
            ResourceQuota Secret Service ServiceAccount
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
    )
}

fn policies() -> Vec<Kind> {
    kinds!(
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
    )
}
