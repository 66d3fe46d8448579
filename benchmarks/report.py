"""Figures beside their limits: on the terminal, as JSON, and as the table of docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import Run, Runs, megabytes, seconds

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- figures: written by python -m benchmarks --markdown -->", "<!-- /figures -->"


@dataclass(frozen=True)
class Figure:
    """One number; with a limit it is a promise, without for information."""

    what: str
    value: float
    unit: str  # x, s CPU, MB, rows, bytes, requests
    limit: float | None = None
    ours: str = ""
    beside: str = ""
    spread: Sequence[float] = ()  # of the single rounds

    @property
    def met(self) -> bool | None:
        return None if self.limit is None else self.value <= self.limit


@dataclass(frozen=True)
class Part:
    """What one benchmark found."""

    title: str
    figures: Sequence[Figure]
    runs: Runs = field(default_factory=dict)


def ratio(what: str, ours: Sequence[Run], theirs: Sequence[Run], beside: str, limit: float | None = None) -> Figure:
    """Median against median; the spread is that of the rounds, each against its neighbour."""
    rounds = [one.seconds / other.seconds for one, other in zip(ours, theirs, strict=True)]
    mine, peer = seconds(ours), seconds(theirs)
    return Figure(what, mine / peer, "x", limit, f"{mine:.2f} s", f"{beside}: {peer:.2f} s", (min(rounds), max(rounds)))


def show(part: Part) -> None:
    """As soon as it is measured."""
    print(f"\n{part.title}", flush=True)
    for name, runs in part.runs.items():
        print(f"  {name:50} {_used(runs)}")
    for figure in part.figures:
        print(f"  => {figure.what}: {_value(figure)}{_spread(figure)}{_against(figure)}", flush=True)


def machine(postgresql: str, rows: int, rounds: int) -> dict[str, Any]:
    """Where and when, and nothing that tells whose machine it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "memory_gb": round(memory),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "postgresql": postgresql,
        "rows": rows,
        "rounds": rounds,
        "load_before": round(os.getloadavg()[0], 2),
    }


def document(about: dict[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
    """All of it, for a program to read."""
    return {
        "version": 1,
        "machine": about,
        "figures": [{**asdict(figure), "met": figure.met, "part": part.title} for part in parts for figure in part.figures],
        "runs": [
            {"part": part.title, "command": name, "rounds": [_without_output(run) for run in runs]}
            for part in parts
            for name, runs in part.runs.items()
        ],
    }


def write_docs(measured: dict[str, Any]) -> None:
    """The figures, and the table made of them, to docs/. Parts that were not measured now stay as they are, with their date."""
    figures = _beside_what_is_there(measured)
    (DOCS / "benchmarks.json").write_text(json.dumps(figures, indent=1) + "\n")
    page = DOCS / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{markdown(figures)}\n{END}{after}")


def _beside_what_is_there(measured: dict[str, Any]) -> dict[str, Any]:
    before = json.loads((DOCS / "benchmarks.json").read_text())
    parts = {entry["part"] for entry in measured["figures"]}
    kept = {
        kind: [{"date": before["machine"]["date"], **entry} for entry in before[kind] if entry["part"] not in parts]
        for kind in ("figures", "runs")
    }
    return {**measured, **{kind: [*kept[kind], *measured[kind]] for kind in kept}}


def markdown(figures: dict[str, Any]) -> str:
    """The table of the docs."""
    lines = [
        "{rows:,} users, {rounds} rounds, {date}: {cpus} cores, {memory_gb} GB ({system}, {architecture}),".format(**figures["machine"]),
        "PostgreSQL {postgresql}, Python {python}; load before it began: {load_before}.".format(**figures["machine"]),
        "Another date stands with what was measured then.",
        "",
        "| | usersync | beside it | figure | rounds | limit | |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in figures["figures"]:
        figure = Figure(**{name: entry[name] for name in Figure.__dataclass_fields__})
        limit = "" if figure.limit is None else _number(figure.limit, figure.unit)
        met = {None: "for information", True: "met", False: "**missed**"}[figure.met]
        rounds = " to ".join(f"{value:.2f}" for value in figure.spread)
        date = entry.get("date", figures["machine"]["date"])
        what = figure.what if date == figures["machine"]["date"] else f"{figure.what} ({date})"
        lines.append(f"| {what} | {figure.ours} | {figure.beside} | {_value(figure)} | {rounds} | {limit} | {met} |")
    return "\n".join(lines)


def missed(figures: dict[str, Any]) -> list[str]:
    return [entry["what"] for entry in figures["figures"] if entry["met"] is False]


def _used(runs: Sequence[Run]) -> str:
    middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
    server = "" if middle.server_cpu is None else f"  server {middle.server_cpu:5.2f} s CPU"
    client = f"client {middle.cpu:5.2f} s CPU{server}  {megabytes(runs):5.1f} MB  WAL {middle.wal / 1e6:6.1f} MB"
    return f"{seconds(runs):6.2f} s  {client}   ({' '.join(f'{run.seconds:.2f}' for run in runs)})"


def _value(figure: Figure) -> str:
    return _number(figure.value, figure.unit)


def _number(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if unit in {"rows", "bytes", "requests"} else f"{value:.2f}" if unit in {"x", "s CPU"} else f"{value:.1f}"
    return f"{number} {unit}"


def _spread(figure: Figure) -> str:
    return f" (rounds {figure.spread[0]:.2f} to {figure.spread[1]:.2f})" if figure.spread else ""


def _against(figure: Figure) -> str:
    if figure.limit is None:
        return f"   {figure.beside}, for information".replace("   , ", "   ")
    return f"   limit {_number(figure.limit, figure.unit)}: {'met' if figure.met else 'MISSED'}"


def _without_output(run: Run) -> dict[str, Any]:
    return {name: value for name, value in asdict(run).items() if name != "stdout"}
