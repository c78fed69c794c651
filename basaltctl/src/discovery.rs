//! The kinds that the server serves, and how they are called: by kind, plural, singular or short name, with or without
//! their group, or by category.

use crate::{connect::Server, error::Error};
use futures::future::try_join_all;
use http::Request;
use kube::core::ApiResource;
use serde_json::Value;

/// A kind that the server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind, such as `VirtualMachine`.
    pub kind: String,
    /// Plural name.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories.
    pub categories: Vec<String>,
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
    /// Names of its subresources.
    pub subresources: Vec<String>,
}

impl Kind {
    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The name that output uses: `virtualmachine.basalt.dev`, `namespace`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.singular.clone() } else { format!("{}.{}", self.singular, self.group) }
    }

    /// What a person calls it: its short name if it has one.
    pub fn called(&self) -> &str {
        self.short_names.first().unwrap_or(&self.singular)
    }

    /// The path of the collection, of one object, or of a subresource of it. All namespaces if `namespace` is none.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> String {
        let mut path =
            if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str(&format!("/namespaces/{}", escaped(namespace)));
        }
        path.push('/');
        path.push_str(&self.plural);
        for part in name.into_iter().chain(subresource) {
            path.push('/');
            path.push_str(&escaped(part));
        }
        path
    }

    /// The namespace that requests for this kind go to.
    pub fn namespace<'a>(&self, namespace: &'a str) -> Option<&'a str> {
        Some(namespace).filter(|_| self.namespaced)
    }

    /// The kind as the client library names it.
    pub fn resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version: self.api_version(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    /// The server lets objects of the kind be listed.
    pub fn listable(&self) -> bool {
        self.verbs.iter().any(|v| v == "list")
    }

    fn answers_to(&self, name: &str) -> bool {
        let is = |own: &str| own.eq_ignore_ascii_case(name);
        let suffixed = |own: &str| {
            name.len() > own.len()
                && name.is_char_boundary(own.len())
                && own.eq_ignore_ascii_case(&name[..own.len()])
                && (name[own.len()..] == format!(".{}", self.group) || name[own.len()..] == format!(".{}.{}", self.version, self.group))
        };
        let names = || [&self.plural, &self.singular, &self.kind].into_iter().chain(&self.short_names);
        names().any(|n| is(n)) || names().any(|n| suffixed(n))
    }
}

/// A path segment or a query value with everything escaped that is not plainly allowed.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A GET request for `path`.
pub fn get(path: &str) -> Result<Request<Vec<u8>>, Error> {
    request(Request::get(path), Vec::new())
}

/// A request from its parts.
pub fn request(builder: http::request::Builder, body: Vec<u8>) -> Result<Request<Vec<u8>>, Error> {
    builder
        .body(body)
        .map_err(|e| Error::Usage { what: format!("this does not make a request: {e}"), hint: "see that names are plain text".into() })
}

/// All kinds that the server serves.
#[derive(Clone, Debug, Default)]
pub struct Kinds(pub Vec<Kind>);

impl Kinds {
    /// Asks the server.
    pub async fn discover(server: &Server) -> Result<Self, Error> {
        let action = "list the kinds of the server";
        let groups = server.call(action, get("/apis")?).await?;
        let preferred = |group: &Value| {
            let version = group.pointer("/preferredVersion/groupVersion").or_else(|| group.pointer("/versions/0/groupVersion"));
            version.and_then(Value::as_str).map(|v| format!("/apis/{v}"))
        };
        let listed = groups.get("groups").and_then(Value::as_array).into_iter().flatten().filter_map(preferred);
        let paths: Vec<String> = std::iter::once("/api/v1".to_owned()).chain(listed).collect();
        let lists = try_join_all(paths.iter().map(|path| async { server.call_optional(action, get(path)?).await })).await?;
        let mut kinds: Vec<Kind> = lists.iter().flatten().flat_map(resources).collect();
        // Ours first, then the core group: what a short name means when several kinds have it.
        let rank = |k: &Kind| (k.group != "basalt.dev", !k.group.is_empty(), k.group.clone(), k.plural.clone());
        kinds.sort_by_key(rank);
        Ok(Self(kinds))
    }

    /// The kind of this name.
    pub fn named(&self, name: &str) -> Option<&Kind> {
        self.0.iter().find(|k| k.answers_to(name))
    }

    /// The kinds of this name or category; `all` is every kind that can be listed.
    pub fn called(&self, name: &str, server: &Server) -> Result<Vec<Kind>, Error> {
        if let Some(kind) = self.named(name) {
            return Ok(vec![kind.clone()]);
        }
        let belongs = |k: &&Kind| name == "all" || k.categories.iter().any(|c| c == name);
        let found: Vec<Kind> = self.0.iter().filter(|k| k.listable()).filter(belongs).cloned().collect();
        if found.is_empty() { Err(self.unknown(name, server)) } else { Ok(found) }
    }

    /// The kind of this name, or an error with the nearest names.
    pub fn one(&self, name: &str, server: &Server) -> Result<Kind, Error> {
        self.named(name).cloned().ok_or_else(|| self.unknown(name, server))
    }

