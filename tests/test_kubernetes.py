"""The manifests in deploy/kubernetes: what Kubernetes publishes as its schema, and what usersync's own files say."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.cli.commands import parse
from usersync_cli import __version__
from usersync_cli.auth import outcomes, refresh
from usersync_cli.config import loader
from usersync_cli.errors import STATUSES
from usersync_cli.state import lease

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "deploy" / "kubernetes").glob("*"))
MANIFESTS: dict[str, Any] = {document["kind"]: document for file in FILES for document in yaml.safe_load_all(file.read_text())}
CRONJOB = MANIFESTS["CronJob"]
JOB = CRONJOB["spec"]["jobTemplate"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]
VERSIONS = ["1.31", "1.34", kubernetes_validate.latest_version()]  # the first with podFailurePolicy for good, one between, the newest
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def refused(manifest: dict[str, Any], version: str) -> str:
    """What the API server of this version would have against it; unknown fields too, as `kubectl --validate=strict` tells them."""
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


def option(name: str) -> str:
    """The value of an option in the container's arguments."""
    return str(CONTAINER["args"][CONTAINER["args"].index(name) + 1])


def volumes() -> dict[str, dict[str, Any]]:
    return {volume["name"]: volume for volume in POD["volumes"]}


def mounted() -> dict[str, str]:
    """Where each volume is seen, by its name."""
    return {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_manifests(version: str) -> None:
    """
    Each manifest of the folder fits the published schema, with no field that it does not know.
    """
    assert {"CronJob", "ConfigMap", "Secret"} == set(MANIFESTS)
    assert [""] * 3 == [refused(manifest, version) for manifest in MANIFESTS.values()]


def _misspelt(job: dict[str, Any]) -> None:
    job["template"]["spec"]["restartpolicy"] = job["template"]["spec"].pop("restartPolicy")


def _of_wrong_type(job: dict[str, Any]) -> None:
    job["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] = ["2"]


def _without_action(job: dict[str, Any]) -> None:
    del job["podFailurePolicy"]["rules"][0]["action"]


@pytest.mark.parametrize("break_", [_misspelt, _of_wrong_type, _without_action])
def test_kubernetes_refuses_a_mistake(break_: Callable[[dict[str, Any]], None]) -> None:
    """
    A misspelt key, a wrong type and a missing field are found: the schema that we check against is a strict one.
    """
    broken = copy.deepcopy(CRONJOB)
    break_(broken["spec"]["jobTemplate"]["spec"])

    assert refused(broken, VERSIONS[-1])


def test_every_failure_has_one_rule() -> None:
    """
    Each exit status of errors.py is in exactly one rule, but success and the signals: what a person has to fix, or another run
    does, fails the job at once; what may pass is tried again.
    """
    rules = {rule["action"]: rule["onExitCodes"] for rule in JOB["podFailurePolicy"]["rules"] if "onExitCodes" in rule}
    values = [rule["values"] for rule in rules.values()]

    assert sorted(set(STATUSES) - {0, 129, 130, 143}) == sorted(itertools.chain(*values))
    assert {"FailJob": [2, 3, 5, 6, 7, 8, 9, 10, 75, 76], "Count": [1, 4]} == {name: rule["values"] for name, rule in rules.items()}
    assert {("In", CONTAINER["name"])} == {(rule["operator"], rule["containerName"]) for rule in rules.values()}


def test_a_drained_node_is_nobodys_failure() -> None:
    """
    The first rule that fits decides, and the first is the one for disruptions: the only one that ignores anything.
    """
    first, *others = JOB["podFailurePolicy"]["rules"]

    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]} == first
    assert {"FailJob", "Count"} == {rule["action"] for rule in others}


