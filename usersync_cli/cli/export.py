"""`usersync export`: a table of the target on stdout or in a file. What it writes is people's data, as asked for."""

from __future__ import annotations

import errno
import os
import select
import string
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from usersync_cli.cli import config_option
from usersync_cli.cli.diff import FULL, as_long_as_somebody_reads, escaped
from usersync_cli.errors import ConfigError, Unavailable
from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from usersync_cli.report.export import Export
    from usersync_cli.shapes import ExportShape

Write = Callable[[bytes], object]

_EXIT_STATUSES = """\b
Exit status: 0 ok, 2 usage, config or a missing right, 4 the target cannot be
reached or the disk is full, 7 not the table that was expected, 9 no such
table, 129/130/143 stopped by a signal, 141 nobody reads on."""
_DELIMITERS = set(string.punctuation) - set("\"'=+-@._\\") | {"\t"}


def delimiter_of(_ctx: click.Context, _option: click.Parameter, value: str) -> str:
    """The character that a person named."""
    found = "\t" if value in {"tab", "\\t"} else value
    if found not in _DELIMITERS:
        raise click.BadParameter('one character such as ";", "," or "|", or the word tab.')
    return found


@click.command(epilog=_EXIT_STATUSES)
@click.argument("what", metavar="contacts|TABLE")
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True, help="How to write it.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write here instead of stdout: a file that only you can read, replaced when all is written.",
)
@click.option(
    "--delimiter", callback=delimiter_of, default=";", show_default=True, metavar="CHARACTER", help="Of CSV: what stands between cells."
)
@click.option("--bom", is_flag=True, help="Of CSV: begin with a byte order mark, by which spreadsheets know UTF-8.")
@click.option("--raw", is_flag=True, help="Of CSV: no ' before = + - @ and the like; for programs, not for spreadsheets.")
@click.option("--all", "everything", is_flag=True, help="Also rows that are marked as deleted (deleted_at).")
@click.option(
    "--column", "columns", multiple=True, metavar="NAME=ID", help="Of contacts: take this column from the custom field with this id."
)
@click.option("--job", "job_name", metavar="NAME", help="Of contacts: this job's, where several jobs load some.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say how many rows there were.")
@config_option
@click.pass_obj
def export(  # noqa: PLR0913  each option is one
    stop: Stop,
    what: str,
    config_path: Path | None,
    *,
    format_: Literal["csv", "jsonl"],
    out: Path | None,
    delimiter: str,
    bom: bool,
    raw: bool,
    everything: bool,
    columns: tuple[str, ...],
    job_name: str | None,
    quiet: bool,
) -> None:
    """Write Teamleader's contacts, or any table of the target, as CSV or JSON Lines.

    contacts has the columns or_id, cp_name_catpro, email, phone, website, form_url, description, accountmanager. Any
    TABLE or SCHEMA.TABLE is written as it is, in the order of its primary key, from one snapshot.

    CSV is RFC 4180 in UTF-8. NULL is an empty cell, an empty text is "". A cell that a spreadsheet would take for a
    formula gets a ' in front. In both formats numbers have all their digits.

    \b
    Examples:
      usersync export contacts --format csv
      usersync export contacts --out contacts.csv --bom     for a spreadsheet
      usersync export contacts --column or_id=581bc693-feb9-416a-806a-90c2fa4bc5c6
      usersync export users --format jsonl | jq .email
      usersync export app.users --delimiter , --raw         for a program
    """
    from usersync_cli import log
    from usersync_cli.config import loader, registry
    from usersync_cli.report.export import ExportOptions
    from usersync_cli.report.export import export as exported

    if format_ != "csv" and (bom or raw or delimiter != ";"):
        raise click.UsageError("--delimiter, --bom and --raw are for --format csv.")
    log.configure(quiet=True)
    settings = loader.load(config_path)
    jobs = settings.jobs if job_name is None else {name: job for name, job in settings.jobs.items() if name == job_name}
    if not jobs and job_name:
        settings.job(job_name)  # which says so; the variables of a job that is there are not needed
    shapes = registry.export_shapes()
    fields = _fields(shapes, what, columns)
    options = ExportOptions(format_, delimiter, bom=bom, raw=raw, everything=everything, shapes=shapes, fields=fields)
    file = None if out in {None, Path("-")} else out
    with exported(settings.target_database(), stop, jobs, what, options) as made, writing_to(file, stop) as write:
        for block in made.blocks:
            write(block)
    if not quiet:
        click.echo(_told(made, what, file), err=True)


def _fields(shapes: Mapping[str, ExportShape], what: str, columns: Sequence[str]) -> Mapping[str, str]:
    """What --column says, by column; of a table without such columns too, which is refused when it is known to be one."""
    shape = shapes.get(what) or next(iter(shapes.values()))
    return dict(map(shape.field, columns))


def _told(made: Export, what: str, file: Path | None) -> str:
    said = f"{what}: {made.rows:,} row{'' if made.rows == 1 else 's'}"
    said += f" of {made.table}" if made.table != what else ""
    said += f" in {file}" if file else ""
    return f"{said}; {made.left_out:,} marked as deleted left out (--all writes them)" if made.left_out else said


@contextmanager
def writing_to(file: Path | None, stop: Stop) -> Iterator[Write]:
    """Writes to a file that only its owner can read, replaced when all is written; to stdout where there is none."""
    if file:
        with _replaced(file) as write:
            yield write
    else:
        with as_long_as_somebody_reads():
            yield _to_stdout(stop)


def _to_stdout(stop: Stop) -> Write:
    """Writes that a signal ends also while nobody reads. On a terminal, without what that would obey."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # no file, such as in tests
        return sys.stdout.buffer.write

    def write(block: bytes) -> None:
        left = memoryview(block)
        while left:
            stop.check()
            if select.select([], [descriptor], [], 0.1)[1]:  # as much as a pipe that is ready surely takes
                left = left[os.write(descriptor, left[: select.PIPE_BUF]) :]

    def show(block: bytes) -> None:
        text = block.decode(errors="backslashreplace").replace("\r\n", "\n")
        write("\n".join(map(escaped, text.split("\n"))).encode())

    if sys.stdout.isatty():
        return show
    return write


@contextmanager
def _replaced(file: Path) -> Iterator[Write]:
    """Writes beside the file, and takes its place when all is on disk; whatever happens before leaves it as it was."""
    place = Path(os.path.realpath(file))  # of a link the file itself, as > would
    with _told_of(file):
        _refuse_special(place)
        descriptor, draft = tempfile.mkstemp(prefix=f".{place.name[:100]}.", dir=place.parent)  # of mode 0600
    try:

        def write(block: bytes) -> None:
            left = memoryview(block)
            with _told_of(file):
                while left:
                    left = left[os.write(descriptor, left) :]

        yield write
        with _told_of(file):
            os.fsync(descriptor)
            Path(draft).replace(place)
            _sync(place.parent)
    except BaseException:
        with suppress(OSError):
            Path(draft).unlink()
        raise
    finally:
        os.close(descriptor)


def _refuse_special(place: Path) -> None:
    if place.exists() and not place.is_file():
        raise ConfigError(f"--out {place} is no file", hint="name a file, or leave --out away and use > or |")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told_of(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        said = f"{file} can't be written: {error.strerror}"
        if error.errno in FULL | {errno.EIO}:
            raise Unavailable(said, hint="it is as it was; make room, or write elsewhere") from error
        raise ConfigError(said, hint="name a file in a folder where you may write") from error
