"""What a table's own triggers and rules take away again is never reported as written: exit 8, and nothing is committed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from tests.conftest import Command, NewDatabase
from tests.simple_job import Job

BEFORE = "(1, 'Test User One'), (2, 'Test User Two'), (3, 'Test User Three')"
TABLE = "CREATE TABLE people (id int PRIMARY KEY, name text, deleted_at timestamptz); CREATE TABLE other (LIKE people);"
PARTS = (
    "CREATE TABLE people (id int PRIMARY KEY, name text, deleted_at timestamptz) PARTITION BY HASH (id); CREATE TABLE other (LIKE people);"
    "CREATE TABLE people_0 PARTITION OF people FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
)


def trigger(when: str, body: str, *, on: str = "people", more: str = "") -> str:
    kind = "CONSTRAINT TRIGGER" if "DEFERRABLE" in more else "TRIGGER"
    each = "STATEMENT" if "STATEMENT" in more else "ROW"
    return (
        f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
        f"CREATE {kind} meddle {when} ON {on} {more if 'DEFERRABLE' in more else ''} FOR EACH {each} EXECUTE FUNCTION meddle();"
    )


# What is written: 4 is new, 2 has another name.
WRITING = {
    "deletes what came": TABLE + trigger("AFTER INSERT", "DELETE FROM people WHERE id = NEW.id; RETURN NULL;"),
    "deletes it at the end": TABLE
    + trigger("AFTER INSERT", "DELETE FROM people WHERE id = NEW.id; RETURN NULL;", more="DEFERRABLE INITIALLY DEFERRED"),
    "deletes it after the statement": TABLE + trigger("AFTER INSERT", "DELETE FROM people WHERE id = 4; RETURN NULL;", more="STATEMENT"),
    "leaves it out": TABLE + trigger("BEFORE INSERT", "RETURN NULL;"),
    "moves it": TABLE + trigger("BEFORE INSERT", "INSERT INTO other VALUES (NEW.*); RETURN NULL;"),
    "moves it afterwards": TABLE
    + trigger("AFTER INSERT", "INSERT INTO other VALUES (NEW.*); DELETE FROM people WHERE id = NEW.id; RETURN NULL;"),
    "gives it another key": TABLE + trigger("BEFORE INSERT", "NEW.id := NEW.id + 1000; RETURN NEW;"),
    "puts it elsewhere": TABLE + "CREATE RULE meddle AS ON INSERT TO people DO INSTEAD INSERT INTO other VALUES (NEW.*);",
    "does nothing": TABLE + "CREATE RULE meddle AS ON INSERT TO people DO INSTEAD NOTHING;",
    "updates another table": TABLE + "CREATE RULE meddle AS ON UPDATE TO people DO INSTEAD UPDATE other SET name = NEW.name;",
    "deletes what changed": TABLE + trigger("AFTER UPDATE", "DELETE FROM people WHERE id = NEW.id; RETURN NULL;"),
    "takes somebody else": TABLE + trigger("AFTER INSERT", "DELETE FROM people WHERE id = 1; RETURN NULL;"),
    "of a partition": PARTS + trigger("AFTER INSERT", "DELETE FROM people WHERE id = NEW.id; RETURN NULL;", on="people_0"),
    "of a partition, somebody else": PARTS + trigger("AFTER UPDATE", "DELETE FROM people_0 WHERE id = 3; RETURN NULL;", on="people_0"),
    "keeps the mark": TABLE + trigger("BEFORE UPDATE", "NEW.deleted_at := OLD.deleted_at; RETURN NEW;"),
}  # fmt: skip
# What is removed: 3 has left.
LEAVING = {
    "deleted, and back": ("delete", TABLE + trigger("AFTER DELETE", "INSERT INTO people VALUES (OLD.*); RETURN NULL;")),
    "deleted, and kept": ("delete", TABLE + trigger("BEFORE DELETE", "RETURN NULL;")),
    "deleted by a rule that does not": ("delete", TABLE + "CREATE RULE meddle AS ON DELETE TO people DO INSTEAD NOTHING;"),
    "deleted, and others": ("delete", TABLE + trigger("AFTER DELETE", "DELETE FROM people WHERE id = 1; RETURN NULL;")),
    "marked, and not": ("mark", TABLE + trigger("BEFORE UPDATE", "NEW.deleted_at := NULL; RETURN NEW;")),
    "marked, and not afterwards": (
        "mark",
        TABLE + trigger("AFTER UPDATE", "UPDATE people SET deleted_at = NULL WHERE id = NEW.id AND deleted_at IS NOT NULL; RETURN NULL;"),
    ),
    "marked, and others deleted": ("mark", TABLE + trigger("AFTER UPDATE", "DELETE FROM people WHERE id = 1; RETURN NULL;")),
}


def either(every: Iterable[str], *documents: str) -> list[tuple[bool, str]]:
    """All of them for a table, and some for documents, which are written by the same statements."""
    return [*((False, how) for how in every), *((True, how) for how in documents)]


class Two:
    """The same three people as a table and as documents."""

    def __init__(self, job: Job, *, documents: bool) -> None:
        self.job, self.documents = job, documents

    def write(self, people: dict[int, str], on_missing: str) -> None:
        load = {"create": False, "on_missing": on_missing}
        if not self.documents:
            self.job.at_source("DELETE FROM people_at_source")
            self.job.at_source(f"INSERT INTO people_at_source VALUES {', '.join(str(one) for one in people.items())}")
            self.job.write(load=load)
            return
        lines = [json.dumps({"id": id_, "name": name}) + "\n" for id_, name in people.items()]
        (self.job.usersync.folder / "people.jsonl").write_text("".join(lines))
        self.job.write(load=load)
        (step,) = self.job.document["jobs"]["copy"]["steps"]
        self.job.document["sources"] = {"crm": {"type": "file", "streams": {"people": {"path": "people.jsonl", "key": "id"}}}}
        step["extract"] = {"records": {"source": "crm", "streams": ["people"]}}
        step["transform"] = "SELECT key::int AS id, data ->> 'name' AS name FROM records"
        self.job.save()

    def content(self) -> list[tuple[Any, ...]]:
        return self.job.at_target("SELECT id, name, deleted_at IS NULL FROM people ORDER BY id")


@pytest.fixture(params=[False, True], ids=["table", "documents"])
def two(request: pytest.FixtureRequest, usersync: Command, new_database: NewDatabase) -> Two:
    return Two(Job(usersync, new_database("source crm"), new_database()), documents=request.param)


@pytest.mark.parametrize(("two", "how"), either(WRITING, "deletes what came", "puts it elsewhere", "takes somebody else"), indirect=["two"])
def test_what_is_written_is_there(two: Two, how: str) -> None:
    """
    Whatever the table does with a row that is new, changed, or merely there: the run ends with 8, and the table is as it was.
    """
    tables, _, meddler = WRITING[how].partition("CREATE FUNCTION" if "CREATE FUNCTION" in WRITING[how] else "CREATE RULE")
    two.job.at_target(f"{tables} INSERT INTO people VALUES {BEFORE}")
    two.write({1: "Test User One", 2: "Test User Two", 3: "Test User Three"}, "mark")
    assert 0 == two.job.sync().exit_status
    if how == "keeps the mark":
        two.job.at_target("UPDATE people SET deleted_at = now() WHERE id = 2")
    before = two.content()
    two.job.at_target(("CREATE FUNCTION" if "FUNCTION" in WRITING[how] else "CREATE RULE") + meddler)
    two.write({1: "Test User One", 2: "Test User 2", 3: "Test User Three", 4: "Test User Four"}, "mark")
    result = two.job.sync()

    assert (8, before) == (result.exit_status, two.content()), result


@pytest.mark.parametrize(("two", "how"), either(LEAVING, "deleted, and back", "marked, and others deleted"), indirect=["two"])
def test_who_left_is_gone(two: Two, how: str) -> None:
    """
    A removal that a trigger or rule undoes, or that takes others with it, ends with 8 too, and nobody is removed.
    """
    on_missing, text = LEAVING[how]
    word = "CREATE FUNCTION" if "CREATE FUNCTION" in text else "CREATE RULE"
    tables, _, meddler = text.partition(word)
    two.job.at_target(tables)
    two.write({id_: f"Test User {id_}" for id_ in range(1, 6)}, on_missing)
    assert 0 == two.job.sync().exit_status
    before = two.content()
    two.job.at_target(word + meddler)
    two.write({id_: f"Test User {id_}" for id_ in (1, 2, 4, 5)}, on_missing)
    result = two.job.sync()

    assert (8, before) == (result.exit_status, two.content()), result


def test_a_first_load_is_looked_at_too(two: Two) -> None:
    """
    An empty table with a trigger is not loaded the fast way, without a look.
    """
    two.job.at_target(TABLE + trigger("AFTER INSERT", "DELETE FROM people WHERE id = 2; RETURN NULL;"))
    two.write({1: "Test User One", 2: "Test User Two"}, "keep")

    assert (8, []) == (two.job.sync().exit_status, two.content())


@pytest.mark.parametrize("kind", ["audits", "corrects", "partitions by inheritance"])
def test_triggers_that_do_no_harm(two: Two, kind: str) -> None:
    """
    A trigger that writes elsewhere, corrects a value, or puts rows where the table still shows them, is no failure.
    """
    harmless = {
        "audits": trigger("AFTER INSERT OR UPDATE", "INSERT INTO other VALUES (NEW.*); RETURN NULL;"),
        "corrects": trigger("BEFORE INSERT OR UPDATE", "NEW.name := upper(NEW.name); RETURN NEW;"),
        "partitions by inheritance": "CREATE TABLE child () INHERITS (people);"
        + trigger("BEFORE INSERT", "INSERT INTO child VALUES (NEW.*); RETURN NULL;"),
    }
    two.job.at_target(TABLE + harmless[kind])
    two.write({1: "Test User One", 2: "Test User Two"}, "mark")
    result = two.job.sync()

    assert (0, 2) == (result.exit_status, len(two.content())), result


def test_row_level_security_of_the_target(two: Two) -> None:
    """
    A policy that would hide rows from the role is exit 2 from run and check, with what an administrator runs.
    """
    two.job.at_target(TABLE + "ALTER TABLE people ENABLE ROW LEVEL SECURITY; CREATE ROLE hidden LOGIN;")
    two.job.at_target(
        "CREATE POLICY first_one ON people USING (id = 1); GRANT ALL ON people TO hidden; GRANT ALL ON SCHEMA usersync TO hidden;"
        "GRANT ALL ON ALL TABLES IN SCHEMA usersync TO hidden; GRANT ALL ON ALL SEQUENCES IN SCHEMA usersync TO hidden"
    )
    two.write({1: "Test User One", 2: "Test User Two"}, "keep")
    two.job.document["target"] = two.job.target.url.replace("postgres@", "hidden@")
    two.job.save()
    try:
        run, check = two.job.run(), two.job.usersync("check")
    finally:
        two.job.at_target("DROP OWNED BY hidden; DROP ROLE hidden")

    assert (2, 2, []) == (run.status, check.status, two.content())
    assert "ALTER ROLE hidden BYPASSRLS" in run.stderr
    assert "ALTER ROLE hidden BYPASSRLS" in check.stdout
