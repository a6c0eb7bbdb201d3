"""Jobs in worker processes: on this machine by an embedded pool, or on the machines of a Ray cluster; one function for both.

    jobs -> run(work, jobs, n, cluster=None | "ray" | "ray:HOST:PORT" | "ray://HOST:PORT")
         -> (number of the job, result), or (number, None) if TRIES workers died of the job
         -> parts of a result, each given to `on_part`
pool.py starts processes here, ray_cluster.py connects to Ray, task.py is what a worker of Ray does. Each job has one result, in
the order in which results are made, whatever dies in between; so one process writes what they are, as the journal of prepare.
"""

from avsr.workers.address import check_cluster
from avsr.workers.engines import STUCK_S, TRIES, Work, run

__all__ = ["STUCK_S", "TRIES", "Work", "check_cluster", "run"]
