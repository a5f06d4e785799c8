"""A worker as a process: settings, logging, signals, exit status. The same for every role."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable

import uvloop

from shared import heap, logs
from shared.errors import EngineError, ParleyError, SettingsError
from shared.settings import EX_CONFIG, Settings, load, redis_url
from shared.store import Store
from workers.handler import Handler
from workers.stage import Stage

log = logging.getLogger(__name__)

REDIS_WAIT_S = 30.0

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Read by the model libraries as they are imported: a worker downloads nothing, whatever is missing."""


def main(role: str, make_handler: Callable[[Settings], Handler]) -> int:
    """Run a worker until SIGTERM or SIGINT; its exit status.

    78 means a setting that cannot be used, an engine that cannot be loaded included: what is missing or wrong
    then is so at the next start too. Not so a GPU that is full: that is 1, and worth another start, as is an
    event loop that hangs.
    """
    settings = load()
    logs.configure(settings.log_level, role)
    os.environ.update(OFFLINE)
    try:
        handler = make_handler(settings)
    except SettingsError as error:
        log.error("bad setting: %s", error)
        return EX_CONFIG
    except EngineError as error:
        log.error("%s", error)
        return 1 if error.retryable else EX_CONFIG
    try:
        uvloop.run(_work(settings, handler, role))
    except ParleyError as error:
        log.error("%s", error)
        return 1
    return 0


def _end() -> None:
    """End the process from another thread than the event loop's, which does not listen any more."""
    log.critical("the event loop hangs: the process ends")
    os._exit(1)


async def _work(settings: Settings, handler: Handler, role: str) -> None:
    store = Store(await asyncio.to_thread(redis_url, settings, REDIS_WAIT_S))
    name = settings.worker_name or f"{socket.gethostname()}.{role}.{os.getpid()}"
    stage = Stage(settings, store, handler, name, _end)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stage.drain)
    heap.settle()
    try:
        await stage.run()
    finally:
        await store.close()
