"""The address of a cluster as the user writes it, and whether it can be used."""

from __future__ import annotations

import importlib.util
import re
import socket

from avsr.errors import AvsrError

REACH_S = 5.0                         # seconds in which a machine of the cluster must accept a connection
HOST_PORT = re.compile(r"[^/:\s]+:\d{1,5}")


def parse(cluster: str) -> str | None:
    """The address for ray.init: None for `ray` (join a local Ray, or start one), `auto`, `HOST:PORT` or `ray://HOST:PORT`.

    `ray:HOST:PORT` is the head of a cluster that this machine belongs to, `ray://HOST:PORT` the client server of any cluster.
    Raises AvsrError.
    """
    kind, _, place = cluster.partition(":")
    if cluster == "ray":
        return None
    if kind == "ray" and place == "auto":
        return place
    if kind == "ray" and HOST_PORT.fullmatch(place.removeprefix("//")):
        return cluster if place.startswith("//") else place
    raise AvsrError(f"--cluster {cluster}: not an address of a cluster.  Write ray for a local one, ray:HOST:PORT on a machine "
                    "of a cluster (ray:auto finds it), or ray://HOST:PORT from elsewhere.")


def is_reachable(address: str) -> bool:
    """Whether somebody listens at `HOST:PORT` or `ray://HOST:PORT`."""
    try:
        _call(address)
    except (OSError, OverflowError, ValueError):
        return False
    return True


def _call(address: str) -> None:
    """Raise an error if nobody listens at an address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=REACH_S).close()


def check_cluster(cluster: str | None) -> None:
    """Check an address before any work: how it is written, whether Ray is installed, whether somebody listens there.

    Raises AvsrError.
    """
    if cluster is None:
        return
    address = parse(cluster)
    if importlib.util.find_spec("ray") is None:
        raise AvsrError(f"--cluster {cluster}: the package ray is not installed.  Install it with: pip install 'avsr[ray]'.")
    if address is None or address == "auto":
        return
    host, _, port = address.removeprefix("ray://").partition(":")
    try:
        _call(address)
    except (OSError, OverflowError) as error:
        reason = f"nothing answered in {REACH_S:.0f} s" if isinstance(error, TimeoutError) else error
        raise AvsrError(f"--cluster {cluster}: no connection to {host} at port {port} ({reason}).  Start the cluster there "
                        "(ray start --head), or leave out --cluster to work on this machine.") from error
