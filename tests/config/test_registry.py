"""Which sources and targets there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from usersync_cli import sources, targets
from usersync_cli.config.registry import export_shapes, source_port, source_types, tabular_port, target_port, target_types
from usersync_cli.sources import DocumentPort, TabularPort
from usersync_cli.targets import TargetPort


def test_each_file_or_folder_is_a_type() -> None:
    """
    What is in sources/ and targets/ is found by its name, and has a PORT of its kind.
    """
    assert ["file", "fineract", "klanten", "postgres", "teamleader", "workos"] == source_types()
    assert ["keycloak", "klanten"] == target_types()
    documents = dict.fromkeys(("file", "fineract", "klanten", "teamleader", "workos"), DocumentPort)
    assert {"postgres": TabularPort, **documents} == {name: type(source_port(name)) for name in source_types()}
    assert isinstance(target_port("keycloak"), TargetPort)


@pytest.mark.parametrize("text", ["PORT = 1", ""])
def test_a_file_without_a_port_is_no_source_or_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """
    A PORT of another kind, or none, is an error that says so: never a source that can do nothing.
    """
    name = f"odd{len(text)}"
    (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "_private.py").write_text("")
    monkeypatch.setattr(sources, "__path__", [str(tmp_path)])
    monkeypatch.setattr(targets, "__path__", [str(tmp_path)])

    assert [name] == source_types() == target_types()
    with pytest.raises((TypeError, AttributeError), match="PORT"):
        source_port(name)
    with pytest.raises((TypeError, AttributeError), match="PORT"):
        target_port(name)


def test_a_source_without_tables_is_no_tabular_one() -> None:
    """
    Whoever needs a database is not handed something else.
    """
    assert tabular_port("postgres") is source_port("postgres")
    with pytest.raises(TypeError, match="source teamleader has no tables"):
        tabular_port("teamleader")


def test_each_stream_with_columns_of_its_own_is_brought_by_one_source() -> None:
    """
    `usersync export STREAM` means one thing: no two sources bring the same name, and each brings streams that it has.
    """
    ports = [port for port in map(source_port, source_types()) if isinstance(port, DocumentPort)]
    shapes = [(shape.stream, port) for port in ports for shape in port.exports]

    assert [*export_shapes()] == [name for name, _ in shapes] == ["contacts"]
    assert all(name in port.streams({}) for name, port in shapes)
