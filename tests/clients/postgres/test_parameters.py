"""What the URL leaves open: a server elsewhere is verified, a local one needs no certificate."""

from __future__ import annotations

import pytest

from usersync_cli.clients.postgres import parameters


@pytest.mark.parametrize("host", ["db.example.com", "10.1.2.3", "localhost,db.example.com"])
def test_a_server_elsewhere_is_verified(host: str) -> None:
    """
    Unless the URL says otherwise, a server that is not on this machine has to show a certificate for its name.
    """
    assert "verify-full" == parameters.defaults(f"postgresql://{host}/app", "job")["sslmode"]
    assert "sslmode" not in parameters.defaults(f"postgresql://{host}/app?sslmode=require", "job")


@pytest.mark.parametrize(
    "url", ["postgresql:///app", "postgresql://localhost/app", "postgresql://[::1]/app", "postgresql:///app?host=/run/pg"]
)
def test_a_local_server_needs_no_certificate(url: str) -> None:
    """
    Sockets and loopback addresses do not leave the machine.
    """
    assert "sslmode" not in parameters.defaults(url, "job")
