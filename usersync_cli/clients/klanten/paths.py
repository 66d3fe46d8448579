"""What fits into the paths of Klanten's API."""

from __future__ import annotations


def misfit(id_: str) -> str:
    """Why an id can't be part of Klanten's path, or would be another one there; empty for one that fits."""
    if not id_:
        return "it is empty"
    if "/" in id_:
        return "it has a / in it, and Klanten takes ids as a part of a path"
    if id_ in {".", ".."}:
        return "in a path it means another place"
    if id_ != id_.strip():
        return "it begins or ends with white space, which forms lose"
    if not id_.isprintable():
        return "it has a character in it that can't be printed"
    return ""
