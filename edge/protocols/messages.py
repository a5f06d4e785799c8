"""Parley's own protocol, what the server says: one function a message, each a map that `encode` takes.

Owns names and shapes only. Every `*_ms` is a float in milliseconds, `timestamp` is Unix time in
milliseconds, a latency that did not happen is `None`; an `address` is `"<log>:<turn>-<seq>"`, and stands in
every message that comes from a log. Nothing is stamped here: who sends a message says when that was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.errors import ClientError
from shared.wire import Address, Log

Message = dict[str, object]


def place(log: Log, address: Address) -> str:
    """An address as clients see it: `text:3-17`."""
    return f"{log.value}:{address}"


def connection(conversation_id: str, resume_token: str, server_config: Mapping[str, object]) -> Message:
    """The first message on every socket; `server_config` is the map of that name."""
    return {
        "type": "connection",
        "conversation_id": conversation_id,
        "resume_token": resume_token,
        "server_config": server_config,
    }


def server_config(
    *,
    sample_rate: int,
    output_sample_rate: int,
    frame_ms: int,
    streaming_mode: str,
    turn_detection: Sequence[str],
    engines: Mapping[str, str | None],
    voices: Sequence[str],
    limits: Mapping[str, float],
    version: str,
) -> Message:
    """What a client can count on: rates in Hz, kinds of turn detection, engines by role, voices, limits."""
    return {
        "sample_rate": sample_rate,
        "output_sample_rate": output_sample_rate,
        "frame_ms": frame_ms,
        "streaming_mode": streaming_mode,
        "turn_detection": turn_detection,
        "engines": engines,
        "voices": voices,
        "limits": limits,
        "version": version,
    }


def configured(settings: Mapping[str, object]) -> Message:
    """The whole effective set, named as in `configure`."""
    return {"type": "configured", **settings}


def audio_ack(turn: int, input_samples: int) -> Message:
    """Input up to `input_samples` of the conversation stands in the log."""
    return {"type": "audio_ack", "turn": turn, "input_samples": input_samples}


def speech_started(turn: int, audio_ms: float, reason: str) -> Message:
    """An utterance began at `audio_ms` of the conversation's input. `reason`: who says so."""
    return {"type": "speech_started", "turn": turn, "audio_ms": audio_ms, "reason": reason}


def speech_stopped(turn: int, audio_ms: float, reason: str) -> Message:
    """An utterance ended at `audio_ms` of the conversation's input: `silence`, `max_length` or `client`."""
    return {"type": "speech_stopped", "turn": turn, "audio_ms": audio_ms, "reason": reason}


def token_chunk(
    turn: int,
    text: str,
    *,
    chunk_sequence: int,
    inter_token_latency_ms: float | None,
    timestamp: float,
    address: str,
) -> Message:
    """A piece of the reply; `chunk_sequence` counts the tokens of the turn."""
    return {
        "type": "token_chunk",
        "turn": turn,
        "text": text,
        "chunk_sequence": chunk_sequence,
        "inter_token_latency_ms": inter_token_latency_ms,
        "timestamp": timestamp,
        "address": address,
    }


def semantic_chunk(
    turn: int,
    text: str,
    *,
    full_text_so_far: str,
    chunk_sequence: int,
    boundary_type: str,
    address: str,
) -> Message:
    """A piece of the reply that is spoken; `chunk_sequence` counts the semantic chunks of the turn."""
    return {
        "type": "semantic_chunk",
        "turn": turn,
        "text": text,
        "full_text_so_far": full_text_so_far,
        "chunk_sequence": chunk_sequence,
        "boundary_type": boundary_type,
        "address": address,
    }


def sequential_audio(
    turn: int,
    audio_data: bytes,
    *,
    sample_rate: int,
    chunk_index: int,
    frame_index: int,
    voice: str | None,
    duration_ms: float,
    format: str,
    timestamp: float,
    address: str,
    text_source: str | None = None,
) -> Message:
    """A frame of the answer. `text_source` goes with the first frame of semantic chunk `chunk_index` only."""
    message: Message = {
        "type": "sequential_audio",
        "turn": turn,
        "audio_data": audio_data,
        "sample_rate": sample_rate,
        "chunk_index": chunk_index,
        "frame_index": frame_index,
        "voice": voice,
        "duration_ms": duration_ms,
        "format": format,
        "timestamp": timestamp,
        "address": address,
    }
    if text_source is not None:
        message["text_source"] = text_source
    return message


