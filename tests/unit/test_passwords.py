"""First passwords: as the service before us made them."""

from __future__ import annotations

import itertools

import pytest

from usersync_cli.passwords import CLASSES, temporary_password


@pytest.mark.parametrize("length", [12, 16, 50])
def test_each_class_and_no_equal_neighbours(length: int) -> None:
    """
    So many characters, one of each class at least, no two equal ones beside each other, and never the same twice.
    """
    made = [temporary_password(length) for _ in range(300)]

    assert {length} == {len(one) for one in made}
    assert all(any(character in kind for character in one) for one in made for kind in CLASSES)
    assert all(a != b for one in made for a, b in itertools.pairwise(one))
    assert len(made) == len(set(made))


@pytest.mark.parametrize("length", [0, 11, 51])
def test_other_lengths_are_refused(length: int) -> None:
    """
    12 to 50 characters.
    """
    with pytest.raises(ValueError, match="12 to 50"):
        temporary_password(length)
