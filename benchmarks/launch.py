"""Runs a command, and writes what it used as JSON: `python -I -S launch.py RESULT COMMAND...`.

A process of its own, and a small one: Linux gives a child the memory of the process it was forked from as a floor of its
maximum, so a benchmark with libraries loaded would measure itself.
"""

import json
import os
import sys
import time

KILOBYTES = 1 / 1024 if sys.platform == "darwin" else 1  # ru_maxrss counts bytes there

if __name__ == "__main__":
    result, command = sys.argv[1], sys.argv[2:]
    began = time.perf_counter()
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - began
    with open(result, "w", encoding="utf8") as file:  # noqa: PTH123  pathlib would be most of our memory
        json.dump({"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "megabytes": usage.ru_maxrss * KILOBYTES / 1024}, file)
    sys.exit(os.waitstatus_to_exitcode(status))
