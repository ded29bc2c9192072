"""Work on several processes and machines, by Ray: `workers` is a pool, `Work` what it is to do.

`library` alone imports ray, when it is first needed; nothing is pickled but names and texts.
"""

from mechsteer.cluster.connection import connected
from mechsteer.cluster.fitting import DESK, clear_desk
from mechsteer.cluster.library import is_installed, named
from mechsteer.cluster.pool import Pool, Work, workers
from mechsteer.cluster.worker import Answer

__all__ = ["DESK", "Answer", "Pool", "Work", "clear_desk", "connected", "is_installed", "named", "workers"]
