"""Free ports of this machine, first those that follow from a job's number: two jobs on one node seldom meet.

python -m slurm.ports 4711            # 24711, or another of 20000 to 39999 where that one is taken
python -m slurm.ports 4711 2          # two of them, a line each
"""

from __future__ import annotations

import errno
import socket
import sys

FIRST, COUNT = 20000, 20000
STRIDE = 1009  # prime to COUNT, so that all are tried; not 1, which is the port of the next job


def free_ports(job: int, count: int = 1) -> list[int]:
    """`count` ports on which nothing of this machine listens. Raises OSError where there are not so many."""
    found: list[int] = []
    for step in range(COUNT):
        port = FIRST + (job + STRIDE * step) % COUNT
        with socket.socket() as one:
            try:
                one.bind(("", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(errno.EADDRINUSE, f"of the ports {FIRST} to {FIRST + COUNT - 1} only {len(found)} are free")


if __name__ == "__main__":
    for found in free_ports(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        print(found)
