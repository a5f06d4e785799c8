"""Work on fixed buffers, recorded once on a GPU and replayed with one launch; elsewhere simply called.

A function given here takes nothing and returns nothing: it reads and writes buffers that stay where they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

Work = Callable[[], object]

REHEARSALS = 2
"""Plain calls before a recording, in which libraries allocate and choose what they keep."""


class Recorder:
    """Records functions on one device. All recordings share their memory, so only one may run at a time."""

    def __init__(self, device: torch.device, wanted: bool = True) -> None:
        self._device = device
        self.works = wanted and device.type == "cuda"
        """Whether recordings are made, and so far all could be."""
        self._pool = torch.cuda.graph_pool_handle() if self.works else None

    def record(self, work: Work, name: str) -> Work:
        """What does the same as `work`: its replay, or itself where it cannot be recorded."""
        if not self.works:
            return work
        try:
            return self._recorded(work)
        except RuntimeError as error:
            self.works = False
            log.warning("cannot record %s as a CUDA graph, and go on without: %s", name, error)
            torch.cuda.synchronize(self._device)
            return work

    def _recorded(self, work: Work) -> Work:
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(REHEARSALS):
                work()
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may allocate and wait meanwhile: only this one must not.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        replay: Work = graph.replay
        return replay
