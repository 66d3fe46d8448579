"""Which process holds a job, and whether it is known to be dead."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one with the same pid and from one in another container."""

    host: str
    pid: int
    started: str = ""  # in the kernel's ticks since boot; empty where there is no /proc
    boot: str = ""
    pids: int = 0  # inode of the namespace that the pid is counted in

    @classmethod
    def me(cls) -> Owner:
        pid = os.getpid()
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return cls(socket.gethostname(), pid, process(pid)[1], boot, Path("/proc/self/ns/pid").stat().st_ino)
        return cls(socket.gethostname(), pid)

    @classmethod
    def parse(cls, text: str) -> Owner:
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return cls("an unknown host", 0)

    def text(self) -> str:
        """The owner as JSON, which `parse` reads."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}"

    def dead(self) -> bool:
        """Whether this process is known to have ended: only if it ran here, under the kernel and namespace that we see."""
        me = Owner.me()
        if not self.boot or (self.host, self.boot, self.pids) != (me.host, me.boot, me.pids):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        with suppress(OSError):
            status, started = process(self.pid)
            return status in "ZX" or started != self.started
        return False


def process(pid: int) -> tuple[str, str]:
    """State and start of a process (proc(5), fields 3 and 22; the name before them may hold blanks and brackets)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return after_name[0], after_name[19]
