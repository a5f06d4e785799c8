from __future__ import annotations

from edge.stopwatch import Stopwatch


def test_latencies_count_from_the_end_of_the_utterance() -> None:
    watch = Stopwatch(
        utterance_end=10.0, first_token=10.095, first_word=10.135, first_audio=10.185, made=11.0
    )
    measured = (watch.first_token_ms, watch.first_word_ms, watch.first_audio_ms, watch.total_ms)
    assert [round(each or 0, 6) for each in measured] == [95.0, 135.0, 185.0, 1000.0]


def test_a_latency_that_did_not_happen_here_is_none() -> None:
    assert Stopwatch(utterance_end=10.0).first_token_ms is None
    assert Stopwatch(first_audio=10.0).first_audio_ms is None
