"""What is left when everybody has gone: turns nobody works on, keys that live for ever, files and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import StoreError
from shared.keys import DEAD, GROUP, WORKERS, Role, batch_key, index_key, work_key
from tests.chaos.history import Left, now_s
from tests.chaos.world import World
from tests.stack import Process

LOOK_S = 0.5

FILES = 4
"""A process may have so many more files open than when it was new: connections come and go."""

RESIDENT_MB = 80.0
"""By so much may an edge have grown."""

KEPT = (WORKERS, DEAD, *(key(role) for role in Role for key in (work_key, index_key)))
"""Keys without a time to live, beside those of rq: `keys.py` has their bounds."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a process takes."""

    files: int
    resident_mb: float

    @classmethod
    def of(cls, process: Process) -> Size:
        """As the kernel counts it."""
        folder = Path("/proc") / str(process.pid)
        (line,) = (each for each in (folder / "status").read_text().splitlines() if each.startswith("VmRSS"))
        return cls(len(list((folder / "fd").iterdir())), int(line.split()[1]) / 1024)


async def leftovers(world: World, new: Sequence[Size], within_s: float) -> list[Left]:
    """What is still there after so long, though every conversation has ended. `new`: edges at their start."""
    for _ in range(1 + int(within_s / LOOK_S)):
        if not (found := await _found(world, new)):
            break
        await asyncio.sleep(LOOK_S)
    return found


async def _found(world: World, new: Sequence[Size]) -> list[Left]:
    at_s = now_s()
    found = [Left(at_s, what, *turn) for role in Role for what, turn in await _work(world, role)]
    if waiting := await world.store.call("LLEN", batch_key()):
        found.append(Left(at_s, f"{batch_key()} holds {waiting} jobs"))
    found += [Left(at_s, f"{key} lives for ever") for key in await _immortal(world)]
    files, resident_mb = max(each.files for each in new), max(each.resident_mb for each in new)
    for number, edge in enumerate(world.of("edge"), start=1):
        size = Size.of(edge)
        if size.files > files + FILES:
            found.append(Left(at_s, f"edge {number} has {size.files} files open, and had {files}"))
        if size.resident_mb > resident_mb + RESIDENT_MB:
            found.append(
                Left(at_s, f"edge {number} takes {size.resident_mb:.0f} MB, and took {resident_mb:.0f}")
            )
    return found


async def _work(world: World, role: Role) -> list[tuple[str, tuple[str, int]]]:
    stream, index = work_key(role), index_key(role)
    found = []
    for _, flat in await world.store.call("XRANGE", stream, "-", "+"):
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        turn = (fields[b"conversation"].decode(), int(fields[b"turn"]))
        found.append((f"{stream} holds it", turn))
    for field in (await world.store.call("HGETALL", index))[::2]:
        conversation, _, number = field.decode().partition(" ")
        found.append((f"{index} holds it", (conversation, int(number))))
    try:
        pending = (await world.store.call("XPENDING", stream, GROUP))[0]
    except StoreError:
        pending = 0  # There is no group: nobody has claimed anything since it was destroyed.
    if pending:
        found.append((f"{pending} claims are pending in {stream}", ("", 0)))
    return found


async def _immortal(world: World) -> list[str]:
    keys = [key.decode() for key in await world.store.call("KEYS", "*")]
    own = [key for key in keys if key not in KEPT and not key.startswith("rq:")]
    ttls = await world.store.call_all([("TTL", key) for key in own]) if own else []
    return [key for key, ttl in zip(own, ttls, strict=True) if ttl == -1]
