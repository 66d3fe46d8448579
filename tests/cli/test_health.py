"""`usersync health`: the judge of what `status` reports."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.cli.ledgers import Ledger
from tests.conftest import Command
from tests.servers import free_port
from usersync_cli.cli.health import judge
from usersync_cli.model import Database
from usersync_cli.report.status import JobStatus
from usersync_cli.shapes import LogPlace
from usersync_cli.state.ledger import Run


@pytest.fixture
def ledger(usersync: Command, database: Database) -> Ledger:
    return Ledger(usersync, database)


def test_well(ledger: Ledger) -> None:
    """
    A good run a moment ago: 0, one line.
    """
    ledger.ran(0, ago="90 s")
    result = ledger.command("health")

    assert (0, "members: ok, last good run 90 s ago\n", "") == (result.status, result.stdout.replace("91 s", "90 s"), result.stderr)


@pytest.mark.parametrize(
    ("exit_status", "expected"),
    [(1, 1), (2, 2), (3, 3), (4, 4), (7, 7), (8, 8), (76, 76), (143, 4), (None, 4)],
)
def test_the_last_run_failed(ledger: Ledger, exit_status: int | None, expected: int) -> None:
    """
    Health's exit status is the last run's; 4 for one that crashed or was stopped.
    """
    ledger.ran(0, ago="5 min")
    ledger.ran(exit_status, ago="1 min", error="what happened", hint="what to do\nand then")
    result = ledger.command("health")

    assert expected == result.status
    assert 1 == result.stdout.count("\n")
    assert "1 run: " in result.stdout
    if exit_status is not None:
        assert result.stdout.endswith("what happened; what to do; and then\n")


def test_never_ran(ledger: Ledger) -> None:
    """
    A scheduled job without a run: 4, and how to start it.
    """
    result = ledger.command("health")

    assert 4 == result.status
    assert result.stdout.startswith("members: never ran; usersync run --job members")


def test_the_first_run_is_under_way(ledger: Ledger) -> None:
    """
    A first run that has not ended is nothing to wake somebody for.
    """
    ledger.ran(None)
    ledger.hold()

    assert (0, "members: ok, running for the first time\n") == (ledger.command("health").status, ledger.command("health").stdout)


def test_a_run_under_way_does_not_hide_the_failure_before_it(ledger: Ledger) -> None:
    """
    While the next run is under way, the last one that ended counts.
    """
    ledger.ran(7, ago="10 min", error="what happened")
    ledger.ran(None)
    ledger.hold()

    assert 7 == ledger.command("health").status


def test_overdue(ledger: Ledger) -> None:
    """
    No run for a day with a schedule of ten minutes: 4.
    """
    ledger.ran(0, ago="1 day")
    result = ledger.command("health")

    assert 4 == result.status
    assert "members: overdue: " in result.stdout
    assert "usersync check --job members" in result.stdout


def test_the_worst_of_several_jobs(ledger: Ledger) -> None:
    """
    Only scheduled jobs count, a line for each that is unwell, and the worst decides; `--job` asks for any one.
    """
    ledger.write({"fine": "0 * * * *", "away": "0 * * * *", "drifted": "0 * * * *", "by_hand": None})
    for job, exit_status in (("fine", 0), ("away", 4), ("drifted", 7), ("by_hand", 1), ("former", 1)):
        ledger.ran(exit_status, job=job)
    result = ledger.command("health")
    _, document = ledger.document("health")

    assert 7 == result.status
    assert ["away", "drifted"] == [line.partition(":")[0] for line in result.stdout.splitlines()]
    assert (7, ["fine", "away", "drifted"]) == (document["exit_status"], [job["job"] for job in document["jobs"]])
    assert [0, 1] == [ledger.command("health", "--job", job).status for job in ("fine", "by_hand")]


def test_nothing_to_judge(ledger: Ledger) -> None:
    """
    Without any schedule nobody is called well: 2.
    """
    ledger.write({"by_hand": None})
    result = ledger.command("health")

    assert (2, "") == (result.status, result.stdout)
    assert "no job has a schedule" in result.stderr


def test_an_unreachable_target(ledger: Ledger) -> None:
    """
    Nobody answers: 4.
    """
    ledger.write({"members": "0 * * * *"}, target=f"postgresql://nobody@127.0.0.1:{free_port()}/x")

    assert 4 == ledger.command("health").status


BEGAN = datetime(2026, 3, 1, 3, 0, 2, tzinfo=UTC)


def good(took: timedelta) -> Run:
    return Run(1, "members", "ok", 0, 1, "", BEGAN, BEGAN + took, "0.1.0", full=False, summary=None, error=None, error_hint=None)


@pytest.mark.parametrize(
    ("schedule", "took", "passed", "expected"),
    [
        ("0 3 * * *", "0:01:00", "2 days 23:59:00", 0),
        ("0 3 * * *", "0:01:00", "3 days 00:02:00", 4),
        ("*/10 * * * *", "0:00:05", "0:29:50", 0),
        ("*/10 * * * *", "0:00:05", "0:30:10", 4),
        # As long as two and a half starts: the next one begins at 30 minutes and ends at 55.
        ("*/10 * * * *", "0:25:00", "0:56:00", 0),
        ("*/10 * * * *", "0:25:00", "1:20:00", 4),
        # Weekly, on Sundays.
        ("0 3 * * sun", "0:01:00", "20 days 23:00:00", 0),
        ("0 3 * * sun", "0:01:00", "21 days 01:00:00", 4),
    ],
)
def test_when_a_job_is_overdue(schedule: str, took: str, passed: str, expected: int) -> None:
    """
    Once three scheduled starts have passed, the usual length of a run not counted on either side.
    """
    run = good(interval(took))
    job = JobStatus("members", configured=True, schedule=schedule, holder=None, runs=[run], good=run, cursors=[], approvals=[])

    assert expected == judge(job, BEGAN + interval(passed)).status


def following(*after: int | None, polled: str = "0:00:00", schedule: str | None = "*/10 * * * *") -> JobStatus:
    """A job that follows a log of changes: a good run, runs since then by exit status, and the last poll, so long after it began."""
    run = good(timedelta(seconds=5))
    later = [
        replace(run, id=n, status="failed", exit_status=status, started_at=BEGAN + timedelta(minutes=n), error="WorkOS was away")
        for n, status in enumerate(after, 2)
    ]
    log = LogPlace(BEGAN - timedelta(days=3), BEGAN + interval(polled), timedelta(days=30))
    return JobStatus(
        "workos", configured=True, schedule=schedule, holder=None, runs=[*reversed(later), run], good=run, cursors=[], approvals=[], log=log
    )


@pytest.mark.parametrize("exit_status", [4, 75, 76, 143, None])
def test_a_log_is_judged_by_its_last_poll(exit_status: int | None) -> None:
    """
    What a later run puts right counts once the last good poll is overdue, and not before; it is mentioned all the same.
    """
    job = following(exit_status)
    well, late = judge(job, BEGAN + timedelta(minutes=15)), judge(job, BEGAN + timedelta(minutes=31))

    assert (0, True) == (well.status, "last good run 15 min ago; 1 run since then did not get through" in well.what)
    assert (True, True) == (bool(late.status), "1 run: " in late.what)
    assert judge(replace(job, log=None), BEGAN + timedelta(minutes=15)).status


@pytest.mark.parametrize("exit_status", [1, 2, 3, 5, 6, 7, 8])
def test_a_recent_poll_hides_nothing_that_a_person_must_solve(exit_status: int) -> None:
    """
    Also where a run after it could not reach the source.
    """
    at = BEGAN + timedelta(minutes=15)

    assert exit_status == judge(following(exit_status), at).status
    assert 4 == judge(following(exit_status, 4), at).status


def test_good_runs_that_ask_for_no_changes() -> None:
    """
    A poll that is overdue is reported although the runs since then were good.
    """
    found = judge(following(polled="-1 days 00:00:00"), BEGAN + timedelta(minutes=1))

    assert 4 == found.status
    assert found.what.startswith("overdue: the last good poll was ")


def test_changes_that_the_source_soon_forgets() -> None:
    """
    Half of the time that the source keeps changes is a limit for every job, also for one without a schedule.
    """
    job = following(schedule=None)

    assert [0, 4] == [judge(job, BEGAN + timedelta(days=days)).status for days in (14, 16)]
    assert "keeps them for 30 days only" in judge(job, BEGAN + timedelta(days=16)).what


def interval(text: str) -> timedelta:
    days, _, time = text.rpartition(" days ")
    hours, minutes, seconds = map(int, time.split(":"))
    return timedelta(days=int(days or 0), hours=hours, minutes=minutes, seconds=seconds)
