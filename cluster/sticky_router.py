"""Which replica the pieces of a live session go to."""

from collections import OrderedDict
from typing import Any

from ray.serve._private.common import ReplicaID
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

# Each gateway remembers so many; sessions beyond go by their hash alone.
MOST_SESSIONS = 10_000


class StickyRouter(ConsistentHashRouter):
    """Sends a session to the replica that it began at, for as long as there is that replica.

    Where it begins is chosen by consistent hashing, so that gateways agree without a word. That
    alone would move sessions to replicas that are added, which know nothing of them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: OrderedDict[str, ReplicaID] = OrderedDict()

    def _lookup_ranked_replicas(self, routing_key: str) -> list[ReplicaID]:
        kept = self._kept.get(routing_key)
        if kept in self._replica_set_snapshot:
            self._kept.move_to_end(routing_key)
            return [kept]
        ranked: list[ReplicaID] = super()._lookup_ranked_replicas(routing_key)
        if ranked:
            self._kept[routing_key] = ranked[0]
            if len(self._kept) > MOST_SESSIONS:
                self._kept.popitem(last=False)
        return ranked
