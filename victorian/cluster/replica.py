"""What Serve does not tell a replica: that it is being stopped, as when another takes its place.

Serve waits until its requests have ended, and an open WebSocket is one, whether anything is generated on it or not.
"""

import ray
from ray._private.worker import global_worker


def leaving() -> bool:
    """Whether the replica of this process is being stopped, as Ray 2.60 notes it; False outside of one."""
    actor = global_worker.actors.get(ray.get_runtime_context().worker.actor_id)
    return bool(getattr(getattr(actor, "_replica_impl", None), "_shutting_down", False))
