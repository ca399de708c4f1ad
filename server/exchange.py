"""Orders out, replies in, as they arrive: over any Flower Grid, with a deadline, and never waiting for the slowest.

A reply that misses its deadline is still collected in a later round, so that the operator learns of it; what it belongs
to is for `server.admission` to judge.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from privacy.errors import RunFailed

_POLL_SECONDS = 0.2


@dataclass(slots=True, kw_only=True)
class Exchange:
    """The messages under way between this server and its sites.

    silent: the nodes that let the last deadline pass, or that Flower had no message taken for
    """

    grid: Grid
    deadline_seconds: float
    silent: set[int] = field(default_factory=set)
    _unanswered: dict[str, int] = field(default_factory=dict)

    def nodes(self, wanted: int) -> list[int]:
        """The nodes online once there are `wanted` of them, or when the deadline has passed."""
        until = time.monotonic() + self.deadline_seconds
        while True:
            nodes = list(self.grid.get_node_ids())
            if len(nodes) >= wanted or time.monotonic() >= until:
                return nodes
            time.sleep(_POLL_SECONDS)

    def ask(
        self, contents: Mapping[int, RecordDict], message_type: str, round_number: int
    ) -> Iterator[tuple[int, Message]]:
        """Sends one message a node and yields (node, reply) as replies arrive, until all came or the deadline passed.

        Replies to orders of earlier rounds, and second replies to one order, are yielded as well.

        Raises:
            RunFailed: Flower took none of the orders.
        """
        orders = [
            Message(content, node, message_type, group_id=str(round_number), ttl=self.deadline_seconds + 60)
            for node, content in contents.items()
        ]
        message_ids = list(self.grid.push_messages(orders))
        if len(message_ids) != len(orders):
            raise RunFailed(
                "the SuperLink did not take the round's orders; it may find them too large: see its log, and raise its "
                "message size, or train a smaller model"
            )
        pushed = zip(message_ids, contents, strict=True)
        sent = {message_id: node for message_id, node in pushed if message_id}
        waiting = set(sent)
        self._unanswered.update(sent)
        answered: dict[str, int] = {}
        until = time.monotonic() + self.deadline_seconds
        while waiting and time.monotonic() < until:
            arrived = False
            replies = self.grid.pull_messages(self._unanswered.keys())
            for reply in replies:
                arrived = True
                message_id = reply.metadata.reply_to_message_id
                if message_id in self._unanswered:
                    answered[message_id] = self._unanswered.pop(message_id)
                    waiting.discard(message_id)
                if message_id in answered:
                    yield answered[message_id], reply
                if isinstance(replies, Iterator) and time.monotonic() >= until:
                    break  # such a grid makes replies as they are asked for, and keeps the others for later
            if waiting and not arrived:
                time.sleep(_POLL_SECONDS)
        self.silent = {sent[message_id] for message_id in waiting} | (contents.keys() - sent.values())
