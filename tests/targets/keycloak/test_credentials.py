"""The file of first passwords: for one person's eyes, complete at every moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from usersync_cli.errors import ConfigError
from usersync_cli.targets.keycloak.credentials import Credentials


def test_each_line_is_there_at_once(tmp_path: Path) -> None:
    """
    The file has mode 0600 and a heading; a line is in it as soon as it is written, and a later run adds to it.
    """
    file = tmp_path / "passwords.csv"
    for username in ("ann", "=bob"):
        credentials = Credentials(file)
        credentials.write(username, "first,password")
        assert "first,password" in file.read_text()
        credentials.close()

    assert 0o600 == file.stat().st_mode & 0o777
    assert ["username,password", 'ann,"first,password"'] == file.read_text().splitlines()[:2]
    assert 3 == len(file.read_text().splitlines())
    assert not file.read_text().splitlines()[2].startswith("=")


@pytest.mark.parametrize("made", ["open to others", "link", "folder", "no folder"])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, made: str) -> None:
    """
    A file that others can read, a link, or one that can't be written is refused before there is a password.
    """
    file = tmp_path / "passwords.csv"
    match made:
        case "open to others":
            file.write_text("")
            file.chmod(0o644)
        case "link":
            (tmp_path / "other").touch(0o600)
            file.symlink_to(tmp_path / "other")
        case "folder":
            file.mkdir()
        case _:
            file = tmp_path / "none" / "passwords.csv"

    with pytest.raises(ConfigError) as error:
        Credentials(file)

    assert error.value.hint
    assert [] == [one for one in tmp_path.rglob("*") if one.is_file() and one.read_text()]
