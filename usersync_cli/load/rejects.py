"""Why a record can't be loaded, and how many such records a run may have. `state.rejects` is where they wait."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import psycopg
from psycopg import errors

from usersync_cli.errors import Drift
from usersync_cli.state.rejects import Reject

NO_KEY = "no_key"
NOT_JSON = "not_json"
NOT_AN_OBJECT = "not_an_object"
UNTRANSLATABLE = "untranslatable_character"  # as PostgreSQL calls what an encoding does not have
# Of a run's records: more than both of these, or half of them from the third on, and it is not the records that are wrong.
FEW = 50
SHARE = 0.01
HALF_FROM = 3
SAMPLE = 20  # fewer say nothing of a source, unless they are all that it has
DATA_CLASSES = ("22", "23", "21")  # SQLSTATEs that speak of a record; all others of the server, or of the SQL
TOO_BIG = ("54000", "54001")  # and these: a value that no index or no jsonb holds, a document that is nested too deep
BAD = "data_exception OR integrity_constraint_violation OR cardinality_violation OR program_limit_exceeded"  # the same in PL/pgSQL


class Limits:
    """The limit on bad records in one run of a step, checked as they come. Records that were set aside before do not count."""

    def __init__(self, step: str, *, expected: int = 0, job: str = "") -> None:
        """`expected` is about how many records will come, where that is known before."""
        self.records = 0
        self.rejected: Counter[tuple[str, str]] = Counter()
        self._step, self._expected, self._job = step, expected, job

    def add(self, records: int, rejects: Iterable[Reject] = ()) -> None:
        """Count so many more records, and the rejects among them. Raises Drift when these are too many."""
        self.count(records, Counter((one.reason, one.detail) for one in rejects))

    def count(self, records: int, reasons: Mapping[tuple[str, str], int], *, whole: bool = True) -> None:
        """Count so many more records, with the rejects as numbers by reason and detail. Without `whole`, more records may come."""
        self.records += records
        self.rejected.update(reasons)
        bad, of = self.rejected.total(), self.records
        are_most = bad >= HALF_FROM and bad * 2 >= of and (whole or of >= SAMPLE)
        if bad <= allowed(max(of, self._expected)) and not are_most:
            return
        (reason_, detail), most = self.rejected.most_common(1)[0]
        named = f"{reason_} ({detail})" if detail else reason_
        of_job = f" --job {self._job}" if self._job else ""
        raise Drift(
            f"at least {bad:,} of {of:,} records of step {self._step} can't be loaded, most of them ({most:,}) because of {named};"
            " the step stopped, and its cursor stays",
            hint="this many are not set aside: has the source, the transform or the target table changed? Fix it and run again.\n"
            f"Records that were set aside before don't count: `usersync rejects list{of_job}` shows them,"
            f" `usersync rejects retry --all{of_job}` tries them again, `usersync rejects drop ID` leaves one out",
        )


def allowed(records: int) -> int:
    """How many rejects so many records may have at most (half of them stops a step sooner)."""
    return max(FEW, int(records * SHARE))


def is_about_data(error: psycopg.Error) -> bool:
    """Whether a record may be to blame: SQLSTATE class 22, 23 or 21, or what is too big. All others are the server's, or the SQL's."""
    state = error.sqlstate or ""
    return state[:2] in DATA_CLASSES or state in TOO_BIG


def reason(error: psycopg.Error) -> tuple[str, str]:
    """Code and detail of a reject: PostgreSQL's name of the condition, and the names of column, constraint and table."""
    diag = error.diag
    return condition(error.sqlstate or ""), detail(diag.column_name, diag.constraint_name, diag.table_name)


def condition(sqlstate: str) -> str:
    """The condition's name in PostgreSQL's manual, appendix A: 23502 is not_null_violation."""
    classes = {"22": "data_exception", "23": "integrity_constraint_violation", "21": "cardinality_violation"}
    try:
        name = errors.lookup(sqlstate).__name__
    except KeyError:
        return classes.get(sqlstate[:2], f"sqlstate_{sqlstate}")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def detail(column: str | None = None, constraint: str | None = None, table: str | None = None) -> str:
    """`column email, table people`: whatever is known of where."""
    parts = [("column", column), ("constraint", constraint), ("table", table)]
    return ", ".join(f"{kind} {name}" for kind, name in parts if name)
