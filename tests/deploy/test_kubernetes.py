"""The Kubernetes manifests, checked against the schemas of Kubernetes and against the sidecar itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from slng_sidecar.config import Settings, check_exposure, load_settings
from slng_sidecar.keys import SECRETS
from slng_sidecar.server.app import create_app
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.guard import ALWAYS_OPEN
from slng_sidecar.server.services import Services
from support.metric_names import metric_names
from support.paths import ROOT

FILES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
# The oldest Kubernetes version that each manifest supports.
SINCE = {"native-sidecar.yaml": "1.29", "shared.yaml": "1.30"}
PORT = 8765


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def one(path: Path, kind: str) -> dict[str, Any]:
    [found] = [document for document in documents(path) if document["kind"] == kind]
    return found


def pod(path: Path) -> dict[str, Any]:
    spec: dict[str, Any] = one(path, "Deployment")["spec"]["template"]["spec"]
    return spec


def containers(path: Path) -> list[dict[str, Any]]:
    return [*pod(path).get("initContainers", []), *pod(path)["containers"]]


def sidecar(path: Path) -> dict[str, Any]:
    [found] = [container for container in containers(path) if container["name"] == "slng-sidecar"]
    return found


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


def probes(container: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if name in container:
            yield container[name]


def seconds(path: Path, name: str) -> float:
    """Return a setting with the value that it has in the container."""
    given = environment(sidecar(path)).get(name)
    return float(given) if given is not None else float(Settings.model_fields[name.lower()].default)


def test_there_is_a_manifest_for_each_deployment() -> None:
    assert {path.name for path in FILES} == SINCE.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_a_manifest_matches_the_schemas_of_kubernetes(path: Path, which: str) -> None:
    version = SINCE[path.name] if which == "oldest" else kubernetes_validate.latest_version()
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_a_setting_with_a_valid_value(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name.upper() for name in Settings.model_fields} | {f"{name.upper()}_FILE" for name in SECRETS}
    mounts = [mount["mountPath"] for mount in sidecar(path)["volumeMounts"]]
    for name, value in environment(sidecar(path)).items():
        assert name in known, name
        if name.endswith("_FILE"):
            assert any(value.startswith(f"{mount}/") for mount in mounts), value
            (tmp_path / name).write_text("a-secret\n")
            value = str(tmp_path / name)
        monkeypatch.setenv(name, value)
    settings, secrets = load_settings()
    check_exposure(settings, secrets)
    assert settings.listens_beyond_loopback
    assert secrets.token == secrets.api_key == "a-secret"
    assert settings.sidecar_port == PORT


def test_the_bot_finds_the_sidecar_by_variables_that_it_reads() -> None:
    [bot] = [container for container in containers(FILES[0]) if container["name"] == "bot"]
    source = "".join(path.read_text() for path in (ROOT / "plugin" / "pipecat_slng_sidecar").glob("*.py"))
    assert all(f'"{name}"' in source for name in environment(bot))
    assert environment(bot)["SLNG_SIDECAR_URL"].endswith(f":{PORT}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_manifest_holds_a_key_and_the_bot_gets_none(path: Path) -> None:
    for document in documents(path):
        assert document["kind"] != "Secret"
    for container in containers(path):
        secret = {each["name"] for each in container["env"] if "valueFrom" in each}
        assert secret <= {"SLNG_SIDECAR_TOKEN"}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert ("secrets" in mounted) == (container["name"] == "slng-sidecar")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ports_and_paths_exist(path: Path) -> None:
    guard: Any = create_app(Gateway(Services(*load_settings(slng_api_key="k"))))
    paths = set(guard._app.openapi()["paths"])
    container = sidecar(path)
    [port] = container["ports"]
    assert port["containerPort"] == Settings.model_fields["sidecar_port"].default == PORT
    for probe in probes(container):
        assert probe["httpGet"]["port"] == port["name"]
        # A probe sends no token.
        assert probe["httpGet"]["path"] in ALWAYS_OPEN & paths
    annotations = one(path, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in paths
    assert annotations["prometheus.io/port"] == str(PORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_metric_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"\bslng_sidecar_\w+", path.read_text()))
    assert named <= metric_names()
    assert named or path.name != "shared.yaml"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_termination_grace_period_covers_the_drain(path: Path) -> None:
    before = sidecar(path).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = before + seconds(path, "SIDECAR_DRAIN_SECONDS") + 2 * seconds(path, "SIDECAR_CLOSE_TIMEOUT")
    assert pod(path)["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_containers_have_only_the_permissions_that_they_need(path: Path) -> None:
    spec = pod(path)
    assert spec["automountServiceAccountToken"] is False
    # Otherwise a Service named "sidecar" sets SIDECAR_PORT.
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(path):
        allowed = {**spec["securityContext"], **container["securityContext"]}
        assert allowed["runAsUser"] >= 10_000
        assert allowed["allowPrivilegeEscalation"] is False
        assert allowed["readOnlyRootFilesystem"] is True
        assert allowed["capabilities"] == {"drop": ["ALL"]}
    # With a read-only root file system, uploads need a writable directory.
    assert {"name": "spool", "mountPath": "/tmp"} in sidecar(path)["volumeMounts"]
    user = re.search(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert user is not None
    assert {**spec["securityContext"], **sidecar(path)["securityContext"]}["runAsUser"] == int(user.group(1))


def test_the_native_sidecar_is_a_restartable_init_container() -> None:
    path = FILES[0]
    container = sidecar(path)
    assert container in pod(path)["initContainers"]
    assert container["restartPolicy"] == "Always"
    assert "startupProbe" in container
    assert "readinessProbe" not in container


def test_the_shared_deployment_is_scaled_protected_and_reachable() -> None:
    path = FILES[1]
    labels = one(path, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one(path, "Service")["spec"]["selector"] == labels
    assert one(path, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    scaler = one(path, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == one(path, "Deployment")["metadata"]["name"]
    [metric] = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] in metric_names()
    assert float(metric["pods"]["target"]["averageValue"]) < seconds(path, "SIDECAR_MAX_SESSIONS")
    # It is a readiness probe, since a Service uses it.
    assert "readinessProbe" in sidecar(path)
