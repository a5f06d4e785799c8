from __future__ import annotations

from deploy.cli.timeline import details, merged, rows, summaries
from shared.wire import (
    Address,
    Chunk,
    Closed,
    Entry,
    Frame,
    Log,
    Open,
    Payload,
    ReplyEnd,
    Semantic,
    SpeechEnd,
    Take,
    Token,
    UtteranceEnd,
)

EDGE, LLM, TTS, OTHER = "e" * 16, "a" * 16, "b" * 16, "c" * 16
MS = 1000


def log(*entries: tuple[str, int, Payload], turn: int = 1) -> list[Entry]:
    """Entries of one turn from seq 0 on: each writer, time in ms, payload."""
    return [
        Entry(Address(turn, seq), writer, at_ms * MS, payload)
        for seq, (writer, at_ms, payload) in enumerate(entries)
    ]


AUDIO = log(
    (EDGE, 0, Open(voice="en-gb")),
    (EDGE, 20, Chunk(0, bytes(640))),
    (EDGE, 40, Chunk(320, bytes(640))),
    (EDGE, 60, UtteranceEnd("client", 640)),
)
TEXT = log(
    (LLM, 5, Take("claim", "llm.1")),
    (LLM, 160, Token("Hello", (1, 2))),
    (OTHER, 165, Take("retry", "llm.2")),
    (OTHER, 170, Token("!")),
    (OTHER, 170, Semantic("Hello!", 0, 6, "sentence_end")),
    (OTHER, 175, ReplyEnd("stop", 2, 1)),
)
SPEECH = log(
    (TTS, 5, Take("claim", "tts.1")),
    (TTS, 210, Frame(0, 0, False, bytes(4800))),
    (TTS, 220, Frame(0, 2400, True, bytes(2400))),
    (TTS, 230, SpeechEnd("stop", 3600)),
)
LOGS = {Log.AUDIO: AUDIO, Log.TEXT: TEXT, Log.SPEECH: SPEECH}


def test_the_logs_are_merged_by_time() -> None:
    times = [entry.at_us for _, entry in merged(LOGS)]
    assert times == sorted(times)
    assert len(times) == len(AUDIO) + len(TEXT) + len(SPEECH)


def test_a_slow_clock_turns_no_log_upside_down() -> None:
    skewed = log(
        (LLM, 100, Take()), (LLM, 110, Token("a")), (OTHER, 50, Take("retry")), (OTHER, 60, Token("b"))
    )
    order = [entry.address.seq for _, entry in merged({Log.TEXT: skewed, Log.AUDIO: AUDIO})]
    assert [seq for log_, seq in zip(order, order, strict=True) if log_ == seq] == order
    texts = [
        entry.address.seq for log_, entry in merged({Log.TEXT: skewed, Log.AUDIO: AUDIO}) if log_ is Log.TEXT
    ]
    assert texts == [0, 1, 2, 3]


def test_audio_of_one_writer_that_nothing_interrupts_is_one_row() -> None:
    found = [(row.log, str(row.first.address), row.count) for row in rows(merged(LOGS))]
    assert found[0] == (Log.AUDIO, "1-0", 1)
    assert (Log.AUDIO, "1-1", 2) in found
    assert (Log.SPEECH, "1-1", 2) in found
    assert sum(count for _, _, count in found) == len(AUDIO) + len(TEXT) + len(SPEECH)


def test_every_entry_can_have_a_row_of_its_own() -> None:
    assert all(row.count == 1 for row in rows(merged(LOGS), together=False))


def test_frames_of_two_chunks_stand_in_two_rows() -> None:
    speech = log((TTS, 1, Frame(0, 0, True, bytes(2))), (TTS, 2, Frame(1, 0, True, bytes(2))))
    assert len(list(rows(merged({Log.SPEECH: speech})))) == 2


def test_each_row_says_what_it_holds() -> None:
    assert [details(row) for row in rows(merged(LOGS))] == [
        "voice 'en-gb'",
        "claim by llm.1",
        "claim by tts.1",
        "2 x 640 bytes, 40 ms at 0.00 s of the input",
        "client, at 0.04 s of the input",
        "'Hello' ids 1 2",
        "retry by llm.2",
        "'!'",
        "'Hello!' sentence_end",
        "stop, 2 tokens, 1 chunks",
        "2 x 4,800 bytes, 150 ms of chunk 0, its last",
        "stop, 0.15 s",
    ]


def test_a_turn_is_summed_up() -> None:
    (summary,) = summaries(LOGS)
    assert summary.turn == 1
    assert not summary.typed
    assert summary.utterance_s == 0.04
    assert (summary.tokens, summary.chunks, summary.speech_s) == (2, 1, 0.15)
    assert (summary.first_token_ms, summary.first_frame_ms) == (100.0, 150.0)
    assert summary.takes == ("text at 2 by llm.2 (retry)",)
    assert summary.ended == "answered"


def test_a_summary_says_how_far_a_turn_has_come_and_how_it_ended() -> None:
    def ended(**logs: list[Entry]) -> str:
        return summaries({Log(name): entries for name, entries in logs.items()})[0].ended

    cut = log((TTS, 1, Take()), (EDGE, 2, Closed("barge_in", heard_ms=500.0, heard_text="Hel")))
    failed = log((EDGE, 1, Closed("failed", code="engine_failed", message="out of memory")))
    heard = [*SPEECH, Entry(Address(1, 4), EDGE, 300 * MS, Closed("heard", heard_ms=150.0))]
    assert ended(audio=AUDIO[:2]) == "being spoken"
    assert ended(audio=AUDIO) == "being answered"
    assert ended(audio=AUDIO, speech=cut) == "barge_in, 0.50 s heard: 'Hel'"
    assert ended(audio=AUDIO, text=failed) == "failed: engine_failed: out of memory"
    assert ended(audio=AUDIO, text=TEXT, speech=heard) == "answered; heard, 0.15 s heard"


def test_a_typed_turn_is_summed_up_without_speech_of_the_user() -> None:
    typed = log((EDGE, 0, Open(text="hello?")), (EDGE, 0, UtteranceEnd("client", 0)), turn=3)
    (summary,) = summaries({Log.AUDIO: typed})
    assert (summary.turn, summary.typed, summary.utterance_s, summary.first_token_ms) == (3, True, 0.0, None)
