"""The `usersync` binary: handlers first, then one command, then one exit status."""

from __future__ import annotations

import os
import sys

from usersync_cli.signals import Stop


def main() -> None:
    """Run the command line; the process ends here."""
    stop = Stop().install()
    import click

    from usersync_cli.cli import cli
    from usersync_cli.errors import UsersyncError, status_of

    try:
        status = cli.main(standalone_mode=False, prog_name="usersync", obj=stop) or 0
    except click.exceptions.Exit as exit_:
        status = exit_.exit_code
    except click.ClickException as error:
        error.show()
        status = 2
    except click.Abort:
        status = 130
    except UsersyncError as error:
        from usersync_cli.log import failure

        status = status_of(error)
        failure(error.message, error.hint, status=status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except Exception as error:  # noqa: BLE001  the last word of the process
        from usersync_cli.log import report_bug

        report_bug(error)
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
