"""A whole federation in one process: a Flower Grid that runs the real ClientApp, site by site, as replies are pulled.

Messages are isolated as a network would isolate them (containers copied, payload bytes immutable), errors become what
Flower's own runtime makes of them, each node keeps its own Context, and replies are made lazily, in the order of the
orders, so that memory does not grow with the number of sites and a seeded run repeats bit for bit.
"""

from __future__ import annotations

import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from threading import Lock
from typing import TypeAlias

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from federation.plan import Scalar

_Record: TypeAlias = ArrayRecord | ConfigRecord | MetricRecord
_SERVER_NODE, _FIRST_NODE = 1, 1000


class InProcessGrid(Grid):
    """A Grid over `nodes` simulated sites.

    node_config: the node configuration of the site with the given index
    run_config:  the plan as Flower's run config
    workers:     threads that answer at once; replies keep the order of the orders
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: int,
        node_config: Callable[[int], Mapping[str, Scalar]],
        run_config: Mapping[str, Scalar],
        workers: int = 1,
    ) -> None:
        self._app = app
        self._nodes = range(_FIRST_NODE, _FIRST_NODE + nodes)
        self._node_config = node_config
        self._run_config = dict(run_config)
        self._workers = workers
        self._contexts: dict[int, Context] = {}
        self._pending: deque[Message] = deque()
        self._running: deque[Future[Message]] = deque()
        self._turns: defaultdict[int, Lock] = defaultdict(Lock)
        self.set_run(Run.create_empty(run_id=uuid.uuid4().int >> 66))

    def set_run(self, run: Run) -> None:
        """Takes the run's identity, which Flower's Message reads from the process."""
        self._run = run
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run.run_id, _SERVER_NODE, 1

    @property
    def run(self) -> Run:
        """The run's identity."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's deprecated way to make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every simulated site is always online."""
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queues the messages; nothing runs before replies are pulled."""
        return [self._queued(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Makes the replies to these messages one by one, as they are iterated."""
        wanted = message_ids if isinstance(message_ids, Collection) else set(message_ids)
        if self._workers == 1:
            while self._pending and self._pending[0].metadata.message_id in wanted:
                yield self._reply(self._pending.popleft())
        else:
            yield from self._pulled_by_workers(wanted)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Flower's blocking way: all replies in a list."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _queued(self, message: Message) -> str:
        message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
        self._pending.append(message)
        return message.metadata.message_id

    def _pulled_by_workers(self, wanted: Collection[str]) -> Iterator[Message]:
        with ThreadPoolExecutor(self._workers) as pool:
            while self._running or (self._pending and self._pending[0].metadata.message_id in wanted):
                while (
                    len(self._running) < 2 * self._workers
                    and self._pending
                    and self._pending[0].metadata.message_id in wanted
                ):
                    self._running.append(pool.submit(self._reply, self._pending.popleft()))
                yield self._running.popleft().result()

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self._nodes:
            error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason=f"node {node} is not in this simulation")
            reply = Message(error, reply_to=message)
        else:
            try:
                with self._turns[node]:  # a node answers one message at a time
                    reply = _isolated(self._app(_isolated(message), self._context(node)))
            except Exception as error:  # as flwr.supernode.runtime.run_clientapp maps it
                reason = f"{type(error)}:<'{error}'>"
                reply = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)
        reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
        return reply

    def _context(self, node: int) -> Context:
        if node not in self._contexts:
            self._contexts[node] = Context(
                run_id=self._run.run_id,
                node_id=node,
                node_config=dict(self._node_config(node - _FIRST_NODE)),
                state=RecordDict(),
                run_config=self._run_config,
            )
        return self._contexts[node]


def _isolated(message: Message) -> Message:
    """The same message in containers of its own; what cannot change (payload bytes, numbers, text) is shared."""
    if not message.has_content():
        return message
    content = RecordDict({name: _copied(record) for name, record in message.content.items()})
    return make_message(metadata=copy(message.metadata), content=content)


def _copied(record: _Record) -> _Record:
    copied = record.copy()
    for name, value in record.items():
        if isinstance(value, Array | list):
            copied[name] = copy(value)  # type: ignore[assignment]  # a record takes what it holds
    return copied
