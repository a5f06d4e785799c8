"""`parley talk`: ask by voice, see the words of the answer as they come, and how long each step took."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from deploy.cli.client import ConversationLost, ParleyClient
from deploy.cli.exchange import Answer, Exchange, Moments
from deploy.cli.link import CannotConnect
from deploy.cli.recording import NothingAsked, Recording, Unusable
from deploy.cli.screen import Screen
from deploy.cli.sound import Microphone, Speaker
from edge.protocols.encoding import Encoding
from shared.audio import INPUT_RATE, OUTPUT_RATE, duration_ms, to_wav
from shared.settings import Settings

HELP = "ask by voice and be answered: a WAV file, the microphone, or a typed question"

ANSWERED = 0
FAILED = 1
BAD_USAGE = 2
NO_SERVER = 3
EXIT_CODES = """\
exit codes:
  0    answered
  1    the turn ended in an error, or was interrupted
  2    bad usage, or a file or a device that cannot be used
  3    no server, or the conversation was lost
  130  Ctrl-C"""

MIN_SLICE_MS, MAX_SLICE_MS = 5.0, 1000.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `parley talk`."""
    parser.epilog = EXIT_CODES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "file",
        nargs="?",
        type=Path,
        help="a WAV file; without one, the microphone: Enter asks, Ctrl-D leaves",
    )
    what.add_argument("--text", metavar="QUESTION", help="ask by typing")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="WAV", help="write the answer's speech to a file"
    )
    parser.add_argument("--play", action="store_true", help="play the answer (needs sounddevice)")
    parser.add_argument(
        "--url",
        action="append",
        metavar="URL",
        help="the server's WebSocket (ws://127.0.0.1:PORT/ws); several: the next one when one is lost",
    )
    parser.add_argument("--voice", help="name of a voice")
    parser.add_argument("--language", help="language to be answered in, as en or pt-BR")
    parser.add_argument("--speed", type=float, help="of the speech, 0.5 to 2 (1)")
    parser.add_argument("--prompt", help="instructions to the model")
    parser.add_argument("--encoding", choices=list(Encoding), default=Encoding.MSGPACK, type=Encoding)
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="file that holds the API key; else it is the first of PARLEY_API_KEYS",
    )
    parser.add_argument(
        "--chunk-ms", type=_slice_ms, default=20.0, metavar="MS", help="length of an audio chunk (20)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Talk; returns the exit code."""
    screen = Screen()
    try:
        return asyncio.run(_talk(Plan.of(arguments, Settings.from_env(os.environ)), screen))
    except Unusable as error:
        screen.note(f"parley: {error}")
        return BAD_USAGE
    except (CannotConnect, ConversationLost) as error:
        screen.note(f"parley: {error}")
        return NO_SERVER
    finally:
        screen.end_answer()


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for. `recording` and `text` are both `None` where the microphone is to speak."""

    urls: tuple[str, ...]
    encoding: Encoding
    key: str | None
    settings: Mapping[str, object]
    recording: Recording | None
    text: str | None
    name: str
    slice_ms: float
    output: Path | None
    play: bool

    @property
    def by_microphone(self) -> bool:
        """Whether somebody is to speak."""
        return self.recording is None and self.text is None

    @classmethod
    def of(cls, arguments: argparse.Namespace, settings: Settings) -> Plan:
        """Raises `Unusable` for files that cannot be read or written."""
        play = arguments.play or (arguments.file is None and arguments.text is None)
        wanted = {name: getattr(arguments, name) for name in ("voice", "language", "speed", "prompt")}
        wanted |= {"output_format": "pcm16", "pacing": "realtime" if play else "none"}
        return cls(
            urls=tuple(arguments.url or [f"ws://127.0.0.1:{settings.port}/ws"]),
            encoding=arguments.encoding,
            key=_key(arguments.key_file, settings),
            settings={name: value for name, value in wanted.items() if value is not None},
            recording=None if arguments.file is None else Recording.read(arguments.file),
            text=arguments.text,
            name=arguments.file.name if arguments.file else "",
            slice_ms=arguments.chunk_ms,
            output=_writable(arguments.output),
            play=play,
        )


async def _talk(plan: Plan, screen: Screen) -> int:
    moments = Moments()
    client = ParleyClient(plan.urls, encoding=plan.encoding, key=plan.key, on_receive=moments.note)
    with ExitStack() as devices:
        microphone = Microphone(plan.slice_ms) if plan.by_microphone else None
        if microphone is not None:
            devices.callback(microphone.close)
        speaker = Speaker(OUTPUT_RATE) if plan.play else None
        if speaker is not None:
            devices.callback(speaker.close)
        async with client:
            rate = microphone.rate if microphone else INPUT_RATE
            await client.configure(input_format="pcm16", input_sample_rate=rate, **plan.settings)
            exchange = Exchange(client, screen, moments, speaker.say if speaker else None)
            answers = [await _turn(plan, exchange, microphone)]
            while True:
                await _heard(answers[-1], client, speaker)
                if microphone is None or not answers[-1].complete:
                    break
                try:
                    answers.append(await _turn(plan, exchange, microphone))
                except NothingAsked:
                    break
            _conclude(plan, client, screen, answers)
            return ANSWERED if answers[-1].complete else FAILED


async def _turn(plan: Plan, exchange: Exchange, microphone: Microphone | None) -> Answer:
    if plan.text is not None:
        return await exchange.ask(plan.text)
    if microphone is not None:
        return await exchange.speak(microphone, "listening, Enter asks", plan.slice_ms)
    assert plan.recording is not None, "a plan has a question"
    return await exchange.speak(plan.recording, plan.name, plan.slice_ms)


async def _heard(answer: Answer, client: ParleyClient, speaker: Speaker | None) -> None:
    """Wait until the answer was played. Then all of it counts as heard, as it does in a file."""
    if speaker is not None:
        await speaker.finish()
    if answer.complete:
        await client.report_playback(answer.ending["turn"], duration_ms(bytes(answer.speech), OUTPUT_RATE))


def _conclude(plan: Plan, client: ParleyClient, screen: Screen, answers: Sequence[Answer]) -> None:
    """Write the file, and say what there is to be seen."""
    speech = b"".join(answer.speech for answer in answers)
    if plan.output is not None and speech:
        try:
            plan.output.write_bytes(to_wav(speech, OUTPUT_RATE))
        except OSError as error:
            raise Unusable(f"{plan.output}: {error.strerror}") from None
        screen.note(f"{duration_ms(speech, OUTPUT_RATE) / 1000:.1f} s of speech in {plan.output}")
    if answers[-1].complete:
        screen.note(f"timeline: parley inspect {client.conversation_id}")


def _slice_ms(text: str) -> float:
    value = float(text)
    if not MIN_SLICE_MS <= value <= MAX_SLICE_MS:
        raise argparse.ArgumentTypeError(f"expected {MIN_SLICE_MS:g} to {MAX_SLICE_MS:g} ms")
    return value


def _writable(path: Path | None) -> Path | None:
    """The file that will be written, if it can be: better known before the question than after the answer."""
    if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise Unusable(f"{path}: cannot be written")
    return path


def _key(path: Path | None, settings: Settings) -> str | None:
    if path is None:
        return settings.parley_api_keys[0] if settings.parley_api_keys else None
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise Unusable(f"{path}: no key can be read from it") from None
