"""A Ray cluster of two machines, made of processes of this one; the second can leave.

    python made_cluster.py -> its address on standard output; the line `leave` on standard input takes the second machine away
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parent


class MadeCluster:
    """address: HOST:PORT of its head."""

    def __init__(self, process: subprocess.Popen[str], address: str):
        self.process, self.address = process, address

    def leave(self) -> None:
        """Take the second machine away, with all that runs on it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("leave\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "left\n"


@contextmanager
def ray_cluster(**variables: str):
    """A MadeCluster, whose workers find the modules of the tests."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
                   **variables}
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.DEVNULL, env=environment)
    try:
        assert process.stdout is not None
        address = ""
        while not address.startswith("address "):
            address = process.stdout.readline()
            assert address, "the cluster did not start"
        yield MadeCluster(process, address.split()[1])
    finally:
        process.kill()                                       # the processes of Ray end with the one that started them
        process.wait()


def serve() -> None:
    """Run the cluster until standard input is closed."""
    logging.disable()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    print("address", cluster.address, flush=True)
    for line in sys.stdin:
        if line == "leave\n":
            cluster.remove_node(second, allow_graceful=False)
            print("left", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    serve()
