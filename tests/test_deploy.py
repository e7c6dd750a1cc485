"""The service and the DaemonSet, as data: what they run exists, what they may do is documented."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from collectors.config import CollectSettings
from latencyprism.__main__ import build_parser
from schemas.settings import section
from tests.test_example_settings import SETTINGS, secrets_in, secrets_read

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "deploy/latencyprism-agent.service"
DAEMONSET = ROOT / "deploy/daemonset.yaml"
OPERATIONS = (ROOT / "docs/operations.md").read_text()


def unit() -> dict[str, list[str]]:
    """Give the values of each key of the unit; a key may be given more than once."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def objects() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(DAEMONSET.read_text())}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = objects()["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    [one] = pod()["containers"]
    found: dict[str, Any] = one
    return found


def settings() -> dict[str, Any]:
    return tomllib.loads(objects()["ConfigMap"]["data"]["latencyprism.toml"])


def documented() -> set[str]:
    """Give the capabilities in the table of rights, but those for tracing, which is off."""
    table = OPERATIONS.partition("## Rights")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|") and "tracing" not in line]
    return {name for row in rows for name in re.findall(r"`([A-Z]+_[A-Z]+)`", row.split("|")[1])}


# The commands.


def test_the_service_runs_a_command_of_ours() -> None:
    [line] = unit()["ExecStart"]
    program, *arguments = shlex.split(line)
    assert Path(program).name == "latencyprism"
    parsed = build_parser().parse_args(arguments)
    assert (parsed.command, parsed.log_format) == ("collect", "json")


def test_the_daemonset_runs_the_same_command() -> None:
    assert container()["command"] == ["latencyprism"]
    parsed = build_parser().parse_args(container()["args"])
    assert (parsed.command, parsed.log_format) == ("collect", "json")
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert str(parsed.config) == f"{mounts['config']}/latencyprism.toml"


def test_both_are_linked_from_the_operations() -> None:
    for path in (UNIT, DAEMONSET):
        assert f"(../{path.relative_to(ROOT)})" in OPERATIONS


# The settings.


def test_the_config_map_is_one_that_we_take() -> None:
    for name, settings_type in SETTINGS.items():
        section(settings(), name, settings_type)


def test_the_probe_asks_where_the_agent_listens() -> None:
    collect = section(settings(), "collect", CollectSettings)
    port = int(collect.health_listen.rpartition(":")[2])
    [served] = container()["ports"]
    probe = container()["livenessProbe"]["httpGet"]
    assert (served["containerPort"], served["hostPort"]) == (port, port)
    assert (probe["path"], probe["port"]) == ("/healthz", served["name"])
    annotations = objects()["DaemonSet"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port)


def test_captures_go_where_the_agent_may_write_and_fit() -> None:
    collect = section(settings(), "collect", CollectSettings)
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert collect.capture_folder.startswith(f"{mounts['captures']}/")
    [volume] = [one for one in pod()["volumes"] if one["name"] == "captures"]
    limit_gibibytes = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi"))
    assert collect.capture_keep_bytes < limit_gibibytes << 30


def test_captures_of_the_composition_go_to_a_volume_of_the_agent() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    mounts = dict(one.split(":")[:2] for one in compose["services"]["agent"]["volumes"])
    assert CollectSettings().capture_folder.startswith(f"{mounts['captures']}/")
    assert "captures" in compose["volumes"]
    assert "captures" not in "".join(compose["services"]["workers"]["volumes"])


def test_the_services_captures_go_to_its_own_folder_by_default() -> None:
    [name] = unit()["StateDirectory"]
    assert CollectSettings().capture_folder == f"/var/lib/{name}/captures"
    assert f"/var/lib/{name}/captures" in OPERATIONS


def test_the_image_has_all_that_agent_and_workers_may_need() -> None:
    [extras] = re.findall(r'"\$\{wheel\}\[([a-z,]+)\]"', (ROOT / "Dockerfile").read_text())
    assert set(extras.split(",")) == {"collect", "capture", "nvidia", "feeds", "stream"}


