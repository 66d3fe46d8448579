"""Which sources and targets there are: a file or folder for each in `sources/` and `targets/`, found by name, imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from usersync_cli import sources, targets
from usersync_cli.shapes import ExportShape
from usersync_cli.sources import DocumentPort, Port, TabularPort
from usersync_cli.targets import TargetPort


def source_types() -> list[str]:
    """The types of source that the config file can speak of."""
    return _names(sources.__path__)


def source_port(type_: str) -> Port:
    """What a type of source is made of."""
    port = import_module(f"{sources.__name__}.{type_}").PORT
    if not isinstance(port, (TabularPort, DocumentPort)):
        raise TypeError(f"PORT of source {type_} is neither a TabularPort nor a DocumentPort")
    return port


def tabular_port(type_: str) -> TabularPort[Any]:
    """What a type of source is made of that is known to have tables."""
    port = source_port(type_)
    if not isinstance(port, TabularPort):
        raise TypeError(f"source {type_} has no tables")
    return port


def target_types() -> list[str]:
    """The types of target outside Postgres that the config file can speak of."""
    return _names(targets.__path__)


def target_port(type_: str) -> TargetPort[Any]:
    """What a type of target is made of."""
    port = import_module(f"{targets.__name__}.{type_}").PORT
    if not isinstance(port, TargetPort):
        raise TypeError(f"PORT of target {type_} is no TargetPort")
    return port


def export_shapes() -> Mapping[str, ExportShape]:
    """What `usersync export` writes in columns of their own, by stream, whether the config file has such a source or not."""
    ports = map(source_port, source_types())
    return {shape.stream: shape for port in ports if isinstance(port, DocumentPort) for shape in port.exports}


def _names(path: list[str]) -> list[str]:
    return sorted(module.name for module in iter_modules(path) if not module.name.startswith("_"))
