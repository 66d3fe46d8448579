"""libpq's connection parameters: what the URL leaves open is set so that a vanished server is noticed and a foreign one verified."""

from __future__ import annotations

import ipaddress
import os
import ssl
from typing import Any

import psycopg
from psycopg import conninfo

CONNECT_SECONDS = 10
# TCP time-outs of libpq: a peer that vanished is noticed after 15 + 3 * 5 s, unacknowledged data after 20 s.
_KEEPALIVE: dict[str, Any] = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20000}


class BadURL(psycopg.OperationalError):
    """libpq can't make sense of the URL: it tried to reach nobody."""


def defaults(url: str, job: str, *, read_write: bool = False) -> dict[str, Any]:
    """The parameters to give in addition to the URL, without those that it has.

    `read_write` insists on a primary where the URL names several servers. Raises BadURL.
    """
    given = _given(url)
    every: dict[str, Any] = {"application_name": f"usersync/{job}"[:63], "client_encoding": "utf8", **_KEEPALIVE}
    every["connect_timeout"] = CONNECT_SECONDS
    if read_write and "," in f"{given.get('host') or ''}{given.get('hostaddr') or ''}":
        every["target_session_attrs"] = "primary"
    if not _is_local(given) and not os.environ.get("PGSSLMODE"):
        every |= {"sslmode": "verify-full", "sslrootcert": "system"}
        # The wheel's OpenSSL looks for the system's certificates where they were on the machine that built it.
        if found := ssl.get_default_verify_paths().cafile:
            os.environ.setdefault("SSL_CERT_FILE", found)
    if "sslmode" in given:
        every.pop("sslrootcert", None)
    return {name: value for name, value in every.items() if name not in given or name == "client_encoding"}


def _given(url: str) -> dict[str, Any]:
    """The URL's parts. Raises BadURL, without a word of the URL: it may hold the password."""
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise BadURL("the URL is not one that libpq understands") from None
    ports, hosts = str(given.get("port") or "").split(","), str(given.get("hostaddr") or given.get("host") or "").split(",")
    if any(port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536) for port in ports):
        raise BadURL("a port of the URL is not a number from 1 to 65535")
    if len(ports) not in {1, len(hosts)}:
        raise BadURL("the URL has another number of ports than of hosts")
    return given


def _is_local(given: dict[str, Any]) -> bool:
    hosts = str(given.get("hostaddr") or given.get("host") or os.environ.get("PGHOST") or "").split(",")
    return all(_is_local_host(host) for host in hosts)


def _is_local_host(host: str) -> bool:
    if host in {"", "localhost"} or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
