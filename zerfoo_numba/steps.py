"""The decode steps of a session: captured once, replayed, and launched ahead of the host.

Where a device works on while the host does something else (`Device.ahead`), the next step is
launched before the host has seen what the last one chose, so that reading an id, turning it into
text and showing it takes no time of the device. A stream that ends at a stop token, or that nobody
reads on, has then launched steps that it did not need. Nothing of them counts: until an id is
handed out its step has not happened, and before anything else is done with the sequence `forget`
takes the device back. Keys and values that such steps left are behind the end of the sequence; in
the ring of a sliding window they took the place of what no later query sees, as long as they are
no more than the tokens of a chunk, which the ring has room for besides the window.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np


class Steps:
    """`ahead`: the ids, still to be read, of the steps that were launched and not handed out."""

    def __init__(self, session: Any):
        self.session, self.device, self.walk = session, session.device, session.walk
        # A recurrent state cannot be taken back, and a check of every step is no streaming.
        waits = session.config.recurrent is not None or session.finite is not None
        self.depth = 0 if waits else min(self.device.ahead, self.walk.chunk)
        self.ahead: deque[Any] = deque()
        self.kind, self.drawn, self.last = "", 0, 0
        self._chosen = self.walk.tokens.view((1,))
        self._graphs: dict[str, Any] = {}

    def launch(self, kind: str) -> None:
        """One step: the captured launches, or the walk itself with `graph=False`."""
        session, walk, stats = self.session, self.walk, self.session.stats
        steps = {
            "greedy": walk.greedy_step,
            "sampled": session.draws.step,
            "logits": walk.logits_step,
        }
        if session.graph and kind not in self._graphs:
            self._graphs[kind] = self.device.capture(steps[kind])
        before = self.device.launch_count
        if session.graph:
            self._graphs[kind].replay()
            stats.graph_launches += self._graphs[kind].launches
            stats.launches += self._graphs[kind].launches
        else:
            steps[kind]()
        stats.launches += self.device.launch_count - before

    def ids(self, kind: str, count: int) -> Iterator[int]:
        """Up to `count` ids, from the one on that was chosen after a prefill; fewer where the
        context is full."""
        first = self.device.fetch(self._chosen)
        self.kind, self.drawn = kind, 0
        self._fill(min(self.depth, count - 1))
        yield self._seen(first)
        for left in range(count - 1, 0, -1):
            self._fill(min(self.depth + 1, left))
            if not self.ahead:
                return
            token = self._seen(self.ahead[0])
            self.session.moved(1, self.walk.logits)
            self.ahead.popleft()
            yield token

    def _fill(self, wanted: int) -> None:
        """Launch until `wanted` steps are under way, or the context is full."""
        session = self.session
        while len(self.ahead) < wanted and session.length + len(self.ahead) < session.context:
            if self.ahead and not self.walk.tables.fits(session.length + len(self.ahead) + 1):
                return  # that step makes the cache anew, which would not be taken back bit by bit
            session.room(len(self.ahead))
            self.ahead.append(None)  # if an interrupt comes now, there is something to forget
            self.launch(self.kind)
            self.ahead[-1] = self.device.fetch(self._chosen)

    def _seen(self, fetched: Any) -> int:
        self.last = int(fetched.result()[0])
        self.drawn += 1
        return self.last

    def forget(self) -> None:
        """What was launched and not handed out has not happened."""
        if not self.ahead:
            return
        length = self.session.length
        self.device.synchronize()
        self.ahead.clear()
        self.device.write(self.walk.position, np.array([length], np.uint32))
        self.device.write(self._chosen, np.array([self.last], np.uint32))
        if self.kind == "sampled":
            self.session.draws.back(self.drawn)
        self.walk.fit(length, length)
