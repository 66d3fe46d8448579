"""The JSON Schema of the config file, for editors: pydantic's, plus what the file takes before pydantic sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from usersync_cli.settings import DURATION_SCHEMA

_NAME = "^[a-z][a-z0-9_-]{0,62}$"
_EXTRACT_NAME = "^(?!pg_|usersync_)[a-z_][a-z0-9_]{0,62}$"
_VARIABLE = {"type": "string", "pattern": r"\$\{"}
_FILE = {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"], "additionalProperties": False}


def schema(file: type[BaseModel], sources: Mapping[str, type[BaseModel]], targets: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The schema of a file with these sources and targets: one Settings for each type."""
    document = file.model_json_schema()
    definitions = document["$defs"]
    for what, models in (("source", sources), ("target", targets)):
        known = [_defined(definitions, what, type_, model) for type_, model in models.items()]
        document["properties"][f"{what}s"] |= {"propertyNames": {"pattern": _NAME}, "additionalProperties": {"anyOf": known}}
    document["properties"]["jobs"] |= {"propertyNames": {"pattern": _NAME}, "minProperties": 1}
    _as_written(definitions)
    loose: dict[str, Any] = _loosened(_untitled(document))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "usersync's config file", **loose}


def _defined(definitions: dict[str, Any], what: str, type_: str, model: type[BaseModel]) -> dict[str, str]:
    own = model.model_json_schema(ref_template=f"#/$defs/{type_}_{{model}}")
    definitions.update({f"{type_}_{name}": inner for name, inner in own.pop("$defs", {}).items()})
    definitions[f"{what}_{type_}"] = own
    return {"$ref": f"#/$defs/{what}_{type_}"}


def _as_written(definitions: dict[str, Any]) -> None:
    """The forms that are normalised before the models are built."""
    job, step, load = definitions["Job"], definitions["Step"], definitions["Load"]
    del job["properties"]["name"]  # the key is the name
    job["required"].remove("name")
    for name in ("lease", "max_runtime", "max_wait"):
        job["properties"][name] = DURATION_SCHEMA
    job["properties"]["steps"]["minItems"] = 1
    extract = {"$ref": "#/$defs/Extract"}
    named = {"type": "object", "minProperties": 1, "propertyNames": {"pattern": _EXTRACT_NAME}, "additionalProperties": extract}
    step["properties"]["extract"] = {"anyOf": [extract, named]}
    step["properties"]["transform"]["anyOf"].append(_FILE)
    own = step["properties"]["identity"]
    step["properties"]["identity"] = {"anyOf": [own["items"], {**own, "minItems": 1}]}
    load["properties"]["key"] |= {"minItems": 1, "uniqueItems": True}


def _untitled(node: Any, *, names: bool = False) -> Any:
    """A schema without the titles that pydantic makes out of names. `names`: the keys are names of the file, not of JSON Schema."""
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if names or key != "title"}
        return {key: _untitled(value, names=key in ("properties", "$defs") and not names) for key, value in kept.items()}
    return [_untitled(item) for item in node] if isinstance(node, list) else node


def _loosened(node: Any) -> Any:
    """Wherever a number, a boolean or a choice is wanted, `${...}` may stand for it; only the type of a source is written out."""
    if isinstance(node, list):
        return [_loosened(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in ("integer", "number", "boolean") or "enum" in node or ("const" in node and node["const"] == "keep"):
        kept = {key: node[key] for key in ("default", "description") if key in node}
        return {**kept, "anyOf": [{key: value for key, value in node.items() if key not in kept}, _VARIABLE]}
    return {key: _loosened(value) for key, value in node.items()}
