"""The run's model, given to the server by the sites because the plan says release = "server"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from federation.encrypted_orders import Release, ReleasedModel
from federation.encrypted_replies import read_model
from federation.orders import Refusal
from privacy.errors import MalformedReport, RunFailed
from server.ceremony import Ceremony, content_of
from server.desk import Desk, Tally


def released_model(
    desk: Desk, ceremony: Ceremony, rounds: int, nodes: Sequence[int], tally: Tally
) -> NDArray[np.float32]:
    """The model after so many rounds, (P,), as more than half of the members that answer have it.

    Raises:
        RunFailed: no model has a majority.
    """

    def admit(node: int, reply: Message) -> ReleasedModel | Refusal:
        found = read_model(content_of(reply), desk.layout)
        if not isinstance(found, Refusal):
            ceremony.refuse_other_statement(found.statement, "release", node)
            if found.statement.model != ceremony.model:
                raise MalformedReport("the released model is another than the one that most sites hold")
        return found

    order = ceremony.order("release", rounds, ceremony.cohort(nodes), Release(confirmed=ceremony.confirmations()))
    replies = ceremony.ask("release", rounds, dict.fromkeys(nodes, order), tally)
    released = [said for _, said in desk.admitted(replies, admit, tally)]
    counted = Counter(said.statement.payload for said in released)
    payload, agreeing = counted.most_common(1)[0] if counted else ("", 0)
    if 2 * agreeing <= len(released):
        raise RunFailed(
            f"the model was to be released to the server, but {len(released)} sites sent no model in common"
        )
    return next(said.vector for said in released if said.statement.payload == payload)
