from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge.detection import WINDOW_SAMPLES, Heard
from edge.endpointing import (
    AUTO_CAP_MS,
    AUTO_FACTOR,
    AUTO_SILENCE_MS,
    Continued,
    Dropped,
    Ended,
    Endpointing,
    Event,
    Onset,
    Paused,
    ServerVad,
    Silence,
    Started,
)
from shared.audio import INPUT_RATE

VAD = ServerVad(threshold=0.5, silence_ms=160, pause_ms=64, min_speech_ms=96)
"""Ends after five windows, pauses after two, starts after three."""

VOICES = {"v": 0.9, "~": 0.4, ".": 0.1}
"""A window as a letter: a voice, neither yes nor no, none."""


def run(endpointing: Endpointing, windows: str) -> list[Event]:
    return [event for window in windows for event in endpointing.feed(Heard(VOICES[window]))]


def told(events: list[Event]) -> list[tuple[str, int]]:
    """Names, and places in windows."""
    assert all(event.place % WINDOW_SAMPLES == 0 for event in events)
    return [(type(event).__name__, event.place // WINDOW_SAMPLES) for event in events]


def of(windows: str, vad: ServerVad = VAD) -> list[tuple[str, int]]:
    return told(run(Endpointing(vad), windows))


def windows_of(ms: float) -> int:
    """How many windows it takes to last so long."""
    return int(-(-ms * INPUT_RATE // (1000 * WINDOW_SAMPLES)))


# ---- one utterance


def test_silence_is_nothing() -> None:
    assert of("." * 100) == []


def test_an_utterance_starts_at_its_onset_pauses_and_ends() -> None:
    assert of("..vvvv.....") == [("Onset", 2), ("Started", 2), ("Paused", 8), ("Ended", 11)]


def test_a_short_sound_is_dropped_after_a_pause() -> None:
    assert of("..vv..") == [("Onset", 2), ("Dropped", 6)]


def test_what_is_dropped_counts_for_nothing_afterwards() -> None:
    assert of("vv..v..vvv") == [
        ("Onset", 0),
        ("Dropped", 4),
        ("Onset", 4),
        ("Dropped", 7),
        ("Onset", 7),
        ("Started", 7),
    ]


def test_a_gap_shorter_than_a_pause_neither_drops_a_candidate_nor_counts_as_its_voice() -> None:
    assert of("v.v.v") == [("Onset", 0), ("Started", 0)]
    assert of("v.v.") == [("Onset", 0)]


def test_a_gap_shorter_than_a_pause_is_no_pause() -> None:
    assert of("vvv.v.v.v.") == [("Onset", 0), ("Started", 0)]


def test_who_goes_on_after_a_pause_continues_where_the_voice_is() -> None:
    assert of("vvv....v") == [("Onset", 0), ("Started", 0), ("Paused", 5), ("Continued", 7)]


def test_silence_is_counted_from_the_last_voice() -> None:
    assert of("vvv....v....") == [
        ("Onset", 0),
        ("Started", 0),
        ("Paused", 5),
        ("Continued", 7),
        ("Paused", 10),
    ]


def test_a_second_utterance_is_like_the_first() -> None:
    first = of("vvv.....")
    assert of("vvv....." * 2) == [*first, *((name, place + 8) for name, place in first)]


def test_no_shortest_speech_starts_an_utterance_at_once() -> None:
    assert of("v", replace(VAD, min_speech_ms=0)) == [("Onset", 0), ("Started", 0)]


def test_where_the_pause_is_the_silence_it_ends_in_the_same_window() -> None:
    assert of("vvv..", replace(VAD, silence_ms=64)) == [
        ("Onset", 0),
        ("Started", 0),
        ("Paused", 5),
        ("Ended", 5),
    ]


def test_places_count_from_where_it_began() -> None:
    endpointing = Endpointing(VAD, place=100)
    assert run(endpointing, ".vvv") == [Onset(100 + 512), Started(100 + 512)]
    assert endpointing.place == 100 + 4 * 512


# ---- what is a voice


def test_a_window_between_the_thresholds_is_like_the_one_before() -> None:
    assert of("~~~~~~") == []
    assert of("v~~") == [("Onset", 0), ("Started", 0)]
    assert of("vvv.~") == [("Onset", 0), ("Started", 0), ("Paused", 5)]


@pytest.mark.parametrize(
    ("threshold", "quiet"), [(0.5, 0.35), (0.3, 0.15), (0.2, 0.1), (0.02, 0.01), (1.0, 0.85)]
)
def test_a_voice_ends_below_a_second_threshold(threshold: float, quiet: float) -> None:
    vad = replace(VAD, threshold=threshold)
    just_under, just_above = quiet - 1e-6, quiet + 1e-6
    for voice, paused in [(just_under, True), (just_above, False)]:
        endpointing = Endpointing(vad)
        run_of = [*[threshold] * 3, *[voice] * 2]
        events = [event for each in run_of for event in endpointing.feed(Heard(each))]
        assert [type(event) for event in events][:2] == [Onset, Started]
        assert endpointing.paused is paused
    assert Endpointing(vad).feed(Heard(threshold - 1e-6)) == []


# ---- a detector that knows whether the user has finished


def test_a_pause_of_who_has_finished_is_the_end() -> None:
    endpointing = Endpointing(VAD)
    run(endpointing, "vvv.")
    assert told(endpointing.feed(Heard(0.0, ended=0.5))) == [("Paused", 5), ("Ended", 5)]


def test_who_is_found_to_have_finished_later_ends_there() -> None:
    endpointing = Endpointing(VAD)
    run(endpointing, "vvv..")
    assert endpointing.feed(Heard(0.0, ended=0.49)) == []
    assert told(endpointing.feed(Heard(0.0, ended=0.5))) == [("Ended", 7)]


def test_nobody_has_finished_while_there_is_a_voice_or_before_a_pause() -> None:
    endpointing = Endpointing(VAD)
    events = [event for _ in range(4) for event in endpointing.feed(Heard(0.9, ended=1.0))]
    events += endpointing.feed(Heard(0.0, ended=1.0))
    assert told(events) == [("Onset", 0), ("Started", 0)]


# ---- how long a silence must be


AUTO = replace(VAD, silence_ms=Silence.AUTO)


def test_auto_begins_with_its_least() -> None:
    least = windows_of(AUTO_SILENCE_MS)
    assert of("vvv" + "." * (least - 1), AUTO)[-1] == ("Paused", 5)
    assert of("vvv" + "." * least, AUTO)[-1] == ("Ended", 3 + least)


def test_auto_waits_longer_for_who_paused_longer() -> None:
    pause = windows_of(AUTO_SILENCE_MS) - 1
    longer = windows_of(AUTO_FACTOR * pause * 32)
    before = "vvv" + "." * pause + "v"
    assert of(before + "." * (longer - 1), AUTO)[-1] == ("Paused", len(before) + 2)
    assert of(before + "." * longer, AUTO)[-1] == ("Ended", len(before) + longer)


def test_auto_remembers_the_longest_pause_not_the_last() -> None:
    pause = windows_of(AUTO_SILENCE_MS) - 1
    longer = windows_of(AUTO_FACTOR * pause * 32)
    before = "vvv" + "." * pause + "v..v"
    assert of(before + "." * longer, AUTO)[-1] == ("Ended", len(before) + longer)


def test_auto_forgets_with_the_utterance() -> None:
    least = windows_of(AUTO_SILENCE_MS)
    before = "vvv" + "." * (least - 1) + "v" + "." * windows_of(AUTO_CAP_MS)
    assert of(before + "vvv" + "." * least, AUTO)[-1] == ("Ended", len(before) + 3 + least)


def test_auto_does_not_grow_without_end() -> None:
    endpointing = Endpointing(AUTO)
    run(endpointing, "vvv")
    for _ in range(10):
        run(endpointing, "." * (windows_of(endpointing.silence_ms) - 1) + "v")
        assert endpointing.speaking
    assert endpointing.silence_ms == 2000.0
    assert told(run(endpointing, "." * windows_of(AUTO_CAP_MS)))[-1][0] == "Ended"


# ---- what it tells of itself


def test_it_tells_where_it_stands() -> None:
    endpointing = Endpointing(VAD)

    def standing(windows: str) -> tuple[bool, bool, bool]:
        run(endpointing, windows)
        return endpointing.maybe, endpointing.speaking, endpointing.paused

    assert standing(".") == (False, False, False)
    assert standing("vv") == (True, False, False)
    assert standing("v") == (False, True, False)
    assert standing("..") == (False, True, True)
    assert standing("v") == (False, True, False)
    assert standing(".....") == (False, False, False)


def test_it_tells_where_the_voice_began_and_ended() -> None:
    endpointing = Endpointing(VAD)
    run(endpointing, ".vvv...v.....")
    assert (endpointing.onset, endpointing.voice_upto) == (1 * WINDOW_SAMPLES, 8 * WINDOW_SAMPLES)


# ---- ended, taken over, passed over


def test_what_was_ended_from_outside_is_followed_by_a_new_utterance() -> None:
    endpointing = Endpointing(VAD)
    run(endpointing, "vvvv")
    endpointing.end()
    assert not endpointing.speaking
    assert told(run(endpointing, "vvv")) == [("Onset", 4), ("Started", 4)]


def test_the_last_of_a_voice_that_was_ended_from_outside_is_no_onset() -> None:
    endpointing = Endpointing(VAD)
    run(endpointing, "vvvv")
    endpointing.end()
    assert run(endpointing, "~~...") == []


def test_a_candidate_that_was_ended_from_outside_is_not_told_of_again() -> None:
    endpointing = Endpointing(VAD)
    run(endpointing, "vv")
    endpointing.end()
    assert not endpointing.maybe
    assert run(endpointing, ".....") == []


def test_an_utterance_that_was_taken_over_goes_on() -> None:
    endpointing = Endpointing(VAD, place=10 * WINDOW_SAMPLES)
    endpointing.resume(paused=False)
    assert endpointing.speaking and not endpointing.paused
    assert told(run(endpointing, "~.....")) == [("Paused", 13), ("Ended", 16)]


def test_a_pause_that_was_taken_over_ends_after_as_much_silence_as_without() -> None:
    without = Endpointing(VAD)
    run(without, "vvvvv..")
    taken = Endpointing(VAD, place=without.place)
    taken.resume(paused=True)
    assert taken.paused and taken.voice_upto == without.voice_upto
    assert run(taken, "...") == run(without, "...") == [Ended(10 * WINDOW_SAMPLES)]


def test_who_goes_on_after_a_pause_that_was_taken_over_continues() -> None:
    endpointing = Endpointing(VAD, place=7 * WINDOW_SAMPLES)
    endpointing.resume(paused=True)
    assert told(run(endpointing, ".v")) == [("Continued", 8)]


def test_a_candidate_does_not_outlive_a_stretch_that_nobody_judged() -> None:
    endpointing = Endpointing(VAD)
    run(endpointing, "vv")
    assert endpointing.skip(1000) == [Dropped(2 * WINDOW_SAMPLES + 1000)]
    assert endpointing.feed(Heard(0.4)) == []
    assert endpointing.feed(Heard(0.9)) == [Onset(3 * WINDOW_SAMPLES + 1000)]


def test_an_utterance_outlives_a_stretch_that_nobody_judged() -> None:
    endpointing = Endpointing(VAD)
    run(endpointing, "vvv.")
    assert endpointing.skip(100 * WINDOW_SAMPLES) == []
    assert told(run(endpointing, "....")) == [("Paused", 105), ("Ended", 108)]


# ---- whatever happens


MS = st.integers(0, 40).map(lambda tens: 10.0 * tens)
VADS = st.builds(
    ServerVad,
    threshold=st.sampled_from([0.2, 0.5, 0.8]),
    silence_ms=st.one_of(st.integers(10, 60).map(lambda tens: 10.0 * tens), st.just(Silence.AUTO)),
    pause_ms=st.integers(5, 40).map(lambda tens: 10.0 * tens),
    min_speech_ms=MS,
).filter(lambda vad: isinstance(vad.silence_ms, Silence) or vad.pause_ms <= vad.silence_ms)
RUNS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.4, 0.6, 0.9]), st.integers(1, 40)), max_size=30
).map(lambda runs: [voice for voice, count in runs for _ in range(count)])

