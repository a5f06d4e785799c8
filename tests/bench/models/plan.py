"""How much is measured: of which models, on which device, how often. Times are never a reason to fail."""

from __future__ import annotations

from dataclasses import dataclass, replace

LONG_PROMPT_S = 30.0
"""What somebody says who joins while others are being answered."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What each section does. `first_token_s` and `token_s` are guesses, to see what there is time for."""

    size: str
    """`full`: the configurations of Voxtral Mini 3B and Kokoro-82M; `tiny`: those of the tests."""
    device: str
    dtype: str
    slots: int
    context: int
    batches: tuple[int, ...]
    """Conversations that decode together."""
    first_token_s: float
    token_s: float

    utterance_s: float = 3.0
    """How long a user speaks before the answer is waited for."""
    threads: int = 0
    """Of the library on a CPU; 0: as it wants. Tiny work only loses by being shared."""
    steps: int = 100
    """Steps of decoding that are timed for each batch."""
    firsts: int = 30
    """First tokens that are timed."""
    long_places: int = 0
    """Length of a long conversation, in tokens, at which the largest batch is timed once more; 0: is not."""
    plain_runs: int = 5
    plain_tokens: int = 64
    others: int = 8
    """Conversations that decode while another one joins."""
    joins: int = 5
    compared: int = 0
    """Prompts whose tokens are compared with those of float32; 0: none are."""
    compared_tokens: int = 32
    races: int = 0
    """Times that eight conversations in a batch race eight, one after the other; 0: they do not."""
    race_tokens: int = 64
    spoken: int = 20
    """Times that each text is spoken."""
    spoken_s: float = 0.2
    """A guess: how long fifteen words take to be spoken."""
    voices_at_once: tuple[int, ...] = (1, 2, 4, 8)
    turns: int = 40
    """Turns of one conversation through the whole pipeline; 0: the pipeline is left out."""
    haste: float = 1.0
    """So much faster than real time that conversation speaks, to have more turns to time. What was said
    before is taken in while it speaks, so the device must be quick enough for that."""
    conversations: int = 32
    rounds: int = 5
    """Turns of each of many conversations at once."""
    each_s: float = 10.0
    """Each of them begins a turn so often."""
    bursts: int = 3
    loading_s: float = 30.0
    """A guess: how long the processes of the pipeline take to be ready."""

    @property
    def name(self) -> str:
        """For a file's name, and for people."""
        return f"{self.size}-{self.device}"


_FULL_CUDA = Plan(
    size="full",
    device="cuda",
    dtype="bfloat16",
    slots=32,
    context=4096,
    batches=(1, 2, 4, 8, 16, 32),
    first_token_s=0.1,
    token_s=0.03,
    long_places=3400,
    others=16,
    compared=16,
    compared_tokens=48,
    voices_at_once=(1, 2, 3, 4, 8, 16),
    turns=50,
    haste=3.0,
    loading_s=90.0,
)

_FULL_CPU = Plan(
    size="full",
    device="cpu",
    dtype="bfloat16",
    slots=4,
    context=1024,
    batches=(1, 2, 4),
    first_token_s=25.0,
    token_s=1.0,
    steps=3,
    firsts=1,
    plain_runs=1,
    plain_tokens=4,
    others=1,
    joins=1,
    spoken=2,
    spoken_s=5.0,
    voices_at_once=(1,),
    turns=0,
)
"""A short look: a token takes most of a second."""

_TINY_CPU = Plan(
    size="tiny",
    device="cpu",
    dtype="float32",
    slots=32,
    context=4096,
    batches=(1, 2, 4, 8, 16, 32),
    first_token_s=0.2,
    token_s=0.01,
    threads=1,
    long_places=1500,
    compared=16,
    races=5,
    spoken=5,
    spoken_s=1.5,
    voices_at_once=(1, 2, 4),
    turns=10,
    conversations=8,
    rounds=2,
    bursts=2,
)

PLANS = {
    ("full", "cuda"): _FULL_CUDA,
    ("full", "cpu"): _FULL_CPU,
    ("tiny", "cpu"): _TINY_CPU,
    ("tiny", "cuda"): replace(_TINY_CPU, device="cuda", dtype="bfloat16"),
}
