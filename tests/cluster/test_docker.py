"""The Dockerfile of `serve` and its compose file: what can be checked without a daemon."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from cluster.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster" / "docker"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
STEPS = [
    (line.split()[0], line.split(maxsplit=1)[1])
    for line in re.sub(r"\\\n", " ", (FOLDER / "Dockerfile").read_text()).splitlines()
    if line and not line.startswith("#")
]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return the base and the steps of each stage, by its name."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    name = ""
    for verb, rest in STEPS:
        if verb == "FROM":
            base, _, name = rest.split()
            found[name] = (base, [])
        else:
            found[name][1].append((verb, rest))
    return found


def test_the_variants_share_all_layers_below_torch() -> None:
    found = stages()
    assert (found["cpu"][0], found["cuda"][0]) == ("torch-cpu", "torch-cuda")
    assert found["torch-cpu"][0] == found["torch-cuda"][0] == "base"
    for base, _ in found.values():
        assert base in found or re.fullmatch(r"[\w/]+:[\w.-]+", base)
    cpu, cuda = (dict(found[name][1]) for name in ("cpu", "cuda"))
    differing = {verb for verb in cpu | cuda if cpu.get(verb) != cuda.get(verb)}
    assert differing == {"CMD"}
    assert cpu["USER"] == "paceline"


def test_every_copied_file_exists_and_torch_is_the_tested_one() -> None:
    copied = [word for verb, rest in STEPS if verb == "COPY" for word in rest.split()[:-1]]
    assert copied
    assert all((ROOT / source).exists() for source in copied)
    for room in ("parallel", "runtime", "actors", "cluster", "protos"):
        assert f"{room}/" in copied
    versions = re.findall(r"torch==(\S+)", (FOLDER / "Dockerfile").read_text())
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert versions
    assert all(f"torch=={version}" in pinned for version in versions)


def test_the_shared_layer_installs_every_dependency_but_those_on_torch(tmp_path: Path) -> None:
    (step,) = (rest for verb, rest in STEPS if verb == "RUN" and "tomllib" in rest)
    code = shlex.split(step)[2]
    (tmp_path / "run.py").write_text(f"import os\nos.chdir({str(ROOT)!r})\n{code}\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py")], capture_output=True, text=True, timeout=60
    )
    names = {re.split(r"[>=\[ ]", line)[0] for line in done.stdout.split()}
    assert {"ray", "starlette", "transformers", "uvicorn"} <= names
    assert not names & {"torch", "peft"}


def test_the_entry_point_is_a_command_line_that_exists_and_serves_the_exposed_ports() -> None:
    serve: Any = get_command(app).commands["serve"]  # type: ignore[attr-defined]  # a group
    known = {name for parameter in serve.params for name in parameter.opts}
    for name in ("cpu", "cuda"):
        steps = dict(stages()[name][1])
        words = json.loads(steps["ENTRYPOINT"]) + json.loads(steps["CMD"])
        assert words[:2] == ["paceline", "serve"]
        assert {word for word in words if word.startswith("--")} <= known
        ports = {word.rpartition(":")[2] for word in words if word.startswith("0.0.0.0:")}
        assert ports == set(steps["EXPOSE"].split())


def test_compose_mounts_what_exists_and_opens_ports_to_this_machine_alone() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"paceline", "prometheus", "grafana"}
    build = services["paceline"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    assert build["target"] in stages()
    for service in services.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).is_file()
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"]


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus() -> None:
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in COMPOSE["services"]
    assert port in dict(stages()["cpu"][1])["EXPOSE"].split()
    (source,) = yaml.safe_load((FOLDER / "grafana-datasource.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((FOLDER / "grafana-dashboards.yaml").read_text())["providers"]
    mounts = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert any(mount.startswith(provider["options"]["path"]) for mount in mounts)