    /// The kind of an object in a file.
    pub fn of_object(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.0.iter().find(|k| k.kind == kind && k.api_version() == api_version)
    }

    fn unknown(&self, name: &str, server: &Server) -> Error {
        Error::UnknownKind { given: name.to_owned(), near: self.near(name), at: server.target.at() }
    }

    /// At most three names that are near to `name`.
    pub fn near(&self, name: &str) -> Vec<String> {
        let name = name.to_lowercase();
        let reach = (name.len() / 3).clamp(1, 3);
        let distance = |k: &Kind| {
            let names = [k.plural.clone(), k.singular.clone()].into_iter().chain(k.short_names.iter().cloned());
            names.map(|n| strsim::damerau_levenshtein(&n, &name)).min().unwrap_or(usize::MAX)
        };
        let mut near: Vec<(usize, String)> = self.0.iter().map(|k| (distance(k), k.plural.clone())).filter(|(d, _)| *d <= reach).collect();
        near.sort();
        near.dedup_by(|a, b| a.1 == b.1);
        near.into_iter().take(3).map(|(_, n)| n).collect()
    }
}

fn resources(list: &Value) -> Vec<Kind> {
    let str_at = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let strings = |v: &Value, key: &str| {
        let items = v.get(key).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let group_version = str_at(list, "groupVersion");
    let (group, version) = group_version.rsplit_once('/').unwrap_or(("", &group_version));
    let all = || list.get("resources").and_then(Value::as_array).into_iter().flatten();
    let kinds = all().filter(|r| !str_at(r, "name").contains('/')).map(|r| {
        let (plural, kind) = (str_at(r, "name"), str_at(r, "kind"));
        let singular = Some(str_at(r, "singularName")).filter(|s| !s.is_empty()).unwrap_or_else(|| kind.to_lowercase());
        let prefix = format!("{plural}/");
        Kind {
            group: group.to_owned(),
            version: version.to_owned(),
            subresources: all().filter_map(|s| str_at(s, "name").strip_prefix(&prefix).map(str::to_owned)).collect(),
            kind,
            plural,
            singular,
            short_names: strings(r, "shortNames"),
            categories: strings(r, "categories"),
            namespaced: r.get("namespaced").and_then(Value::as_bool).unwrap_or(false),
            verbs: strings(r, "verbs"),
        }
    });
    kinds.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kinds() -> Kinds {
        let mut kinds = resources(&json!({"groupVersion": "basalt.dev/v1alpha1", "resources": [
            {"name": "hosts", "singularName": "host", "kind": "Host", "shortNames": ["ho"], "namespaced": false, "verbs": ["list"]},
            {"name": "virtualmachines", "singularName": "virtualmachine", "kind": "VirtualMachine", "shortNames": ["vm"], "namespaced": true,
             "verbs": ["list"]},
            {"name": "virtualmachines/status", "kind": "VirtualMachine", "namespaced": true},
            {"name": "virtualmachines/log", "kind": "VirtualMachine", "namespaced": true},
        ]}));
        kinds.extend(resources(&json!({"groupVersion": "v1", "resources": [
            {"name": "namespaces", "singularName": "", "kind": "Namespace", "shortNames": ["ns"], "namespaced": false, "verbs": ["list"]},
        ]})));
        Kinds(kinds)
    }

    #[test]
    fn a_kind_answers_to_all_its_names() {
        let kinds = kinds();
        for name in
            ["vm", "VM", "virtualmachine", "virtualmachines", "VirtualMachine", "vm.basalt.dev", "virtualmachines.v1alpha1.basalt.dev"]
        {
            assert_eq!(kinds.named(name).map(|k| k.kind.as_str()), Some("VirtualMachine"), "{name}");
        }
        assert_eq!(kinds.named("ns").map(Kind::qualified), Some("namespace".into()));
        assert!(kinds.named("vm.example.com").is_none());
    }

    #[test]
    fn an_unknown_kind_is_answered_with_the_nearest() {
        assert_eq!(kinds().near("hots"), ["hosts"]);
        assert_eq!(kinds().near("virtualmachin"), ["virtualmachines"]);
        assert!(kinds().near("pods").is_empty());
    }

    #[test]
    fn paths_are_those_of_the_wire_protocol_and_nothing_slips_out_of_them() {
        let kinds = kinds();
        let vm = kinds.named("vm").unwrap();
        assert_eq!(vm.path(Some("a"), Some("b"), Some("log")), "/apis/basalt.dev/v1alpha1/namespaces/a/virtualmachines/b/log");
        assert_eq!(vm.path(Some("../x"), Some("a/b?c"), None), "/apis/basalt.dev/v1alpha1/namespaces/..%2Fx/virtualmachines/a%2Fb%3Fc");
        assert_eq!(kinds.named("ns").unwrap().path(Some("a"), None, None), "/api/v1/namespaces");
        assert_eq!(vm.subresources, ["status", "log"]);
    }
}
