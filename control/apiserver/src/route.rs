//! From method and path to what is asked for.

use http::Method;

use crate::query::{Query, decode};

/// A request on a resource, not yet known to exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    /// Empty for cluster-scoped resources and lists over all namespaces. For a request on a
    /// namespace itself it is that namespace's name, as authorization sees it.
    pub(crate) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
    /// Empty without one.
    pub(crate) subresource: String,
    /// What follows `/proxy/`, still encoded.
    pub(crate) rest: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Resource(Target),
    /// Discovery, health, documents.
    Other,
}

/// Resources of which a namespace's own subresources would otherwise be taken for.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

pub(crate) fn route(path: &str) -> Route {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Route::Other,
    };
    let mut target =
        Target { group: group.to_owned(), version: version.to_owned(), ..Target::default() };
    let rest = match rest {
        ["namespaces", namespace, tail @ ..]
            if tail.first().is_some_and(|t| !NAMESPACE_SUBRESOURCES.contains(t)) =>
        {
            target.namespace = decode(namespace, false);
            tail
        }
        ["namespaces", name, ..] => {
            target.namespace = decode(name, false);
            rest
        }
        _ => rest,
    };
    target.resource = decode(rest.first().unwrap_or(&""), false);
    target.name = rest.get(1).map(|s| decode(s, false)).unwrap_or_default();
    target.subresource = rest.get(2).map(|s| decode(s, false)).unwrap_or_default();
    if target.subresource == "proxy" {
        target.rest = after_proxy(path).to_owned();
    } else if rest.len() > 3 {
        return Route::Other;
    }
    Route::Resource(target)
}

/// The proxied path keeps its slashes, as the far side may care.
fn after_proxy(path: &str) -> &str {
    path.split_once("/proxy/").map_or("", |(_, rest)| rest)
}

/// The verb that authorization is asked about.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if target.name.is_empty() && query.flag("watch") => "watch",
        Method::GET | Method::HEAD if target.name.is_empty() => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        match route(path) {
            Route::Resource(target) => target,
            Route::Other => panic!("{path} is a resource's path"),
        }
    }

    #[test]
    fn paths_name_group_namespace_and_subresource() {
        let pod = target("/api/v1/namespaces/default/pods/web-0/log");
        assert_eq!((pod.group.as_str(), pod.namespace.as_str()), ("", "default"));
        assert_eq!((pod.resource.as_str(), pod.name.as_str()), ("pods", "web-0"));
        assert_eq!(pod.subresource, "log");
        let scale = target("/apis/apps/v1/namespaces/a/deployments/web/scale");
        assert_eq!((scale.group.as_str(), scale.subresource.as_str()), ("apps", "scale"));
        assert_eq!(target("/api/v1/pods").name, "");
    }

    #[test]
    fn a_namespace_itself_is_told_from_what_it_holds() {
        let namespace = target("/api/v1/namespaces/a");
        assert_eq!((namespace.resource.as_str(), namespace.name.as_str()), ("namespaces", "a"));
        assert_eq!(namespace.namespace, "a", "roles of the namespace may grant access to it");
        assert_eq!(target("/api/v1/namespaces/a/finalize").subresource, "finalize");
        assert_eq!(target("/api/v1/namespaces/a/status").subresource, "status");
        assert_eq!(target("/api/v1/namespaces/a/pods").resource, "pods");
    }

    #[test]
    fn a_proxied_path_is_kept_as_it_is() {
        let target = target("/api/v1/namespaces/a/services/http:web:80/proxy/x/y%2Fz/");
        assert_eq!((target.name.as_str(), target.rest.as_str()), ("http:web:80", "x/y%2Fz/"));
    }

    #[test]
    fn discovery_is_no_resource() {
        for path in ["/api", "/api/v1", "/apis/apps/v1", "/version", "/api/v1/pods/a/b/c"] {
            assert_eq!(route(path), Route::Other, "{path}");
        }
    }
}