def test_one_run_at_a_time_that_ends_by_itself() -> None:
    """
    Runs do not overlap, each try is a pod of its own, and Kubernetes' deadline comes after all tries have met --max-runtime.
    """
    tries = JOB["backoffLimit"] + 1
    longest = loader.duration(option("--max-runtime")).total_seconds()
    grace = POD["terminationGracePeriodSeconds"]

    assert ("Forbid", "Never", "Failed") == (CRONJOB["spec"]["concurrencyPolicy"], POD["restartPolicy"], JOB["podReplacementPolicy"])
    assert tries <= 3
    token = outcomes.POST_SECONDS + refresh.PERSIST_SECONDS + refresh.SILENCE_SECONDS  # longer than the 20 s for COMMIT
    assert token + lease.RELEASE_SECONDS + 10 + 5 < grace == 75  # 10 s for on_failure, 5 s for ping_url
    assert tries * (longest + grace) < JOB["activeDeadlineSeconds"]
    assert CRONJOB["spec"]["startingDeadlineSeconds"] > 10  # the controller looks every 10 s: with less, no run would ever start


def test_the_command_line_is_one() -> None:
    """
    The arguments are those of a quiet run of the example's job, at its schedule, in a time zone that is named.
    """
    parse(CONTAINER["args"])
    jobs = yaml.safe_load((ROOT / "config.example.yaml").read_text())["jobs"]

    assert "run" == CONTAINER["args"][0]
    assert "-q" in CONTAINER["args"]
    assert jobs[option("--job")]["schedule"] == CRONJOB["spec"]["schedule"]
    assert "Etc/UTC" == CRONJOB["spec"]["timeZone"]
    assert f"usersync:{__version__}" == CONTAINER["image"]


def test_nobody_in_particular_who_can_write_nothing() -> None:
    """
    The pod runs as the image's user, without root, capabilities or a token, on a read-only root with an empty /tmp.
    """
    uid, gid = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    pod, container = POD["securityContext"], CONTAINER["securityContext"]

    assert (int(uid), int(gid), int(gid)) == (pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"])
    assert (True, {"type": "RuntimeDefault"}) == (pod["runAsNonRoot"], pod["seccompProfile"])
    assert {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } == container
    assert POD["automountServiceAccountToken"] is False
    assert "emptyDir" in volumes()["tmp"]
    assert "/tmp" == mounted()["tmp"]


def test_secrets_are_files_that_only_the_group_may_read() -> None:
    """
    Nothing secret is in the environment or in the ConfigMap; the files belong to the image's group.
    """
    assert {"env", "envFrom"} & set(CONTAINER) == set()
    assert {"secretName": MANIFESTS["Secret"]["metadata"]["name"], "defaultMode": 0o440} == volumes()["secrets"]["secret"]
    assert {"name": MANIFESTS["ConfigMap"]["metadata"]["name"]} == volumes()["config"]["configMap"]
    assert "postgresql://" not in MANIFESTS["ConfigMap"]["data"]["config.yaml"]
    assert all("CHANGE-ME" in value for value in MANIFESTS["Secret"]["stringData"].values())


def test_the_mounted_config_is_right(tmp_path: Path) -> None:
    """
    With the files of the Secret where the pod sees them, usersync reads the config of the ConfigMap in the image's environment: every
    secret is used, none is missing, and its job is the example's.
    """
    (text,) = MANIFESTS["ConfigMap"]["data"].values()
    environ = dict(pair.split("=", 1) for pair in re.findall(r"(USERSYNC_\w+=\S+)", DOCKERFILE))
    for name, value in MANIFESTS["Secret"]["stringData"].items():
        (tmp_path / name).write_text(value + "\n")
        assert f"{mounted()['secrets']}/{name}}}" in text
    (tmp_path / "config.yaml").write_text(text.replace(mounted()["secrets"], str(tmp_path)))
    settings = loader.load(tmp_path / "config.yaml", environ=environ)

    settings.check_environment(settings.job(option("--job")))
    assert MANIFESTS["Secret"]["stringData"]["database_url"] == settings.target_database().url
    assert [] == settings.unset()
    assert environ["USERSYNC_CONFIG"] == f"{mounted()['config']}/{next(iter(MANIFESTS['ConfigMap']['data']))}"
    example = (ROOT / "config.example.yaml").read_text().replace("${USERSYNC_USERS_TABLE:-users}", "users")
    assert yaml.safe_load(example)["jobs"] == yaml.safe_load(text)["jobs"]
