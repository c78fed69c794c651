//! Discovery, `get` and `list`, as any client of Kubernetes asks for them.

mod common;

use common::{
    start,
    wire::{HOSTS, LEASES, MERGE, NAMESPACES, VMS, host, labelled, names, resource_version, vm},
};
use http::Method;
use serde_json::json;
use std::io::Read;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

#[tokio::test(flavor = "multi_thread")]
async fn discovery_leads_from_the_root_to_every_kind() {
    let server = start().await;
    assert_eq!(server.get("/api").await.ok(200)["versions"], json!(["v1"]));
    let groups = server.get("/apis").await.ok(200);
    let group = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "basalt.dev").unwrap();
    assert_eq!(group["preferredVersion"]["groupVersion"], "basalt.dev/v1alpha1");
    assert_eq!(server.get("/apis/basalt.dev").await.ok(200)["kind"], "APIGroup");
    let resources = server.get("/apis/basalt.dev/v1alpha1").await.ok(200);
    let named = |name: &str| resources["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == name).unwrap();
    assert_eq!((&named("virtualmachines")["namespaced"], &named("hosts")["namespaced"]), (&json!(true), &json!(false)));
    assert_eq!(named("virtualmachines/status")["verbs"], json!(["get", "patch", "update"]));
    assert!(named("virtualmachines")["verbs"].as_array().unwrap().contains(&json!("deletecollection")));

    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json")];
    let all = server.send(Method::GET, "/apis", &accept, "").await;
    assert!(all.headers["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    let all = all.ok(200);
    assert!(all["items"].as_array().unwrap().iter().any(|group| group["metadata"]["name"] == "coordination.k8s.io"), "{all}");

    for nowhere in ["/apis/none.dev", "/apis/basalt.dev/v9", "/apis/basalt.dev/v1alpha1/ghosts", "/api/v2", "/nothing", "/"] {
        server.get(nowhere).await.refused(404, "NotFound");
    }
    server.send(Method::POST, "/apis", &[], "").await.refused(405, "MethodNotAllowed");
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(server.get(path).await.code, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_index_leads_to_each_document_and_its_hash_stands_for_the_content() {
    let server = start().await;
    let index = server.get("/openapi/v3").await.ok(200);
    assert_eq!(server.get("/openapi/v3").await.ok(200), index);
    let address = |path: &str| index["paths"][path]["serverRelativeURL"].as_str().unwrap().to_owned();
    let hash = |path: &str| address(path).split_once("?hash=").unwrap().1.to_owned();
    assert_ne!(hash("api/v1"), hash("apis/basalt.dev/v1alpha1"));
    let document = server.get(&address("apis/basalt.dev/v1alpha1")).await.ok(200);
    assert!(document["components"]["schemas"]["dev.basalt.v1alpha1.VirtualMachine"].is_object());
    assert_eq!(server.get(&address("api/v1")).await.ok(200)["openapi"], "3.0.0");
    assert_eq!(server.get("/openapi/v2").await.ok(200)["swagger"], "2.0");
    server.get("/openapi/v3/apis/none.dev/v1").await.refused(404, "NotFound");
    for nowhere in ["/openapi", "/openapi/v3/api", "/openapi/v4"] {
        server.get(nowhere).await.refused(404, "NotFound");
    }
    // Under the address with its hash it is always the same; that of another content leads to that of this one.
    let kept = server.get(&address("api/v1")).await;
    assert!(kept.headers["cache-control"].to_str().unwrap().contains("immutable"), "{:?}", kept.headers);
    let old = server.get("/openapi/v3/api/v1?hash=0123").await;
    assert_eq!((old.code, old.headers["location"].to_str().unwrap()), (301, address("api/v1").as_str()));
    assert_eq!(kept.headers["etag"].to_str().unwrap(), format!("\"{}\"", hash("api/v1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_openapi_document_that_the_client_has_is_not_sent_again() {
    let server = start().await;
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let mut tags = Vec::new();
    for (path, accept) in
        [("/openapi/v2", "*/*"), ("/openapi/v2", protobuf), ("/openapi/v3", "*/*"), ("/openapi/v3/apis/basalt.dev/v1alpha1", "*/*")]
    {
        let first = server.send(Method::GET, path, &[("accept", accept)], "").await;
        assert!(first.code == 200 && !first.body.is_empty() && !first.headers["cache-control"].to_str().unwrap().contains("immutable"));
        let tag = first.headers["etag"].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let again = server.send(Method::GET, path, &[("accept", accept), ("if-none-match", &known)], "").await;
            assert_eq!((again.code, again.body.len()), (304, 0), "{path} {known}");
            assert_eq!(again.headers["etag"].to_str().unwrap(), tag);
        }
        let other = server.send(Method::GET, path, &[("accept", accept), ("if-none-match", "\"other\"")], "").await;
        assert_eq!((other.code, &other.body), (200, &first.body), "{path}");
        assert!(!tags.contains(&tag), "{path} {accept}: each has a tag of its own");
        tags.push(tag);
    }
    // Who may not have it does not learn whether what he has is still so.
    let nobody = server.seen_by_nobody().await;
    nobody.send(Method::GET, "/openapi/v2", &[("if-none-match", "*")], "").await.refused(401, "Unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_got_whole_as_metadata_and_as_a_table() {
    let server = start().await;
    let created = server.post(VMS, &vm("web")).await.ok(201);
    let path = format!("{VMS}/web");
    assert_eq!(server.get(&path).await.ok(200), created);
    assert_eq!(server.get(&format!("{path}?resourceVersion=0")).await.ok(200), created);
    assert_eq!(server.get(&format!("{path}/status")).await.ok(200), created);

    let missing = server.get(&format!("{VMS}/other")).await.refused(404, "NotFound");
    assert_eq!(missing["message"], "virtualmachines.basalt.dev \"other\" not found");
    assert_eq!(missing["details"], json!({ "name": "other", "group": "basalt.dev", "kind": "virtualmachines" }));

    let table = server.send(Method::GET, &path, &[("accept", TABLE)], "").await.ok(200);
    let columns: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!((table["kind"].as_str(), columns[0], columns[5]), (Some("Table"), "Name", "Memory"));
    let row = &table["rows"][0];
    assert_eq!((&row["cells"][0], &row["cells"][5]), (&json!("web"), &json!("1Gi")));
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");

    let accept = [("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")];
    let partial = server.send(Method::GET, &path, &accept, "").await.ok(200);
    assert_eq!((&partial["metadata"], partial.get("spec")), (&created["metadata"], None));

    server.send(Method::GET, &path, &[("accept", "text/html")], "").await.refused(406, "NotAcceptable");
    // A client that would rather have protobuf takes JSON.
    let accept = [("accept", "application/vnd.kubernetes.protobuf,application/json")];
    assert_eq!(server.send(Method::GET, &path, &accept, "").await.ok(200), created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_what_was_acknowledged_before_it() {
    let server = start().await;
    let empty = server.get(VMS).await.ok(200);
    assert_eq!((&empty["kind"], &empty["items"]), (&json!("VirtualMachineList"), &json!([])));
    for number in 0..20 {
        let name = format!("vm-{number:02}");
        let created = server.post(VMS, &vm(&name)).await.ok(201);
        let list = server.get(VMS).await.ok(200);
        assert_eq!(list["items"].as_array().unwrap().last(), Some(&created));
        assert!(resource_version(&list) >= resource_version(&created));
    }
    server.post(NAMESPACES, &json!({ "metadata": { "name": "team" } })).await.ok(201);
    server.post("/apis/basalt.dev/v1alpha1/namespaces/team/virtualmachines", &vm("other")).await.ok(201);
    assert_eq!(names(&server.get(VMS).await.ok(200)).len(), 20);
    assert_eq!(names(&server.get("/apis/basalt.dev/v1alpha1/virtualmachines").await.ok(200)).len(), 21);
    // One namespace's name may begin with another's.
    server.post(NAMESPACES, &json!({ "metadata": { "name": "default-2" } })).await.ok(201);
    server.post("/apis/basalt.dev/v1alpha1/namespaces/default-2/virtualmachines", &vm("third")).await.ok(201);
    assert_eq!(names(&server.get(VMS).await.ok(200)).len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_of_a_list_can_be_demanded() {
    let server = start().await;
    let first = resource_version(&server.post(VMS, &vm("a")).await.ok(201));
    let newest = resource_version(&server.post(VMS, &vm("b")).await.ok(201));
    // Not older than that, and it may be newer.
    assert_eq!(names(&server.get(&format!("{VMS}?resourceVersion={first}")).await.ok(200))[0], "a");
    assert_eq!(names(&server.get(&format!("{VMS}?resourceVersion={newest}")).await.ok(200)), ["a", "b"]);
    assert_eq!(names(&server.get(&format!("{VMS}?resourceVersion={newest}&resourceVersionMatch=Exact")).await.ok(200)), ["a", "b"]);
    server.get(&format!("{VMS}?resourceVersion={first}&resourceVersionMatch=Exact")).await.refused(410, "Expired");
    for path in [format!("{VMS}?resourceVersion=1000000"), format!("{VMS}/a?resourceVersion=1000000")] {
        let status = server.get(&path).await.refused(504, "Timeout");
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge", "{path}");
        assert!(status["details"]["retryAfterSeconds"].is_number());
    }
    for wrong in ["resourceVersion=x", "resourceVersion=-1", "limit=many"] {
        server.get(&format!("{VMS}?{wrong}")).await.refused(400, "BadRequest");
    }
    for wrong in
        ["resourceVersion=1&resourceVersionMatch=Sometimes", "resourceVersionMatch=Exact", "resourceVersion=0&resourceVersionMatch=Exact"]
    {
        let status = server.get(&format!("{VMS}?{wrong}")).await.refused(422, "Invalid");
        assert_eq!(status["details"]["causes"][0]["field"], "resourceVersionMatch", "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_of_one_state_while_others_write() {
    let server = start().await;
    for number in 0..25 {
        server.post(VMS, &vm(&format!("vm-{number:02}"))).await.ok(201);
    }
    let whole = server.get(VMS).await.ok(200);
    let (mut seen, mut version, mut token) = (Vec::new(), None, String::new());
    let mut page = 0;
    loop {
        let list = server.get(&format!("{VMS}?limit=7&continue={token}")).await.ok(200);
        assert_eq!(*version.get_or_insert(resource_version(&list)), resource_version(&list));
        seen.extend(list["items"].as_array().unwrap().clone());
        // Objects before, in and after the page go, change and come.
        server.delete(&format!("{VMS}/vm-{page:02}"), json!(null)).await.ok(200);
        server.delete(&format!("{VMS}/vm-{:02}", 24 - page), json!(null)).await.ok(200);
        server.patch(&format!("{VMS}/vm-12"), MERGE, &json!({ "spec": { "cpus": page + 2 } })).await.ok(200);
        server.post(VMS, &vm(&format!("vm-{page:02}-new"))).await.ok(201);
        page += 1;
        match list["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!((page, json!(seen)), (4, whole["items"].clone()));
    assert_eq!(version, Some(resource_version(&whole)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_can_end_where_the_list_does_and_selects_before_it_counts() {
    let server = start().await;
    for number in 0..6 {
        let labels = json!({ "even": if number % 2 == 0 { "yes" } else { "no" } });
        server.post(HOSTS, &labelled(host(&format!("h{number}")), labels)).await.ok(201);
    }
    let exact = server.get(&format!("{HOSTS}?limit=6")).await.ok(200);
    assert_eq!((names(&exact).len(), exact["metadata"].get("continue")), (6, None));
    let first = server.get(&format!("{HOSTS}?limit=2&labelSelector=even%3Dyes")).await.ok(200);
    assert_eq!(names(&first), ["h0", "h2"]);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{HOSTS}?limit=2&labelSelector=even%3Dyes&continue={token}")).await.ok(200);
    assert_eq!((names(&second), second["metadata"].get("continue")), (vec!["h4"], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_answered_with_a_fresh_one_and_a_forged_one_is_refused() {
    let server = start().await;
    for number in 0..3 {
        server.post(VMS, &vm(&format!("vm-{number}"))).await.ok(201);
    }
    let first = server.get(&format!("{VMS}?limit=1")).await.ok(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    // The server keeps so many states of a kind for those who page, and no more.
    for number in 0..100 {
        server.patch(&format!("{VMS}/vm-2"), MERGE, &json!({ "metadata": { "annotations": { "n": number.to_string() } } })).await.ok(200);
        server.get(&format!("{VMS}?limit=1")).await.ok(200);
    }
    let expired = server.get(&format!("{VMS}?limit=1&continue={token}")).await.refused(410, "Expired");
    let fresh = expired["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{VMS}?continue={fresh}")).await.ok(200);
    assert_eq!(names(&rest), ["vm-1", "vm-2"]);
    assert_eq!(rest["items"][1]["metadata"]["annotations"]["n"], "99");
    assert!(resource_version(&rest) > resource_version(&first));

    for forged in ["x", "e30", "bnVsbA", "%00", &"A".repeat(5000), &token[1..]] {
        let status = server.get(&format!("{VMS}?limit=1&continue={forged}")).await.refused(400, "BadRequest");
        assert!(status["message"].as_str().unwrap().contains("continue key is not valid"), "{status}");
    }
    // A token of one namespace shows nothing of another.
    let other = VMS.replace("/default/", "/other/");
    server.get(&format!("{other}?continue={fresh}")).await.refused(400, "BadRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_selected_by_labels_and_fields() {
    let server = start().await;
    for (name, labels) in [("a", json!({ "app": "web", "zone": "1" })), ("b", json!({ "app": "db" })), ("c", json!({}))] {
        server.post(VMS, &labelled(vm(name), labels)).await.ok(201);
    }
    for (selector, wanted) in [
        ("labelSelector=app%3Dweb", vec!["a"]),
        ("labelSelector=app", vec!["a", "b"]),
        ("labelSelector=!app", vec!["c"]),
        ("labelSelector=app%20in%20(web,db),zone!%3D1", vec!["b"]),
        ("labelSelector=app%20notin%20(web)", vec!["b", "c"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db", vec!["a", "c"]),
        ("fieldSelector=metadata.namespace%3Ddefault&labelSelector=zone", vec!["a"]),
        ("fieldSelector=metadata.name%3Da,metadata.name%3Db", vec![]),
    ] {
        assert_eq!(names(&server.get(&format!("{VMS}?{selector}")).await.ok(200)), wanted, "{selector}");
    }
    let status = server.get(&format!("{VMS}?fieldSelector=spec.cpus%3D1")).await.refused(400, "BadRequest");
    assert!(status["message"].as_str().unwrap().contains("metadata.name"), "{status}");
    server.get(&format!("{VMS}?labelSelector=a%20b")).await.refused(400, "BadRequest");
    let phase = server.get(&format!("{NAMESPACES}?fieldSelector=status.phase%3DActive")).await.ok(200);
    assert_eq!(names(&phase), ["default"]);
    server.get(&format!("{LEASES}?fieldSelector=status.phase%3DActive")).await.refused(400, "BadRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_as_tables_and_as_metadata() {
    let server = start().await;
    for name in ["a", "b", "c"] {
        server.post(VMS, &vm(name)).await.ok(201);
    }
    let list = server.get(VMS).await.ok(200);
    let table = |query: &'static str| {
        let server = &server;
        async move { server.send(Method::GET, &format!("{VMS}{query}"), &[("accept", TABLE)], "").await.ok(200) }
    };
    let whole = table("").await;
    assert_eq!(whole["metadata"], list["metadata"]);
    let cells: Vec<_> = whole["rows"].as_array().unwrap().iter().map(|row| row["cells"][0].clone()).collect();
    assert_eq!(cells, ["a", "b", "c"]);
    assert_eq!(table("?includeObject=Object").await["rows"][1]["object"], list["items"][1]);
    assert_eq!(table("?includeObject=None").await["rows"][1].get("object"), None);
    let page = table("?limit=2").await;
    assert_eq!((page["rows"].as_array().unwrap().len(), page["metadata"]["continue"].is_string()), (2, true));

    let partial = server.send(Method::GET, VMS, &[("accept", PARTIAL)], "").await.ok(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][2]["metadata"], list["items"][2]["metadata"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_for_those_who_take_it() {
    let server = start().await;
    let mut large = vm("large");
    large["metadata"]["annotations"] = json!({ "note": "x".repeat(200_000) });
    server.post(VMS, &large).await.ok(201);
    let plain = server.get(VMS).await;
    assert_eq!(plain.headers.get("content-encoding"), None);
    let packed = server.send(Method::GET, VMS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.body.len() * 20 < plain.body.len(), "{} of {} bytes", packed.body.len(), plain.body.len());
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text.as_bytes(), plain.body);
    // What is small, and what comes bit by bit, is not.
    for path in [NAMESPACES.to_owned(), format!("{VMS}?watch=true&timeoutSeconds=1")] {
        let answer = server.send(Method::GET, &path, &[("accept-encoding", "gzip")], "").await;
        assert_eq!((answer.code, answer.headers.get("content-encoding")), (200, None), "{path}");
    }
}
