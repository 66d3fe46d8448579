"""What a server's refusal means: the SQLSTATE decides, not the words."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest

from usersync_cli.clients.postgres import connections, errors
from usersync_cli.errors import ConfigError, Drift, Unavailable, UsersyncError
from usersync_cli.model import Database


@contextmanager
def refusing(state: str, said: str) -> Iterator[str]:
    """The URL of a server that refuses everybody with these words, in the wire protocol of PostgreSQL."""
    fields = b"".join(tag + value.encode() + b"\0" for tag, value in ((b"S", "FATAL"), (b"C", state), (b"M", said)) if value) + b"\0"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(4096)
                        if state:
                            client.sendall(b"E" + (len(fields) + 4).to_bytes(4) + fields)

        threading.Thread(target=answer, daemon=True).start()
        yield f"postgresql://x:s3cret@127.0.0.1:{listener.getsockname()[1]}/app?sslmode=disable&gssencmode=disable"


@pytest.mark.parametrize(
    ("state", "said", "kind"),
    [
        ("28P01", "Passwort-Authentifizierung für Benutzer »x« fehlgeschlagen", ConfigError),
        ("28000", "Rolle »x« existiert nicht", ConfigError),
        ("3D000", "Datenbank »app« existiert nicht", ConfigError),
        ("42501", "keine Berechtigung für Datenbank »app«", ConfigError),
        ("42704", "unbekannter Konfigurationsparameter »unsinn«", ConfigError),
        ("22023", "ungültiger Wert für Parameter »client_encoding«: »unsinn«", ConfigError),
        ("08P01", "unsupported startup parameter: options", ConfigError),  # of a pooler
        ("53300", "tut mir leid, schon zu viele Verbindungen", Unavailable),
        ("57P03", "das Datenbanksystem wird hochgefahren", Unavailable),
        ("57P01", "die Datenbank wurde beendet", Unavailable),
        ("08P01", "das Datenbanksystem wird hochgefahren", Unavailable),  # passed on by a pooler
        ("99999", "database, role, password, SSL: does not exist", Unavailable),
        ("", "", Unavailable),  # hangs up without a word
    ],
)
def test_servers_that_speak_another_language(state: str, said: str, kind: type[UsersyncError]) -> None:
    """
    Why a log-in was refused is told by its SQLSTATE, whatever the language; the words are passed on as they are.
    """
    with refusing(state, said) as url, pytest.raises(kind) as caught:
        connections.connect(Database(url, "target"), job="test")

    assert type(caught.value) is kind
    assert said in caught.value.message
    assert "s3cret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(("state", "kind"), [("53100", Unavailable), ("42501", ConfigError), ("22001", Drift)])
def test_what_hides_behind_a_complaint_about_nesting(state: str, kind: type[UsersyncError]) -> None:
    """
    The error that psycopg hides behind its own decides, not that it has no SQLSTATE.
    """
    nesting = psycopg.transaction.OutOfOrderTransactionNesting("savepoints")
    nesting.__context__ = psycopg.errors.lookup(state)("why")

    assert type(errors.translate(nesting, Database("postgresql:///app", "target"), "loading")) is kind


def test_a_line_that_breaks_is_no_mistake_of_the_url() -> None:
    """
    SSL in the words of an error that comes later says nothing about certificates: the next run tries again.
    """
    lost = psycopg.OperationalError("consuming input failed: SSL connection has been closed unexpectedly")

    assert isinstance(errors.translate(lost, Database("postgresql:///app", "target"), "loading"), Unavailable)
