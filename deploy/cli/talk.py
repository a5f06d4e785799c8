"""`parley talk`: ask by voice, see the words of the answer as they come, and how long each step took."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from deploy.cli import access
from deploy.cli.access import Access
from deploy.cli.client import ConversationLost, ParleyClient
from deploy.cli.exchange import Answer, Exchange, Moments, refused
from deploy.cli.handsfree import HandsFree
from deploy.cli.link import CannotConnect
from deploy.cli.recording import AtOnce, NothingAsked, Recording, Unusable
from deploy.cli.screen import Screen
from deploy.cli.sound import Microphone, Speaker
from edge.endpointing import ServerVad
from shared.audio import INPUT_RATE, OUTPUT_RATE, duration_ms, to_wav
from shared.settings import Settings

HELP = "ask by voice and be answered: a WAV file, the microphone, or a typed question"

ANSWERED = 0
FAILED = 1
BAD_USAGE = 2
NO_SERVER = 3
EXIT_CODES = """\
exit codes:
  0    answered; with --hands-free: what was said last
  1    the turn ended in an error, or was interrupted
  2    bad usage, or a file or a device that cannot be used
  3    no server, or the conversation was lost
  130  Ctrl-C"""

MIN_SLICE_MS, MAX_SLICE_MS = 5.0, 1000.0
MIN_SILENCE_MS, MAX_SILENCE_MS = 100.0, 10_000.0


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
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--hands-free",
        action="store_true",
        help="speak on and on: the server finds the turns, and you may speak over its answers; "
        "a file is heard as a microphone would hear it, Ctrl-D leaves the microphone",
    )
    how.add_argument("--batch", action="store_true", help="have the whole answer in one piece")
    parser.add_argument(
        "--silence-ms",
        type=_silence_ms,
        metavar="MS",
        help="how long a silence ends what you say, or auto (500); with --hands-free",
    )
    parser.add_argument(
        "--headphones",
        action="store_true",
        help="the microphone does not hear the answers, so you may speak over them; with --hands-free",
    )
    parser.add_argument("--voice", help="name of a voice")
    parser.add_argument("--language", help="language to be answered in, as en or pt-BR")
    parser.add_argument("--speed", type=float, help="of the speech, 0.5 to 2 (1)")
    parser.add_argument("--prompt", help="instructions to the model")
    access.add_arguments(parser)
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

    access: Access
    settings: Mapping[str, object]
    recording: Recording | None
    text: str | None
    name: str
    slice_ms: float
    output: Path | None
    play: bool
    hands_free: bool
    batch: bool

    @property
    def by_microphone(self) -> bool:
        """Whether somebody is to speak."""
        return self.recording is None and self.text is None

    @classmethod
    def of(cls, arguments: argparse.Namespace, settings: Settings) -> Plan:
        """Raises `Unusable` for files that cannot be read or written, and options that do not go together."""
        _check(arguments)
        by_microphone = arguments.file is None and arguments.text is None
        play = arguments.play or by_microphone
        wanted = {name: getattr(arguments, name) for name in ("voice", "language", "speed", "prompt")}
        wanted |= {"output_format": "pcm16", "pacing": "realtime" if play else "none"}
        if arguments.hands_free:
            wanted["turn_detection"] = _detection(arguments.silence_ms)
            # A terminal has no echo canceller: what the loudspeaker says comes in at the microphone.
            wanted["echo_cancelled"] = arguments.headphones or not by_microphone
            # Who may be spoken over must not be ahead of what is heard.
            wanted["pacing"] = "realtime"
        read = AtOnce.read if arguments.batch else Recording.read
        return cls(
            access=Access.of(arguments, settings),
            settings={name: value for name, value in wanted.items() if value is not None},
            recording=None if arguments.file is None else read(arguments.file),
            text=arguments.text,
            name=arguments.file.name if arguments.file else "",
            slice_ms=arguments.chunk_ms,
            output=_writable(arguments.output),
            play=play,
            hands_free=arguments.hands_free,
            batch=arguments.batch,
        )


async def _talk(plan: Plan, screen: Screen) -> int:
    moments = Moments()
    client = plan.access.client(moments.note)
    async with AsyncExitStack() as devices:
        microphone = (
            Microphone(plan.slice_ms, until_enter=not plan.hands_free) if plan.by_microphone else None
        )
        if microphone is not None:
            devices.callback(microphone.close)
        speaker = Speaker(OUTPUT_RATE, screen.note) if plan.play else None
        if speaker is not None:
            devices.push_async_callback(speaker.close)
        async with client:
            rate = microphone.rate if microphone else INPUT_RATE
            await client.configure(input_format="pcm16", input_sample_rate=rate, **plan.settings)
            if plan.hands_free:
                return await _talk_hands_free(plan, client, screen, moments, microphone, speaker)
            on_speech = speaker.say if speaker else None
            exchange = Exchange(client, screen, moments, on_speech, batch=plan.batch)
            return await _take_turns(plan, client, screen, exchange, microphone, speaker)


async def _take_turns(
    plan: Plan,
    client: ParleyClient,
    screen: Screen,
    exchange: Exchange,
    microphone: Microphone | None,
    speaker: Speaker | None,
) -> int:
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


async def _talk_hands_free(
    plan: Plan,
    client: ParleyClient,
    screen: Screen,
    moments: Moments,
    microphone: Microphone | None,
    speaker: Speaker | None,
) -> int:
    told = await client.until("configured", "error")
    if told["type"] == "error":
        screen.note(f"parley: {refused(told)}")
        return FAILED
    source = microphone or plan.recording
    assert source is not None, "a plan has a question"
    course = await HandsFree(client, screen, moments, speaker).talk(source, plan.slice_ms)
    if speaker is not None and microphone is None:
        await speaker.finish()
    answers = [course.answers[turn] for turn in sorted(course.answers)]
    if answers:
        _conclude(plan, client, screen, answers)
    elif not course.failed and plan.recording is not None:
        screen.note(f"parley: the server heard no speech in {plan.name}")
    if microphone is not None and not course.failed:
        return ANSWERED  # whoever leaves may do so in the middle of an answer
    return ANSWERED if course.complete else FAILED


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


def _check(arguments: argparse.Namespace) -> None:
    """Raises `Unusable`."""
    if arguments.text is not None and (arguments.hands_free or arguments.batch):
        raise Unusable("a typed question is neither --hands-free nor --batch")
    if not arguments.hands_free and (arguments.headphones or arguments.silence_ms is not None):
        raise Unusable("--headphones and --silence-ms go with --hands-free")


def _detection(silence_ms: float | str | None) -> Mapping[str, object]:
    """How the server shall find the turns; `None`: as it does by itself."""
    if silence_ms is None:
        return {"type": "server_vad"}
    pause_ms = ServerVad().pause_ms
    # The server wants no pause that is longer than the silence that ends an utterance.
    pause_ms = min(pause_ms, silence_ms) if isinstance(silence_ms, float) else pause_ms
    return {"type": "server_vad", "silence_ms": silence_ms, "pause_ms": pause_ms}


def _silence_ms(text: str) -> float | str:
    if text == "auto":
        return text
    value = float(text)
    if not MIN_SILENCE_MS <= value <= MAX_SILENCE_MS:
        raise argparse.ArgumentTypeError(f"expected auto, or {MIN_SILENCE_MS:g} to {MAX_SILENCE_MS:g} ms")
    return value


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
