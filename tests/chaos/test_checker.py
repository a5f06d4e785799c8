"""Each check fires on a history that breaks its promise, and only it; a good history breaks none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shared.audio import FRAME_SAMPLES, SAMPLE_BYTES
from shared.wire import Log
from tests.chaos import payload
from tests.chaos.checker import CHECKS, GRACE_S, POISON, check
from tests.chaos.history import Event, History, Left, Line, Lost, Read, Received, Sent, Struck, whole
from tests.chaos.payload import Piece, piece_of
from workers.tts.engines.scripted import hash_of

CONVERSATION, SPEAKER = "0123456789abcdef", "client-1"
INPUT = payload.utterance(SPEAKER, 1, 300)

Breaking = Callable[[list[Any]], None]


def clean(turn: int = 1) -> list[Any]:
    """What happens in a good turn of 24 words."""
    data = payload.utterance(SPEAKER, turn, 300)
    said = whole(0.1, CONVERSATION, SPEAKER, turn, "end", data)
    tokens = payload.answer(CONVERSATION, turn, payload.heard(data))
    chunks = ["".join(tokens[:7]), "".join(tokens[7:])]
    pieces = [piece for number, chunk in enumerate(chunks) for piece in frames(turn, number, chunk)]
    texts = [("token", token) for token in tokens]
    texts[7:7], texts[len(texts) :] = [("semantic", chunks[0])], [("semantic", chunks[1])]
    events: list[Any] = [Sent(0.0, CONVERSATION, SPEAKER, turn, "audio"), said]
    marks = {"token": 0, "semantic": 0}
    for seq, (kind, text) in enumerate(texts, start=1):
        address = f"text:{turn}-{seq}"
        events.append(Received(1.0, CONVERSATION, f"{kind}_chunk", turn, address, marks[kind], text))
        marks[kind] += 1
    for seq, piece in enumerate(pieces, start=1):
        address = f"speech:{turn}-{seq}"
        events.append(
            Received(2.0, CONVERSATION, "sequential_audio", turn, address, seq - 1, pieces=(piece,))
        )
    ending = f"speech:{turn}-{len(pieces) + 1}"
    events.append(
        Received(3.0, CONVERSATION, "chunked_streaming_complete", turn, ending, None, "".join(tokens))
    )
    half = len(data) // 2
    slices = [piece_of(data[:half]), piece_of(data[half:])]
    events.append(log(turn, Log.AUDIO, Line(0, "e", "open"), *(line("chunk", piece=s) for s in slices)))
    events.append(log(turn, Log.TEXT, line("take"), *(line(kind, text) for kind, text in texts)))
    events.append(log(turn, Log.SPEECH, line("take"), *(line("frame", piece=piece) for piece in pieces)))
    return events


def frames(turn: int, chunk: int, text: str) -> list[Piece]:
    """The frames of a semantic chunk."""
    length = payload.samples_of(text)
    return [
        Piece(hash_of(CONVERSATION), turn, chunk, place, min(FRAME_SAMPLES, length - place))
        for place in range(0, length, FRAME_SAMPLES)
    ]


def line(kind: str, text: str | None = None, piece: Piece | None = None) -> Line:
    """An entry; `log` gives it its place."""
    return Line(0, "w", kind, text, piece)


def log(turn: int, name: Log, *lines: Line) -> Read:
    """A turn that ends in order."""
    placed = [replace(each, seq=seq, writer="w") for seq, each in enumerate((*lines, line("end")))]
    return Read(4.0, CONVERSATION, name, turn, tuple(placed))


def find(events: list[Any], of: type[Event], **fields: object) -> int:
    """The place of the first event that has these fields."""
    wanted = fields.items()
    return next(
        place
        for place, event in enumerate(events)
        if isinstance(event, of) and all(getattr(event, name) == value for name, value in wanted)
    )


def message(events: list[Any], kind: str, mark: int | None = None) -> int:
    """The place of a message."""
    return find(events, Received, kind=kind, mark=mark)


def change_log(events: list[Any], name: Log, change: Callable[[list[Line]], list[Line]]) -> None:
    """Let another log have been read."""
    place = find(events, Read, log=name)
    events[place] = replace(events[place], lines=tuple(change(list(events[place].lines))))


def numbered(lines: list[Line]) -> list[Line]:
    """The lines without a hole between them."""
    return [replace(each, seq=seq) for seq, each in enumerate(lines)]


def _input_is_lost(events: list[Any]) -> None:
    change_log(events, Log.AUDIO, lambda lines: numbered(lines[:2] + lines[3:]))


def _the_engine_heard_less(events: list[Any]) -> None:
    place = find(events, Sent, kind="end")
    events.pop(find(events, Read, log=Log.AUDIO))
    events[place] = replace(events[place], amount=events[place].amount + 480)


def _a_frame_is_lost(events: list[Any]) -> None:
    gone = events.pop(message(events, "sequential_audio", 3))
    for place, event in enumerate(events):
        if isinstance(event, Received) and event.kind == gone.kind and (event.mark or 0) > 3:
            events[place] = replace(event, mark=(event.mark or 0) - 1)


def _the_last_word_is_lost(events: list[Any]) -> None:
    events.pop(message(events, "token_chunk", 23))


def _words_stand_in_no_log(events: list[Any]) -> None:
    change_log(events, Log.TEXT, lambda lines: numbered(lines[:3] + lines[4:]))


def _a_frame_comes_again(events: list[Any]) -> None:
    place = message(events, "sequential_audio", 3)
    events.insert(place + 1, events[place])


def _a_word_is_written_again(events: list[Any]) -> None:
    change_log(events, Log.TEXT, lambda lines: numbered([*lines[:3], lines[2], *lines[3:]]))


def _two_frames_change_places(events: list[Any]) -> None:
    place = message(events, "sequential_audio", 3)
    first, second = events[place], events[place + 1]
    events[place], events[place + 1] = (
        replace(first, pieces=second.pieces),
        replace(second, pieces=first.pieces),
    )


def _a_turn_is_overtaken(events: list[Any]) -> None:
    later = clean(2)
    place = message(events, "sequential_audio", 3)
    early = later.pop(message(later, "sequential_audio", 0))
    events.insert(place, early)
    events += later


def _a_frame_is_another_turn_s(events: list[Any]) -> None:
    place = message(events, "sequential_audio", 3)
    (piece,) = events[place].pieces
    events[place] = replace(events[place], pieces=(piece._replace(turn=2),))


def _nobody_ends_the_turn(events: list[Any]) -> None:
    events.pop(message(events, "chunked_streaming_complete"))


def _the_client_gives_up(events: list[Any]) -> None:
    events.append(Lost(9.0, CONVERSATION, "not_found"))


def _the_turn_ends_again(events: list[Any]) -> None:
    place = message(events, "chunked_streaming_complete")
    events.insert(place + 1, replace(events[place], kind="error", address="text:1-40", text="deadline"))


def _the_turn_fails(events: list[Any]) -> None:
    place = message(events, "chunked_streaming_complete")
    events[place] = replace(events[place], kind="error", text="deadline")


def _another_writer_goes_on(events: list[Any]) -> None:
    change_log(events, Log.TEXT, lambda lines: [*lines[:9], *(replace(e, writer="x") for e in lines[9:])])


def _the_log_has_a_hole(events: list[Any]) -> None:
    change_log(events, Log.SPEECH, lambda lines: [*lines[:-1], replace(lines[-1], seq=lines[-1].seq + 1)])


def _the_log_goes_on_after_its_end(events: list[Any]) -> None:
    change_log(events, Log.SPEECH, lambda lines: numbered([*lines, line("take")]))


def _work_is_left(events: list[Any]) -> None:
    events.append(Left(9.0, "work:reply:0 holds it", CONVERSATION, 1))


def _memory_is_left(events: list[Any]) -> None:
    events.append(Left(9.0, "an edge has 12 more files open"))


BREAKINGS: list[tuple[str, Breaking]] = [
    ("lost-input", _input_is_lost),
    ("lost-input", _the_engine_heard_less),
    ("lost-output", _a_frame_is_lost),
    ("lost-output", _the_last_word_is_lost),
    ("lost-output", _words_stand_in_no_log),
    ("doubled", _a_frame_comes_again),
    ("doubled", _a_word_is_written_again),
    ("out-of-order", _two_frames_change_places),
    ("out-of-order", _a_turn_is_overtaken),
    ("crossed", _a_frame_is_another_turn_s),
    ("no-ending", _nobody_ends_the_turn),
    ("no-ending", _the_client_gives_up),
    ("two-endings", _the_turn_ends_again),
    ("failed-turn", _the_turn_fails),
    ("spliced", _another_writer_goes_on),
    ("spliced", _the_log_has_a_hole),
    ("spliced", _the_log_goes_on_after_its_end),
    ("leftovers", _work_is_left),
    ("leftovers", _memory_is_left),
]


def found(events: list[Any]) -> set[str]:
    """The checks that fire."""
    return {violation.check for violation in check(History(events))}


def test_a_good_history_breaks_no_promise() -> None:
    assert check(History(clean(1) + clean(2))) == []


@pytest.mark.parametrize(("name", "breaking"), BREAKINGS, ids=lambda each: getattr(each, "__name__", None))
def test_a_check_fires_on_what_it_is_for_and_no_other_does(name: str, breaking: Breaking) -> None:
    events = clean()
    breaking(events)
    assert found(events) == {name}


def test_every_check_has_a_history_that_it_fires_on() -> None:
    assert {name for name, _ in BREAKINGS} == set(CHECKS)


def test_a_turn_may_be_interrupted_by_the_user_and_by_nobody_else() -> None:
    events = clean()
    place = message(events, "sequential_audio", 5)
    events[place] = replace(events[place], kind="audio_interrupted", pieces=(), mark=None)
    del events[place + 1 : find(events, Read)]
    assert found(events) == {"failed-turn"}
    events.insert(place, Sent(1.5, CONVERSATION, SPEAKER, 1, "interrupt"))
    assert found(events) == set()


def test_a_turn_may_fail_where_something_was_broken_that_may_cost_it_and_not_long_after() -> None:
    events = clean()
    _the_turn_fails(events)
    struck = Struck(0.5, "flushall", "text:1-3", fails=True)
    assert found([struck, *events]) == set()
    over = replace(struck, at_s=0.6, over=True)
    assert found([struck, over, *events]) == set()
    long_ago = [replace(each, at_s=each.at_s - GRACE_S - 1) for each in (struck, over)]
    assert found([*long_ago, *events]) == {"failed-turn"}
    assert found([replace(struck, fails=False), *events]) == {"failed-turn"}


def test_a_poisoned_turn_may_fail() -> None:
    text = f"{POISON} please"
    events = [
        whole(0.1, CONVERSATION, SPEAKER, 1, "text", text),
        Received(3.0, CONVERSATION, "error", 1, "text:1-4", None, "engine_failed"),
    ]
    assert found(events) == set()


def test_what_is_left_of_a_turn_that_is_convicted_is_no_second_violation() -> None:
    events = clean()
    _nobody_ends_the_turn(events)
    _work_is_left(events)
    assert found(events) == {"no-ending"}


def test_a_history_is_read_as_it_was_written(tmp_path: Any) -> None:
    events = [*clean(), Lost(9.0, CONVERSATION, "gone"), Struck(1.0, "kill", "text:1-3")]
    path = tmp_path / "history.jsonl"
    History(events).save(path)
    assert History.load(path.read_text().splitlines()).events == events


def test_input_is_known_by_its_samples() -> None:
    assert len(INPUT) == 4800 * SAMPLE_BYTES
    assert piece_of(INPUT[640 * SAMPLE_BYTES :][: 320 * SAMPLE_BYTES]) == Piece(
        hash_of(SPEAKER), 1, 0, 640, 320
    )
