"""What the policy asks of one worker, on its way there: each action is told once and acknowledged once.

Source: DESIGN.md, sections 5 and 7.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from helix_crawl_otel.actions import ActionQueue
from helix_crawl_otel.policy.model import Action, ActionKind
from helix_crawl_otel.supervise.outgoing import Sender

__all__ = ["OutgoingActions"]


class OutgoingActions:
    """Actions told to a worker.

    Args:
        actions: Where the policy puts them.
        mail: To the worker. A send never waits.

    Threads: any. `_lock` is held from the queue to the mail: two threads that push must not swap two actions.
    """

    def __init__(self, actions: ActionQueue, mail: Sender) -> None:
        self._actions = actions
        self._mail = mail
        self._lock = threading.Lock()
        self._sent: dict[int, Action] = {}  # told and not acknowledged; guarded by _lock
        self._is_closed = False  # guarded by _lock

    def push(self, shards: Iterable[str]) -> None:
        """Send the actions that wait for these shards. A later one makes an earlier one of its shard void."""
        with self._lock:
            if self._is_closed:
                return  # they stay where they are: the policy settles them when the next worker starts
            for shard in shards:
                for action in self._actions.drain(shard):
                    self._send(action)

    def take(self, action_id: int) -> Action | None:
        """The action that the worker acknowledges; `None` when it was void, or has been acknowledged before."""
        with self._lock:
            return self._sent.pop(action_id, None)

    def close(self) -> None:
        """The worker is gone: nothing is told any more, and nothing that was is waited for."""
        with self._lock:
            self._is_closed = True
            self._sent.clear()

    def _send(self, action: Action) -> None:
        for earlier in list(self._sent.values()):
            if earlier.shard == action.shard and earlier.kind.rung < action.kind.rung:
                del self._sent[earlier.id]
                self._mail.send({"type": "void", "action": earlier.id})
        if action.kind is not ActionKind.DETECT:  # that one is done by being said
            self._sent[action.id] = action
        content = {
            "id": action.id,
            "kind": action.kind.value,
            "shard": action.shard,
            "device": action.device,
            "reason": action.reason,
            "evidence": dict(action.evidence),
        }
        self._mail.send({"type": "action", **content})
