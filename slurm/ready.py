"""Wait until a server answers, or say why it never will.

    python -m slurm.ready http://10.0.0.7:24711/health SECONDS PID

Ends well as soon as the address answers with a status of 200. Ends with code 1 where SECONDS have passed, or where
process PID, which stands for the server here (its srun), is gone.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

EVERY = 0.5  # seconds


def answers(url: str) -> bool:
    """Whether the server says that it is ready. Never through a proxy: the address is of this cluster."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5.0) as reply:
            return bool(reply.status == 200)
    except (OSError, HTTPException):  # not there yet, or not ready yet
        return False


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_ready(url: str, seconds: float, pid: int) -> str:
    """ "" as soon as `url` answers, else why nothing can be expected of it."""
    end = time.monotonic() + seconds
    while not answers(url):
        if not lives(pid):
            return f"the server of {url} ended before it was ready"
        if time.monotonic() > end:
            return f"the server of {url} was not ready within {seconds:g} s"
        time.sleep(EVERY)
    return ""


if __name__ == "__main__":
    why = wait_ready(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
    if why:
        sys.exit(why)
