//! Which objects a command is about: `vm web-1 web-2`, `vm/web-1 host/r12-a`, `vm,hosts`.

use crate::{
    connect::Server,
    discovery::{Kind, Kinds, get},
    error::Error,
};
use serde_json::Value;

/// A kind and the names that were asked for; all objects if there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The kind as the user wrote it.
    pub kind: String,
    /// The names.
    pub names: Vec<String>,
}

/// Reads the arguments.
pub fn parse(words: &[String]) -> Result<Vec<Asked>, Error> {
    let usage = |what: String| Error::Usage { what, hint: "write KIND NAME.., KIND/NAME.., or KIND,KIND; for example: vm/web-1".into() };
    let Some(first) = words.first() else { return Err(usage("no kind is given".into())) };
    if words.iter().any(|w| w.contains('/')) {
        let mut asked: Vec<Asked> = Vec::new();
        for word in words {
            let (kind, name) = word.split_once('/').ok_or_else(|| usage(format!("{word:?} has no kind, but others have")))?;
            if kind.is_empty() || name.is_empty() || name.contains('/') {
                return Err(usage(format!("{word:?} is not of the form KIND/NAME")));
            }
            match asked.iter_mut().find(|a| a.kind == kind) {
                Some(same) => same.names.push(name.to_owned()),
                None => asked.push(Asked { kind: kind.to_owned(), names: vec![name.to_owned()] }),
            }
        }
        return Ok(asked);
    }
    let kinds: Vec<&str> = first.split(',').filter(|k| !k.is_empty()).collect();
    if kinds.is_empty() {
        return Err(usage(format!("{first:?} names no kind")));
    }
    if kinds.len() > 1 && words.len() > 1 {
        return Err(usage("names cannot follow several kinds".into()));
    }
    Ok(kinds.into_iter().map(|kind| Asked { kind: kind.to_owned(), names: words[1..].to_vec() }).collect())
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; none for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Target {
    /// `virtualmachine.basalt.dev/web-1`.
    pub fn label(&self) -> String {
        format!("{}/{}", self.kind.qualified(), self.name)
    }

    /// `vm/web-1`: what a person types.
    pub fn short(&self) -> String {
        format!(
            "{}/{}{}",
            self.kind.called(),
            self.name,
            self.namespace.as_ref().filter(|n| *n != "default").map(|n| format!(" -n {n}")).unwrap_or_default()
        )
    }

    /// The object as it is now; `None` if it does not exist.
    pub async fn look(&self, server: &Server) -> Result<Option<Value>, Error> {
        let path = self.kind.path(self.namespace.as_deref(), Some(&self.name), None);
        server.call_optional(&format!("get {}", self.label()), get(&path)?).await
    }

    /// The object as it is now, or the error that it does not exist.
    pub async fn must_exist(&self, server: &Server, kinds: &Kinds) -> Result<Value, Error> {
        match self.look(server).await? {
            Some(object) => Ok(object),
            None => Err(self.missing(server, kinds).await),
        }
    }

    /// Why the object was not found: its namespace does not exist, or it is not there.
    pub async fn missing(&self, server: &Server, kinds: &Kinds) -> Error {
        if let Some(namespace) = &self.namespace
            && let Err(error) = namespace_exists(server, kinds, namespace).await
        {
            return error;
        }
        Error::NotFound {
            object: format!("{}/{}", self.kind.singular, self.name),
            namespace: self.namespace.clone(),
            kind: self.kind.called().to_owned(),
        }
    }
}

/// An error if the namespace does not exist. `default` always does.
pub async fn namespace_exists(server: &Server, kinds: &Kinds, name: &str) -> Result<(), Error> {
    let Some(kind) = kinds.of_object("v1", "Namespace") else { return Ok(()) };
    if name == "default" {
        return Ok(());
    }
    match server.call_optional(&format!("get namespace/{name}"), get(&kind.path(None, Some(name), None))?).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Error::NoNamespace { name: name.to_owned(), from: server.namespace_from.clone() }),
        // Somebody who may not look at namespaces may still work in one.
        Err(Error::Api { status, .. }) if status.code == 403 => Ok(()),
        Err(error) => Err(error),
    }
}

/// The named objects among what was asked for; an error if a kind comes without a name.
pub fn named(asked: &[Asked], kinds: &Kinds, server: &Server) -> Result<Vec<Target>, Error> {
    let mut targets = Vec::new();
    for one in asked {
        let kind = kinds.one(&one.kind, server)?;
        if one.names.is_empty() {
            return Err(Error::Usage {
                what: format!("no name is given after {}", one.kind),
                hint: format!("write {}/NAME; basaltctl get {} lists the names", one.kind, one.kind),
            });
        }
        for name in &one.names {
            let namespace = kind.namespace(&server.namespace).map(str::to_owned);
            let target = Target { kind: kind.clone(), namespace, name: name.clone() };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Vec<(String, Vec<String>)>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).map(|a| a.into_iter().map(|a| (a.kind, a.names)).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn objects_are_named_in_all_the_ways_of_kubectl() {
        let is = |line: &str, want: &[(&str, &[&str])]| {
            let want: Vec<_> = want.iter().map(|(k, n)| (k.to_string(), n.iter().map(|n| n.to_string()).collect::<Vec<_>>())).collect();
            assert_eq!(parsed(line), Ok(want), "{line}");
        };
        is("vm", &[("vm", &[])]);
        is("vm a b", &[("vm", &["a", "b"])]);
        is("vm/a host/h vm/b", &[("vm", &["a", "b"]), ("host", &["h"])]);
        is("vm,hosts", &[("vm", &[]), ("hosts", &[])]);
    }

    #[test]
    fn nonsense_is_refused_with_the_form_that_is_accepted() {
        for line in ["", "vm/", "/a", "vm/a/b", "vm/a b", ",", "vm,host a"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
