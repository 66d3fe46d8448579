"""`python -m benchmarks`: measure, print figures beside their limits, write them as JSON. docs/benchmarks.md explains.

A figure that misses its limit is printed as a miss; the exit status is 0 all the same, because times are not facts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import documents, identity, keycloak, parts, report, teamleader, whois, workos
from benchmarks.parts import Bench
from benchmarks.people import People
from benchmarks.report import Part
from benchmarks.server import Server, running

FEW = 10_000  # the small end of "memory does not grow with the rows"
RESULT = Path("build/benchmarks.json")
PARTS = (
    "first-load",
    "unchanged",
    "dry-run",
    "delete",
    "join",
    "memory",
    "small",
    "rejects",
    "documents",
    "documents-memory",
    "teamleader",
    "teamleader-memory",
    "keycloak",
    "keycloak-memory",
    "workos",
    "identity",
    "whois",
)
OF_DOCUMENTS = {"rejects", "documents", "documents-memory"}
ALONE = {
    "small",
    "teamleader",
    "teamleader-memory",
    "keycloak",
    "keycloak-memory",
    "workos",
    "whois",
    "identity",
    *OF_DOCUMENTS,
}  # bring their own records


def main() -> None:
    """The command line."""
    arguments = _arguments()
    figures = json.loads(arguments.render.read_text()) if arguments.render else _measure(arguments)
    if arguments.render and not arguments.markdown:
        print(report.markdown(figures))
    if arguments.markdown:
        report.write_docs(figures)
    if lacking := report.missed(figures):
        print("\nmissed:", *lacking, sep="\n  ")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="users in the sources (default 1000000)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that usersync and its peers take (default 5)")
    parser.add_argument(
        "--window",
        type=float,
        default=60.0,
        help="seconds that Teamleader's minute has here (default 60; 6 is enough to see that it works)",
    )
    parser.add_argument("--people", type=int, default=5000, help="staff in Fineract and Keycloak (default 5000; 500 take a minute)")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be repeated")
    parser.add_argument("--json", type=Path, default=RESULT, metavar="FILE", help=f"where the figures go (default {RESULT})")
    parser.add_argument(
        "--markdown", action="store_true", help="write these parts to docs/benchmarks.json and the table of docs/benchmarks.md too"
    )
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing: make the table of this file's figures")
    return parser.parse_args()


def _measure(arguments: argparse.Namespace) -> dict[str, object]:
    chosen = arguments.only or PARTS
    with running() as server:
        about = report.machine(server.version(), arguments.rows, arguments.rounds)
        print(*(f"{name}: {value}" for name, value in about.items()), sep=", ")
        found = []
        for name, part in _parts(server, arguments, chosen).items():
            if name in chosen:
                found.append(part())
                report.show(found[-1])
    figures = report.document(about, found)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nfigures: {arguments.json}")
    return figures


def _parts(server: Server, arguments: argparse.Namespace, chosen: tuple[str, ...]) -> Mapping[str, Callable[[], Part]]:
    rows, rounds = arguments.rows, arguments.rounds
    few, many = Bench(People(server, FEW)), Bench(People(server, rows))
    if set(chosen) - ALONE:
        many.prepare()
        print(f"{rows:,} users made; a profile has {many.people.profile_bytes():.0f} bytes")
    if "memory" in chosen and rows != FEW:
        few.prepare()
    lines, few_lines = documents.Documents(server, rows), documents.Documents(server, FEW)
    if set(chosen) & OF_DOCUMENTS:
        lines.prepare()
    if "documents-memory" in chosen and rows != FEW:
        few_lines.prepare()
    identified = identity.Identified(server, rows)
    if "identity" in chosen:
        identified.prepare()
    return {
        "identity": lambda: identity.identity(identified, rounds),
        "rejects": lambda: documents.rejects(lines, rounds),
        "documents": lambda: documents.unchanged(lines, rounds),
        "documents-memory": lambda: documents.memory(few_lines, lines),
        "first-load": lambda: parts.first_load(many, rounds),
        "unchanged": lambda: parts.unchanged(many, rounds),
        "dry-run": lambda: parts.dry_run(many, rounds),
        "delete": lambda: parts.delete(many, rounds),
        "join": lambda: parts.join(many, rounds),
        "memory": lambda: parts.memory(few, many),
        "teamleader": lambda: teamleader.teamleader(server, arguments.window),
        "teamleader-memory": lambda: teamleader.memory(server),
        "keycloak": lambda: keycloak.keycloak(server, arguments.people, rounds),
        "keycloak-memory": lambda: keycloak.memory(server, arguments.people),
        "workos": lambda: workos.workos(server, rounds),
        "whois": lambda: whois.part(server),
        "small": lambda: parts.small(server),
    }


if __name__ == "__main__":
    main()
