"""Lines of the transcript as messages of Parley's own protocol. Pure."""

from __future__ import annotations

from edge.dialogue import Notes
from edge.protocols import messages
from edge.protocols.messages import Message, place
from edge.protocols.native import OutputFormat
from edge.room import retry_after_ms
from edge.transcript import Complete, Failed, FrameLine, Interrupted, SemanticLine, TokenLine, Whole
from shared.audio import OUTPUT_RATE, to_wav
from shared.errors import ClientError
from shared.wire import Log


def token(line: TokenLine, timestamp: float) -> Message:
    """`token_chunk`; `timestamp` is Unix time in ms, here and below."""
    return messages.token_chunk(
        line.turn,
        line.text,
        chunk_sequence=line.sequence,
        inter_token_latency_ms=line.gap_ms,
        timestamp=timestamp,
        address=place(Log.TEXT, line.address),
    )


def semantic(line: SemanticLine) -> Message:
    """`semantic_chunk`."""
    return messages.semantic_chunk(
        line.turn,
        line.text,
        full_text_so_far=line.so_far,
        chunk_sequence=line.sequence,
        boundary_type=line.boundary,
        address=place(Log.TEXT, line.address),
    )


def frame(line: FrameLine, notes: Notes, timestamp: float) -> Message:
    """`sequential_audio`, in the format of the turn."""
    wav = notes.output_format is OutputFormat.WAV
    return messages.sequential_audio(
        line.turn,
        to_wav(line.pcm, OUTPUT_RATE) if wav else line.pcm,
        sample_rate=OUTPUT_RATE,
        chunk_index=line.chunk,
        frame_index=line.index,
        voice=notes.voice,
        duration_ms=line.duration_ms,
        format=notes.output_format.value,
        timestamp=timestamp,
        address=place(Log.SPEECH, line.address),
        text_source=line.source,
    )


def ending(line: Complete, notes: Notes) -> Message:
    """What ends an answer that is whole: `audio_response` for a batch turn."""
    return response(line, notes) if isinstance(line, Whole) else complete(line, notes)


def response(line: Whole, notes: Notes) -> Message:
    """`audio_response`, in the format of the turn."""
    wav = notes.output_format is OutputFormat.WAV
    return messages.audio_response(
        line.turn,
        line.reply,
        to_wav(line.pcm, OUTPUT_RATE) if wav else line.pcm,
        chunk_id=notes.chunk_id,
        sample_rate=OUTPUT_RATE,
        voice=notes.voice,
        format=notes.output_format.value,
        processing_time_ms=notes.stopwatch.total_ms,
        audio_duration_ms=line.duration_ms,
        address=place(Log.SPEECH, line.address),
    )


def complete(line: Complete, notes: Notes) -> Message:
    """`chunked_streaming_complete`, with the latencies of the turn."""
    watch = notes.stopwatch
    return messages.chunked_streaming_complete(
        line.turn,
        chunk_id=notes.chunk_id,
        response_text=line.reply,
        total_tokens=line.tokens,
        total_words=line.words,
        total_chunks=line.chunks,
        total_time_ms=watch.total_ms,
        first_token_latency_ms=watch.first_token_ms,
        first_word_latency_ms=watch.first_word_ms,
        first_audio_latency_ms=watch.first_audio_ms,
        inter_token_latency_ms=line.gap_ms,
        audio_duration_ms=line.audio_ms,
        address=place(Log.SPEECH, line.address),
    )


def closing(line: Interrupted | Failed, notes: Notes) -> Message:
    """What ends an answer that is not whole: `audio_interrupted`, or an `error` that has a turn."""
    log = line.log if isinstance(line, Failed) else Log.SPEECH
    address = None if line.address is None else place(log, line.address)
    if isinstance(line, Failed):
        return messages.error(failure(line), turn=line.turn, chunk_id=notes.chunk_id, address=address)
    return messages.audio_interrupted(
        line.turn,
        chunk_id=notes.chunk_id,
        heard_ms=line.heard_ms,
        heard_text=line.heard_text,
        cleared_frames=line.cleared_frames,
        reason=line.reason,
        address=address,
    )


def failure(line: Failed) -> ClientError:
    """What a turn failed with, as an error."""
    after_ms = retry_after_ms() if line.code == "overloaded" else None
    return ClientError(line.code, line.message, retryable=line.retryable, retry_after_ms=after_ms)