def chunked_streaming_complete(
    turn: int,
    *,
    chunk_id: str | None,
    response_text: str,
    total_tokens: int,
    total_words: int,
    total_chunks: int,
    total_time_ms: float | None,
    first_token_latency_ms: float | None,
    first_word_latency_ms: float | None,
    first_audio_latency_ms: float | None,
    inter_token_latency_ms: float | None,
    audio_duration_ms: float,
    address: str,
) -> Message:
    """The answer is whole; latencies count from the end of the utterance, the last of them is a median."""
    return {
        "type": "chunked_streaming_complete",
        "turn": turn,
        "chunk_id": chunk_id,
        "response_text": response_text,
        "total_tokens": total_tokens,
        "total_words": total_words,
        "total_chunks": total_chunks,
        "total_time_ms": total_time_ms,
        "first_token_latency_ms": first_token_latency_ms,
        "first_word_latency_ms": first_word_latency_ms,
        "first_audio_latency_ms": first_audio_latency_ms,
        "inter_token_latency_ms": inter_token_latency_ms,
        "audio_duration_ms": audio_duration_ms,
        "address": address,
    }


def audio_interrupted(
    turn: int,
    *,
    chunk_id: str | None,
    heard_ms: float,
    heard_text: str,
    cleared_frames: int,
    reason: str,
    address: str | None = None,
) -> Message:
    """The answer was cut off: how far the listener got, and how many frames were held back.

    It has no `address` if the logs could not say so.
    """
    message: Message = {
        "type": "audio_interrupted",
        "turn": turn,
        "chunk_id": chunk_id,
        "heard_ms": heard_ms,
        "heard_text": heard_text,
        "cleared_frames": cleared_frames,
        "reason": reason,
    }
    if address is not None:
        message["address"] = address
    return message


def audio_response(
    turn: int,
    text: str,
    audio_data: bytes,
    *,
    chunk_id: str | None,
    sample_rate: int,
    voice: str | None,
    format: str,
    processing_time_ms: float | None,
    audio_duration_ms: float,
    address: str,
) -> Message:
    """A whole answer in one piece. `processing_time_ms`: from the end of the utterance to its last frame."""
    return {
        "type": "audio_response",
        "turn": turn,
        "chunk_id": chunk_id,
        "text": text,
        "audio_data": audio_data,
        "sample_rate": sample_rate,
        "voice": voice,
        "format": format,
        "processing_time_ms": processing_time_ms,
        "audio_duration_ms": audio_duration_ms,
        "address": address,
    }


def resumed(
    conversation_id: str, resume_token: str, turn: int, input_samples: int, found_turns: Sequence[int] = ()
) -> Message:
    """The conversation goes on here: with a new token, from this turn and this place in the input.

    `found_turns`: those of the newest that began by voice activity.
    """
    return {
        "type": "resumed",
        "conversation_id": conversation_id,
        "resume_token": resume_token,
        "turn": turn,
        "input_samples": input_samples,
        "found_turns": list(found_turns),
    }


def going_away(deadline_ms: float) -> Message:
    """Reconnect and resume within `deadline_ms`."""
    return {"type": "going_away", "deadline_ms": deadline_ms}


def error(
    error: ClientError,
    *,
    turn: int | None = None,
    chunk_id: str | None = None,
    address: str | None = None,
) -> Message:
    """A typed error; with `turn` it ends that turn, and has an `address` if that stands in a log."""
    message: Message = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "retry_after_ms": error.retry_after_ms,
        "turn": turn,
        "chunk_id": chunk_id,
    }
    if address is not None:
        message["address"] = address
    return message


def pong() -> Message:
    """The answer to `ping`."""
    return {"type": "pong"}


def status(conversation_id: str, turn: int, state: str, unplayed_frames: int) -> Message:
    """Where the conversation is."""
    return {
        "type": "status",
        "conversation_id": conversation_id,
        "turn": turn,
        "state": state,
        "unplayed_frames": unplayed_frames,
    }
