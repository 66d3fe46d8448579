"""The `usersync` binary: handlers first, then one command, then one exit status."""

from __future__ import annotations

import sys
from functools import partial

from usersync_cli import stdio
from usersync_cli.signals import Stop


def main() -> None:
    """Run the command line; the process ends here."""
    stop = Stop().install()
    stdio.install()
    status = _status(stop)
    if (lost := stdio.lost()) is not None and status == 0:
        from usersync_cli.errors import Unavailable
        from usersync_cli.log import failure

        status = Unavailable.status
        failure(f"the result can't be written: {lost.strerror or lost}", "make room, or write it elsewhere", status=status)
    sys.exit(status)


def _status(stop: Stop) -> int:
    import click

    from usersync_cli.cli import cli, write_error
    from usersync_cli.errors import UsersyncError, status_of

    tell = partial(write_error, sys.argv[1:])
    try:
        return cli.main(standalone_mode=False, prog_name="usersync", obj=stop) or 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        tell(2, error.format_message(), usage=True)
        return 2
    except click.Abort:
        tell(130, "stopped by Ctrl-C")
        return 130
    except UsersyncError as error:
        from usersync_cli.log import failure

        status = status_of(error)
        failure(error.message, error.hint, status=status)
        tell(status, error.message, error.hint)
        return status
    except Exception as error:  # noqa: BLE001  the last word of the process
        from usersync_cli.log import report_bug

        report_bug(error)
        tell(1, f"internal error: {type(error).__name__}", "this is a bug: please report it")
        return 1


if __name__ == "__main__":
    main()
