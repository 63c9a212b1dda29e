//! A container's environment.
//!
//! Order: service links, envFrom, then env, each later one overriding; `$(NAME)` in a value sees
//! what came before it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use super::expand::expand;
use super::field::{self, Place};

/// A key is missing, or a reference makes no sense: the container waits with CreateContainerConfigError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("configmap {name:?} not found")]
    NoConfigMap { name: String },
    #[error("secret {name:?} not found")]
    NoSecret { name: String },
    #[error("couldn't find key {key} in {kind} {name}")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error("{kind} {name}: the value of {key} is not UTF-8")]
    NotText { kind: &'static str, name: String, key: String },
    #[error("env {name}")]
    Field { name: String, source: field::Error },
    #[error("env {name}: fileKeyRef is not supported by this kubelet")]
    FileKeyRef { name: String },
}

/// The objects that an environment refers to, those that exist.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    pub secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// Makes the environment of `container`; `links` are the variables of services.
pub fn environment(
    pod: &Pod,
    container: &Container,
    place: &Place,
    objects: &Objects,
    links: &[(String, String)],
) -> Result<Vec<(String, String)>, Error> {
    let mut made = Environment { pod, container, place, objects, vars: links.to_vec() };
    made.add_objects()?;
    for var in container.env.iter().flatten() {
        if let Some(value) = made.value(var)? {
            made.set(&var.name, value);
        }
    }
    Ok(made.vars)
}

/// ConfigMaps and secrets that a container's environment needs, by name.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

struct Environment<'a> {
    pod: &'a Pod,
    container: &'a Container,
    place: &'a Place,
    objects: &'a Objects,
    vars: Vec<(String, String)>,
}

impl Environment<'_> {
    fn set(&mut self, name: &str, value: String) {
        match self.vars.iter_mut().find(|(n, _)| n == name) {
            Some(var) => var.1 = value,
            None => self.vars.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.vars.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    fn add_objects(&mut self) -> Result<(), Error> {
        for from in self.container.env_from.iter().flatten() {
            let prefix = from.prefix.as_deref().unwrap_or_default();
            if let Some(r) = &from.config_map_ref {
                match self.objects.config_maps.get(&r.name) {
                    Some(map) => {
                        for (key, value) in map {
                            self.set(&format!("{prefix}{key}"), value.clone());
                        }
                    }
                    None if r.optional == Some(true) => {}
                    None => return Err(Error::NoConfigMap { name: r.name.clone() }),
                }
            }
            if let Some(r) = &from.secret_ref {
                match self.objects.secrets.get(&r.name) {
                    Some(map) => {
                        for (key, value) in map {
                            let value = text("secret", &r.name, key, value)?;
                            self.set(&format!("{prefix}{key}"), value);
                        }
                    }
                    None if r.optional == Some(true) => {}
                    None => return Err(Error::NoSecret { name: r.name.clone() }),
                }
            }
        }
        Ok(())
    }

    fn value(&self, var: &EnvVar) -> Result<Option<String>, Error> {
        let Some(from) = &var.value_from else {
            let text = var.value.as_deref().unwrap_or_default();
            return Ok(Some(expand(text, |name| self.get(name))));
        };
        let field = |source| Error::Field { name: var.name.clone(), source };
        if let Some(r) = &from.field_ref {
            return field::value(self.pod, self.place, &r.field_path).map(Some).map_err(field);
        }
        if let Some(r) = &from.resource_field_ref {
            let own = &self.container.name;
            return field::resource(self.pod, self.place, own, r).map(Some).map_err(field);
        }
        if let Some(r) = &from.config_map_key_ref {
            let optional = r.optional == Some(true);
            return match self.objects.config_maps.get(&r.name) {
                Some(map) => {
                    found("configmap", &r.name, &r.key, map.get(&r.key).cloned(), optional)
                }
                None if optional => Ok(None),
                None => Err(Error::NoConfigMap { name: r.name.clone() }),
            };
        }
        if let Some(r) = &from.secret_key_ref {
            let optional = r.optional == Some(true);
            return match self.objects.secrets.get(&r.name) {
                Some(map) => {
                    let value = map.get(&r.key).map(|v| text("secret", &r.name, &r.key, v));
                    found("secret", &r.name, &r.key, value.transpose()?, optional)
                }
                None if optional => Ok(None),
                None => Err(Error::NoSecret { name: r.name.clone() }),
            };
        }
        Err(Error::FileKeyRef { name: var.name.clone() })
    }
}

fn found(
    kind: &'static str,
    name: &str,
    key: &str,
    value: Option<String>,
    optional: bool,
) -> Result<Option<String>, Error> {
    if value.is_none() && !optional {
        return Err(Error::NoKey { kind, name: name.to_owned(), key: key.to_owned() });
    }
    Ok(value)
}

fn text(kind: &'static str, name: &str, key: &str, value: &[u8]) -> Result<String, Error> {
    let bad = |_| Error::NotText { kind, name: name.to_owned(), key: key.to_owned() };
    String::from_utf8(value.to_vec()).map_err(bad)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn make(container: serde_json::Value) -> Result<Vec<(String, String)>, Error> {
        let container: Container = serde_json::from_value(container).expect("a container");
        let mut objects = Objects::default();
        let map = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        objects.config_maps.insert("cm".into(), map);
        let secret = BTreeMap::from([("p".to_owned(), b"w".to_vec()), ("b".into(), vec![0xff])]);
        objects.secrets.insert("s".into(), secret);
        let links = [("HOST".to_owned(), "10.0.0.1".to_owned())];
        environment(&Pod::default(), &container, &Place::default(), &objects, &links)
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn later_sources_override_and_values_see_what_came_before() {
        let made = make(json!({"name": "c",
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "cm"}}],
            "env": [{"name": "URL", "value": "http://$(HOST)/$(X_k)/$(LATER)"},
                    {"name": "LATER", "value": "l"}, {"name": "HOST", "value": "h"}]}));
        let expected =
            [("HOST", "h"), ("X_k", "v"), ("URL", "http://10.0.0.1/v/$(LATER)"), ("LATER", "l")];
        assert_eq!(made, Ok(pairs(&expected)));
    }

    #[test]
    fn a_missing_object_or_key_is_an_error_unless_optional() {
        let from = |kind: &str, name: &str, key: &str, optional: bool| {
            let r = json!({"name": name, "key": key, "optional": optional});
            make(json!({"name": "c", "env": [{"name": "V", "valueFrom": {kind: r}}]}))
        };
        let host = pairs(&[("HOST", "10.0.0.1")]);
        assert_eq!(
            from("configMapKeyRef", "none", "k", false),
            Err(Error::NoConfigMap { name: "none".into() })
        );
        assert!(matches!(from("secretKeyRef", "s", "none", false), Err(Error::NoKey { .. })));
        assert!(matches!(from("secretKeyRef", "s", "b", false), Err(Error::NotText { .. })));
        assert_eq!(from("configMapKeyRef", "none", "k", true), Ok(host.clone()));
        assert_eq!(from("secretKeyRef", "s", "none", true), Ok(host));
    }
}
