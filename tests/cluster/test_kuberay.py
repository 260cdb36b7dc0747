"""The manifests fit the schemas of KubeRay and Kubernetes, and the images find their files."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.main import get_command

from cluster.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster" / "kuberay"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
SCHEMA = json.loads((ROOT / "tests" / "data" / "kuberay" / "schema.json").read_text())
CORE = "io.k8s.api.core.v1."


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def faults(document: dict[str, Any]) -> list[str]:
    """Return where a document departs from its kind's schema."""
    kind = document["kind"]
    name = kind if document["apiVersion"] == "ray.io/v1" else CORE + kind
    assert name in SCHEMA["$defs"], f"no schema for {name}"
    validator = Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def pod_specs(document: dict[str, Any]) -> list[dict[str, Any]]:
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def clusters() -> list[dict[str, Any]]:
    every = [document for path in MANIFESTS for document in documents(path)]
    return [document for document in every if document["apiVersion"] == "ray.io/v1"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_fits_the_schemas(path: Path) -> None:
    for document in documents(path):
        assert faults(document) == []


def test_the_schemas_reject_what_they_should() -> None:
    (cluster,) = documents(FOLDER / "raycluster.yaml")
    cluster["spec"]["workerGroupSpecs"][0]["replica"] = 1
    cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["port"] = []
    del cluster["spec"]["workerGroupSpecs"][1]["groupName"]
    found = " ".join(faults(cluster))
    for word in ("'replica'", "'port'", "'groupName' is a required property"):
        assert word in found


@pytest.mark.parametrize("document", clusters(), ids=lambda document: document["metadata"]["name"])
def test_every_mount_has_its_volume_and_limits_are_requests(document: dict[str, Any]) -> None:
    """Ray takes a pod's limits for what its node has."""
    for spec in pod_specs(document):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
            assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("document", clusters(), ids=lambda document: document["metadata"]["name"])
def test_images_and_versions_are_the_tested_ones(document: dict[str, Any]) -> None:
    images = {f"paceline:{path.name.split('.')[0]}" for path in DOCKERFILES}
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    assert f"ray=={spec['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    for pod in pod_specs(document):
        assert {container["image"] for container in pod["containers"]} <= images


@pytest.mark.parametrize(
    "document",
    [document for document in clusters() if document["kind"] == "RayJob"],
    ids=lambda document: document["metadata"]["name"],
)
def test_an_entrypoint_is_a_command_line_that_exists(document: dict[str, Any]) -> None:
    words = shlex.split(document["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "cluster.cli"]
    verb, options = words[3], [word for word in words[4:] if word.startswith("--")]
    command: Any = get_command(app)
    command = command.commands[verb]
    if verb == "train":
        command = command.commands["run"]
    known = {name for parameter in command.params for name in parameter.opts}
    assert set(options) <= known


def test_the_service_finds_its_pod_and_ports() -> None:
    job, service = documents(FOLDER / "serve.yaml")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert service["spec"]["selector"].items() <= head["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in head["spec"]["containers"][0]["ports"]}
    for port in service["spec"]["ports"]:
        assert f":{ports[port['targetPort']]}" in job["spec"]["entrypoint"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_copies_what_exists_and_keeps_its_layers_clean(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    steps = [(line[0], line[1:]) for line in lines]
    copied = [word for verb, words in steps if verb == "COPY" for word in words[:-1]]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), f"{path.name} copies {source}"
    for room in ("parallel", "runtime", "actors", "cluster", "protos"):
        assert f"{room}/" in copied
    bases = [words[0] for verb, words in steps if verb == "FROM"]
    assert all(":" in base and not base.endswith(":latest") for base in bases)
    assert all(verb != "ADD" for verb, _ in steps)
    for verb, words in steps:
        if verb == "RUN" and "apt-get" in words:
            assert "--no-install-recommends" in words
            assert "/var/lib/apt/lists/*" in words
    users = [words[0] for verb, words in steps if verb == "USER"]
    assert users
    assert users[-1] not in ("root", "0")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_has_the_tested_torch(path: Path) -> None:
    (version,) = re.findall(r"torch==(\S+)", path.read_text())
    assert f"torch=={version}" in (ROOT / "constraints.txt").read_text().splitlines()