def test_environment_variables_are_those_that_the_code_reads() -> None:
    given = secrets_in(DAEMONSET.read_text()) | secrets_in(UNIT.read_text())
    assert given
    assert given <= secrets_read()


def test_no_secret_has_a_value_in_the_repository() -> None:
    for variable in container()["env"]:
        if variable["name"].startswith("LATENCYPRISM_"):
            assert "value" not in variable
            assert variable["valueFrom"]["secretKeyRef"]["optional"] is True


# The rights.


def test_the_service_has_the_documented_capabilities_and_no_root() -> None:
    [ambient], [bounding] = unit()["AmbientCapabilities"], unit()["CapabilityBoundingSet"]
    assert ambient == bounding
    assert {name.removeprefix("CAP_") for name in ambient.split()} == documented()
    assert unit()["DynamicUser"] == ["yes"]
    assert unit()["User"] != ["root"]
    assert unit()["NoNewPrivileges"] == ["yes"]
    assert unit()["ProtectSystem"] == ["strict"]


def test_the_daemonset_has_the_documented_capabilities_and_is_not_privileged() -> None:
    context = container()["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"]["add"]) == documented()
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert "privileged" not in context
    assert not re.search(r"privileged:\s*true", DAEMONSET.read_text())


def test_what_the_agent_needs_of_the_host_is_shared_and_read_only() -> None:
    assert pod()["hostPID"] is True
    assert pod()["hostNetwork"] is True
    assert pod()["automountServiceAccountToken"] is False
    paths = {one["name"]: one["hostPath"]["path"] for one in pod()["volumes"] if "hostPath" in one}
    assert paths == {"cgroup": "/sys/fs/cgroup"}
    for mount in container()["volumeMounts"]:
        if mount["name"] in {*paths, "config"}:
            assert mount["readOnly"] is True


def test_every_volume_is_mounted_and_every_mount_has_its_volume() -> None:
    mounted = {mount["name"] for mount in container()["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod()["volumes"]}


def test_nothing_that_hides_accelerators_or_engines_is_turned_on() -> None:
    for key in ("PrivateDevices", "ProtectClock", "PrivateUsers", "ProtectProc", "PrivatePIDs"):
        assert key not in unit()
    assert "RestrictRealtime" not in unit()
    assert "PrivateNetwork" not in unit()


# The ceilings.


def test_both_have_a_ceiling_on_memory_and_cpu() -> None:
    assert unit()["MemoryMax"] == ["512M"]
    assert unit()["CPUQuota"] == ["100%"]
    limits = container()["resources"]["limits"]
    assert (limits["memory"], limits["cpu"]) == ("512Mi", "1")


def test_a_stop_leaves_time_to_send_what_waits() -> None:
    assert int(unit()["TimeoutStopSec"][0]) > 5
    assert pod()["terminationGracePeriodSeconds"] > 5


def test_the_daemonset_goes_to_gpu_nodes_and_over_their_taints() -> None:
    assert any("gpu" in label for label in pod()["nodeSelector"])
    keys = {toleration["key"] for toleration in pod()["tolerations"]}
    assert any("gpu" in key for key in keys)


def test_everything_is_in_one_namespace_and_the_labels_agree() -> None:
    found = objects()
    name = found["Namespace"]["metadata"]["name"]
    for kind in ("ConfigMap", "DaemonSet"):
        assert found[kind]["metadata"]["namespace"] == name
    spec = found["DaemonSet"]["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    [config] = [one for one in pod()["volumes"] if one["name"] == "config"]
    assert config["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]


def test_the_image_is_the_one_of_the_composition() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert container()["image"] == compose["services"]["agent"]["image"]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze: install systemd")
    text = UNIT.read_text().replace("/opt/latencyprism/bin/latencyprism", "/bin/true")
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        [tool, "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