FOLLOWS: dict[type[Event] | None, set[type[Event]]] = {
    None: {Onset},
    Onset: {Dropped, Started},
    Dropped: {Onset},
    Started: {Paused},
    Paused: {Continued, Ended},
    Continued: {Paused},
    Ended: {Onset},
}


def judged(vad: ServerVad, voices: list[float]) -> tuple[list[tuple[int, Event]], list[bool]]:
    """Each event with how many windows had been fed by then, and which windows hold a voice."""
    endpointing = Endpointing(vad)
    quiet = vad.threshold - min(0.15, vad.threshold / 2)
    events: list[tuple[int, Event]] = []
    voiced = [False]
    for number, voice in enumerate(voices, 1):
        events += ((number, event) for event in endpointing.feed(Heard(voice)))
        voiced.append(voice >= vad.threshold or (voice >= quiet and voiced[-1]))
    return events, voiced[1:]


def quiet_before(voiced: list[bool], number: int) -> int:
    """How many windows in a row up to there hold no voice."""
    return next((back for back in range(number) if voiced[number - 1 - back]), number)


@given(VADS, RUNS)
def test_events_follow_each_other_as_they_may(vad: ServerVad, voices: list[float]) -> None:
    last: type[Event] | None = None
    for _, event in judged(vad, voices)[0]:
        assert type(event) in FOLLOWS[last]
        last = type(event)


