"""The figures of a run as rows: ours, the plain way's, the floor's, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.bench.models.bench import Figures
from tests.bench.models.figures import short
from tests.bench.models.goals import at


class Row(NamedTuple):
    """One line of the table; None for what was not measured or does not exist."""

    what: str
    unit: str
    ours: float | None
    tail: float | None
    """The p99, or what the row says."""
    plain: float | None = None
    floor: float | None = None


def rows(figures: Mapping[str, Figures]) -> list[Row]:
    """What was measured, in the order of the sections."""
    return [row for row in _all(figures) if row.ours is not None or row.plain is not None]


def _all(figures: Mapping[str, Figures]) -> Iterator[Row]:
    def timed(what: str, *path: str, plain: float | None = None, floor: float | None = None) -> Row:
        return Row(what, "ms", number(*path, "p50"), number(*path, "p99"), plain, floor)

    def number(*path: str) -> float | None:
        value: float | None = at(figures, path)
        return value

    token_floor, first_floor = number("floor", "token_ms"), number("floor", "first_token_ms")
    token, first = number("plain", "token_ms", "p50"), number("plain", "first_token_ms", "p50")
    yield timed("first token, Voxtral alone", "batch", "first_token_ms", plain=first, floor=first_floor)
    for count in at(figures, ("batch", "token_ms")) or {"1": None}:
        each = None if token is None else short(token * int(count))
        yield timed(f"a token for each of {count}", "batch", "token_ms", count, plain=each, floor=token_floor)
    for count, speed in (at(figures, ("batch", "tokens_per_s")) or {}).items():
        most = None if not token_floor else short(int(count) * 1000 / token_floor)
        yield Row(f"tokens of {count}", "1/s", speed, None, number("plain", "tokens_per_s"), most)
    many, places = at(figures, ("batch", "long", "rows")), at(figures, ("batch", "long", "places"))
    yield timed(
        f"a token for each of {many}, {places} places", "batch", "long", "token_ms", floor=token_floor
    )
    others = at(figures, ("batch", "join", "others"))
    yield timed(f"longest gap of {others} as 30 s join", "batch", "join", "longest_gap_ms")
    yield timed("  one step of theirs", "batch", "join", "step_ms")
    yield timed("  first token of who joins", "batch", "join", "first_token_ms")
    race = at(figures, ("batch", "race", "tokens_per_s")) or {}
    yield Row("tokens of 8 in a batch", "1/s", race.get("batch"), None, race.get("generate"))
    yield Row("  of 8, one after the other", "1/s", race.get("alone"), None, race.get("generate"))
    yield Row("tokens equal to float32's", "share", number("batch", "equal_to_float32", "share"), None)
    yield from _voice(figures)
    yield from _pipeline(figures)


def _voice(figures: Mapping[str, Figures]) -> Iterator[Row]:
    floor = at(figures, ("voice", "floor_ms"))
    for name, text in (at(figures, ("voice", "texts")) or {}).items():
        first, plain = text["first_frame_ms"], text["plain_ms"]
        yield Row(f"first sound of {name}", "ms", first["p50"], first["p99"], plain["p50"], floor)
        speed, plain = text["sound_s_per_s"], text["plain_sound_s_per_s"]
        yield Row("  sound", "s/s", speed["p50"], None, plain["p50"])
    for count, text in (at(figures, ("voice", "at_once")) or {}).items():
        first = text["first_frame_ms"]
        yield Row(f"first sound of {count} x 15 words", "ms", first["p50"], first["p99"])
        yield Row("  sound", "s/s", text["sound_s_per_s"]["p50"], None)


def _pipeline(figures: Mapping[str, Figures]) -> Iterator[Row]:
    """The plain way of these is what its parts take, without anything in between."""
    token, first = at(figures, ("plain", "token_ms", "p50")), at(figures, ("plain", "first_token_ms", "p50"))
    spoken = at(figures, ("voice", "texts", "Hello!", "plain_ms", "p50"))
    plain = None if None in (token, first, spoken) else short(first + token + spoken)
    floors = [at(figures, path) for path in _FLOORS]
    floor = None if None in floors else short(sum(floors))
    for name, title in _SCENES.items():
        scene = at(figures, ("pipeline", name))
        if scene is None:
            continue
        title = title.format(scene.get("conversations", 1))
        values = scene["first_token_ms"]
        yield Row(f"first token, {title}", "ms", values["p50"], values["p99"], first, floors[0])
        values = scene["first_audio_ms"]
        yield Row(f"first audio, {title}", "ms", values["p50"], values["p99"], plain, floor)
        if name not in ("one", "found"):
            yield Row("  its p95 and most", "ms", values["p95"], values["max"])


_FLOORS = (("floor", "first_token_ms"), ("floor", "token_ms"), ("voice", "floor_ms"))

_SCENES = {
    "one": "one conversation",
    "found": "one found by voice",
    "many": "{} conversations",
    "burst": "{} at the same moment",
}
