"""Every mistake in a config file: the exact message, and never a secret in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usersync_cli.config import loader
from usersync_cli.errors import ConfigError

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "samples" / "config"
BROKEN = sorted(SAMPLES.glob("*.yaml"))
CANARY = "canary-7Qx!9z"


def message(file: Path, environ: dict[str, str] | None = None) -> str:
    """What a user sees when a file is loaded and each of its jobs asked for; empty when all is well."""
    try:
        loaded = loader.load(file, environ or {})
        for job in loaded.jobs:
            loaded.check_environment(loaded.job(job))
    except ConfigError as error:
        return f"{error.message}\n{error.hint}"
    return ""


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_each_mistake_has_its_message(file: Path) -> None:
    """
    A broken file NAME.yaml is refused with what NAME.txt says, word by word.
    """
    with pytest.raises(ConfigError) as caught:
        loader.load(file, {})

    assert file.with_suffix(".txt").read_text() == caught.value.message.replace(str(file), file.name) + "\n"
    assert 2 == caught.value.status


def test_each_sample_has_its_pair() -> None:
    """
    No expected message without its file.
    """
    assert {file.stem for file in SAMPLES.glob("*.txt")} == {file.stem for file in BROKEN}


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_written_out_passwords_are_not_shown(file: Path) -> None:
    """
    What a URL, an alias or a slipped line holds does not come back in the message.
    """
    assert "Secret" not in message(file)


def scalars(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each value (not key) of a YAML text begins and ends, and what it is."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, OverflowError, ValueError, RecursionError):
        return
    todo = [root] if root else []
    seen = set()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node.start_mark.index, node.end_mark.index, node.value
        elif isinstance(node, yaml.SequenceNode):
            todo.extend(node.value)
        else:
            todo.extend(value for _, value in node.value)


def replaced(text: str, by: str) -> Iterator[str]:
    for start, end, _ in scalars(text):
        yield text[:start] + f' "{by}"' + ("\n" if text[start:end].endswith("\n") else "") + text[end:]


@pytest.mark.parametrize("file", [*BROKEN, ROOT / "config.example.yaml"], ids=lambda file: file.stem)
def test_a_variable_is_never_shown(file: Path, tmp_path: Path) -> None:
    """
    Wherever a variable stands, in files that are right or wrong, what it holds is in no message; nor is a stand-in for one not set.
    """
    copy = tmp_path / "config.yaml"
    for expression in ("${CANARY}", f"${{UNSET:-{CANARY}}}", "${file:canary}", "${NOT_SET}"):
        (tmp_path / "canary").write_text(CANARY + "\n")
        for text in replaced(file.read_text(), expression):
            copy.write_text(text)
            shown = message(copy, {"CANARY": CANARY})
            assert CANARY not in shown
            assert "usersync_unset_" not in shown


def test_a_written_value_is_never_shown(tmp_path: Path) -> None:
    """
    A secret that is written out, at any place but the names of sources and their types, is in no message.
    """
    copy = tmp_path / "config.yaml"
    text = (ROOT / "config.example.yaml").read_text()
    for changed, (_, _, value) in zip(replaced(text, CANARY), scalars(text), strict=True):
        copy.write_text(changed)
        if value not in ("av_accounts", "av_profile", "postgres"):
            assert CANARY not in message(copy)


WORDS = ("target", "sources", "jobs", "steps", "extract", "load", "key", "embedded", "${X}", "null", "0123", "true")
SIGNS = (
    ": ",
    ":",
    "\n",
    "\n  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "&a ",
    "*a",
    "<<",
    "!x ",
    "${",
    "'",
    '"',
    "|",
    ">",
    "#",
    "%",
    "\t",
    "---\n",
    "? ",
    "\\",
)
TOKENS = st.sampled_from((*WORDS, *SIGNS, "\0", "é", "\ud800"))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.binary(max_size=60), st.text(max_size=60), st.lists(TOKENS, max_size=25).map("".join)))
def test_no_text_is_a_traceback(text: str | bytes, tmp_path: Path) -> None:
    """
    Whatever stands in the file, load gives a Config or a ConfigError.
    """
    file = tmp_path / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))

    message(file)


NAMES = st.text(max_size=5) | st.sampled_from(["file", "source", "table", "query"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["${X}", "people", "postgres", "60s", "keep", "embedded"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 40), value=VALUES)
def test_no_value_at_any_place_is_a_traceback(place: int, value: object, tmp_path: Path) -> None:
    """
    A file that is right, with anything at one of its places.
    """
    tree = yaml.safe_load((ROOT / "config.example.yaml").read_text())
    places: list[tuple[object, object]] = []
    todo: list[object] = [tree]
    while todo:
        node = todo.pop()
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in children:
            places.append((node, key))
            todo.append(child)
    container, key = places[place % len(places)]
    container[key] = value  # type: ignore[index]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=False))

    message(file)