@given(VADS, RUNS)
def test_places_never_go_back(vad: ServerVad, voices: list[float]) -> None:
    onset = place = 0
    for number, event in judged(vad, voices)[0]:
        if isinstance(event, Started):
            assert event.place == onset
            continue
        fed = number * WINDOW_SAMPLES
        assert event.place == (fed - WINDOW_SAMPLES if isinstance(event, Onset | Continued) else fed)
        assert event.place >= place
        place = event.place
        onset = event.place if isinstance(event, Onset) else onset


@given(VADS, RUNS)
def test_speech_starts_exactly_when_enough_of_it_is_there(vad: ServerVad, voices: list[float]) -> None:
    events, voiced = judged(vad, voices)
    enough, pause = max(windows_of(vad.min_speech_ms), 1), windows_of(vad.pause_ms)
    candidates = [(number, event) for number, event in events if isinstance(event, Onset | Dropped | Started)]
    for (began, onset), (number, outcome) in zip(candidates[::2], candidates[1::2], strict=False):
        assert isinstance(onset, Onset)
        spoken = sum(voiced[began - 1 : number])
        if isinstance(outcome, Started):
            assert spoken == enough and voiced[number - 1]
        else:
            assert spoken < enough and quiet_before(voiced, number) == pause
    if len(candidates) % 2:
        assert sum(voiced[candidates[-1][0] - 1 :]) < enough
        assert quiet_before(voiced, len(voiced)) < pause


