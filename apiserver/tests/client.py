"""What people do with the dynamic client of Python's `kubernetes`; any surprise ends it with a traceback."""

import json
import sys
import threading

from kubernetes import client
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError, ResourceNotFoundError, UnprocessibleEntityError

configuration = client.Configuration()
configuration.host = sys.argv[1]
dynamic = DynamicClient(client.ApiClient(configuration))

vms = dynamic.resources.get(api_version="basalt.dev/v1alpha1", kind="VirtualMachine")
hosts = dynamic.resources.get(api_version="basalt.dev/v1alpha1", kind="Host")
namespaces = dynamic.resources.get(api_version="v1", kind="Namespace")
assert vms.namespaced and not hosts.namespaced and "vm" in vms.short_names, vms
try:
    dynamic.resources.get(api_version="basalt.dev/v1alpha1", kind="Nothing")
    raise AssertionError("a kind that is not there is found")
except ResourceNotFoundError:
    pass


def vm(name, cpus=1):
    return {
        "apiVersion": "basalt.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"cpus": cpus, "memory": "1Gi", "boot": {"kernel": {"image": "kernel"}}},
    }


namespaces.create(body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})

# A watch from a list, in a thread of its own.
seen = []
listed = vms.get(namespace="team")


def follow():
    for event in vms.watch(namespace="team", resource_version=listed.metadata.resourceVersion, timeout=30):
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            return


watcher = threading.Thread(target=follow, daemon=True)
watcher.start()

created = vms.create(body=vm("web"), namespace="team")
assert created.spec.runStrategy == "Always", "defaults are there"
try:
    vms.create(body=vm("web"), namespace="team")
    raise AssertionError("a name is given twice")
except ConflictError as error:
    assert error.reason == "Conflict", error.reason
try:
    vms.create(body=vm("bad", cpus=0), namespace="team")
    raise AssertionError("a wrong object is taken")
except UnprocessibleEntityError as error:
    assert b"spec.cpus" in error.body, error.body

patched = vms.patch(name="web", namespace="team", body={"spec": {"cpus": 2}}, content_type="application/merge-patch+json")
assert (patched.spec.cpus, patched.metadata.generation) == (2, 2), patched
applied = dynamic.server_side_apply(vms, body=json.dumps(vm("web", cpus=3)), name="web", namespace="team", field_manager="python", force_conflicts=True)
assert applied.spec.cpus == 3 and applied.metadata.managedFields[0].manager == "python", applied.metadata.managedFields

stale = created.to_dict()
try:
    vms.replace(body=stale, namespace="team")
    raise AssertionError("a stale object is taken")
except ConflictError:
    pass
fresh = vms.get(name="web", namespace="team").to_dict()
fresh["spec"]["cpus"] = 4
assert vms.replace(body=fresh, namespace="team").spec.cpus == 4

vms.create(body=vm("other"), namespace="team")
assert [item.metadata.name for item in vms.get(namespace="team").items] == ["other", "web"]
assert [item.metadata.name for item in vms.get(namespace="team", label_selector="app=web").items] == ["web"]
assert [item.metadata.name for item in vms.get(namespace="team", field_selector="metadata.name=other").items] == ["other"]
page = vms.get(namespace="team", limit=1)
rest = vms.get(namespace="team", limit=1, _continue=page.metadata["continue"])
assert [item.metadata.name for item in page.items + rest.items] == ["other", "web"]

vms.delete(name="web", namespace="team")
watcher.join(30)
assert not watcher.is_alive(), seen
expected = [("ADDED", "web"), ("MODIFIED", "web"), ("MODIFIED", "web"), ("MODIFIED", "web"), ("ADDED", "other"), ("DELETED", "web")]
assert seen == expected, seen
try:
    vms.get(name="web", namespace="team")
    raise AssertionError("what was deleted is there")
except NotFoundError:
    pass
print("all as expected")
