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
from shared.errors import ParleyError, SettingsError
from shared.settings import EX_CONFIG, Settings, load, redis_url
from shared.store import Store
from workers.stage import Handler, Stage

log = logging.getLogger(__name__)

REDIS_WAIT_S = 30.0


def main(role: str, make_handler: Callable[[Settings], Handler]) -> int:
    """Run a worker until SIGTERM or SIGINT; its exit status. 78 means a setting that cannot be used."""
    settings = load()
    logs.configure(settings.log_level, role)
    try:
        handler = make_handler(settings)
        uvloop.run(_work(settings, handler, role))
    except SettingsError as error:
        log.error("bad setting: %s", error)
        return EX_CONFIG
    except ParleyError as error:
        log.error("%s", error)
        return 1
    return 0


async def _work(settings: Settings, handler: Handler, role: str) -> None:
    store = Store(await asyncio.to_thread(redis_url, settings, REDIS_WAIT_S))
    name = settings.worker_name or f"{socket.gethostname()}.{role}.{os.getpid()}"
    stage = Stage(settings, store, handler, name)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stage.drain)
    heap.settle()
    try:
        await stage.run()
    finally:
        await store.close()