@given(VADS, RUNS)
def test_an_utterance_pauses_and_ends_after_that_much_silence(vad: ServerVad, voices: list[float]) -> None:
    events, voiced = judged(vad, voices)
    longest = 0.0
    for number, event in events:
        silence_ms = (
            min(max(AUTO_SILENCE_MS, AUTO_FACTOR * longest), AUTO_CAP_MS)
            if isinstance(vad.silence_ms, Silence)
            else vad.silence_ms
        )
        match event:
            case Started():
                longest = 0.0
            case Paused():
                assert quiet_before(voiced, number) == windows_of(vad.pause_ms)
            case Continued():
                assert voiced[number - 1]
                assert quiet_before(voiced, number - 1) < windows_of(silence_ms)
                longest = max(longest, quiet_before(voiced, number - 1) * 32.0)
            case Ended():
                assert quiet_before(voiced, number) == windows_of(silence_ms)


@given(VADS, RUNS)
def test_every_onset_in_silence_is_told_of(vad: ServerVad, voices: list[float]) -> None:
    events, voiced = judged(vad, voices)
    told_of = {number: event for number, event in events if isinstance(event, Onset)}
    assume(any(voiced))
    assert voiced.index(True) + 1 in told_of
    for (number, event), following in zip(events, [*events[1:], None], strict=True):
        if isinstance(event, Dropped | Ended):
            silent = voiced[number : None if following is None else following[0] - 1]
            assert not any(silent)


@given(VADS, RUNS, st.data())
def test_an_utterance_that_another_takes_over_at_a_pause_ends_no_later_and_no_earlier(
    vad: ServerVad, voices: list[float], data: st.DataObject
) -> None:
    """But for what `auto` had learned of it."""
    vad = replace(vad, silence_ms=500.0) if isinstance(vad.silence_ms, Silence) else vad
    events, _ = judged(vad, voices)
    pauses = [number for number, event in dict(events).items() if isinstance(event, Paused)]
    assume(pauses)
    number = data.draw(st.sampled_from(pauses))
    taken = Endpointing(vad, place=number * WINDOW_SAMPLES)
    taken.resume(paused=True)
    later = [event for voice in voices[number:] for event in taken.feed(Heard(voice))]
    assert later == [event for at, event in events if at > number]
