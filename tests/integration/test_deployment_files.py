"""The files of examples/deploy that nothing here can run: their syntax, and what they must agree with."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT
from webmesh.cli.arguments import parse_serve_options
from webmesh.options import DEFAULT_PORT, Limits, Timeouts

DEPLOY = ROOT / "examples" / "deploy"
LONGEST_END = Timeouts().drain + Timeouts().close


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / name, encoding="utf-8")
    return parser


def test_the_service_is_told_of_what_the_server_says() -> None:
    """Readiness and signs of life; and it waits until the server has ended by itself."""
    service = unit("webmesh.service")["Service"]
    assert ("notify", True) == (service["Type"], int(service["WatchdogSec"]) > 0)
    assert float(service["TimeoutStopSec"]) > LONGEST_END
    command, *arguments = shlex.split(service["ExecStart"])
    assert command.endswith("/webmesh") and "serve" == arguments[0]
    options = parse_serve_options(arguments[1:], "serve")
    assert not options.addressed and options.unix is None  # so that it takes the socket


def test_the_socket_is_the_servers() -> None:
    """Its port and its backlog."""
    sock = unit("webmesh.socket")["Socket"]
    assert (DEFAULT_PORT, Limits().backlog) == (int(sock["ListenStream"]), int(sock["Backlog"]))


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """With a command that there is, since it looks for it."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for name in ("webmesh.socket", "webmesh.service"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text), encoding="utf-8")
    checked = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "webmesh.service"), str(tmp_path / "webmesh.socket")],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert [] == [line for line in checked.stderr.splitlines() if str(tmp_path) in line or "webmesh." in line]


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text)}


def test_the_manifest_has_a_headless_service_of_all_nodes() -> None:
    """Ready or not: they find each other by it."""
    headless = manifests()["Service", "shop-nodes"]["spec"]
    assert ("None", True) == (headless["clusterIP"], headless["publishNotReadyAddresses"])
    assert DEFAULT_PORT == headless["ports"][0]["port"]


def test_the_manifest_asks_the_pages_that_there_are() -> None:
    """By a port that the container has, and it is left the time that a drain takes."""
    pod = manifests()["Deployment", "shop"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {"webmesh": DEFAULT_PORT} == ports
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"} == {
        kind: probe["path"] for kind, probe in probes.items()
    }
    assert all(probe["port"] in ports for probe in probes.values())
    assert pod["spec"]["terminationGracePeriodSeconds"] > LONGEST_END


def test_every_selector_finds_the_pods() -> None:
    """A service without any says nothing and leads nowhere."""
    found = manifests()
    labels = found["Deployment", "shop"]["spec"]["template"]["metadata"]["labels"]
    selectors = [one["spec"]["selector"] for (kind, _), one in found.items() if kind == "Service"]
    selectors += [one["spec"]["selector"]["matchLabels"] for (kind, _), one in found.items() if kind != "Service"]
    assert 4 == len(selectors)
    assert all(selector.items() <= labels.items() for selector in selectors)


def test_the_container_starts_the_server_itself() -> None:
    """As process 1, which gets the signal to stop; and open to the outside of its container."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"(?m)^CMD \[(.*)\]$", text)
    name, verb, *arguments = [part.strip().strip('"') for part in command.split(",")]
    assert ("webmesh", "serve") == (name, verb)
    options = parse_serve_options(arguments, "serve")
    assert ("0.0.0.0", DEFAULT_PORT) == (options.host, options.port)
    assert str(DEFAULT_PORT) in re.findall(r"(?m)^EXPOSE (\d+)$", text)
    assert re.search(r"(?m)^USER 10001$", text)
