"""What the chunker makes of given replies: worked examples with times, and where texts are cut."""

# The examples are full of marks of other scripts, which look like those of this one.
# ruff: noqa: RUF001

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.workers.llm.chunking import said_of, work
from workers.llm.chunker import Boundary, Chunker, Piece

SENTENCE = Boundary.SENTENCE_END
CLAUSE = Boundary.CLAUSE_BREAK
CLOCK = Boundary.TIME
LENGTH = Boundary.MAX_LENGTH
REST = Boundary.END_OF_STREAM

# -------------------------------------------------------------------------- worked examples with times


class Example(NamedTuple):
    """The first token comes at 95 ms, the others `gap_ms` apart, and one gap after the last the reply ends.

    `tokens` stand between bars. `said`: when (ms), what, and what ended it.
    """

    name: str
    tokens: str
    said: list[tuple[float, str, Boundary]]
    gap_ms: float = 40


SCRIPT = (
    "Hello|!| Yes|,| I| can| hear| you| perfectly|.| How| can| I| help| you| today|?"
    "| Just| tell| me| what| you| need|."
)

EXAMPLES = [
    # ---- the scripted engine's reply
    Example(
        "the default script",
        SCRIPT,
        [
            (135, "Hello!", SENTENCE),
            (455, " Yes, I can hear you perfectly.", SENTENCE),
            (735, " How can I help you today?", SENTENCE),
            (1015, " Just tell me what you need.", SENTENCE),
        ],
    ),
    Example(
        "the default script without its first two tokens",
        SCRIPT.removeprefix("Hello|!|"),
        [
            (135, " Yes,", CLAUSE),
            (375, " I can hear you perfectly.", SENTENCE),
            (655, " How can I help you today?", SENTENCE),
            (935, " Just tell me what you need.", SENTENCE),
        ],
    ),
    # ---- the first piece by the clock: 95 + 250 = 345 ms
    Example(
        "the whole words go after 250 ms: who says 'soon' may go on with 'sooner'",
        " I| think| the| rain| stops| soon|er| than| that|.",
        [(345, " I think the rain stops", CLOCK), (500, " sooner than that.", SENTENCE)],
        gap_ms=45,
    ),
    Example(
        "if none is whole by then, the first that becomes so",
        " Extra|ordin|arily| good|.",
        [(395, " Extraordinarily", CLOCK), (495, " good.", SENTENCE)],
        gap_ms=100,
    ),
    Example(
        "the clock need not wait for a token",
        " That| is| what| I| mean|.",
        [(345, " That is", CLOCK), (595, " what I mean.", SENTENCE)],
        gap_ms=100,
    ),
    Example(
        "the space goes with the word behind it, however wide it is",
        " That|  is|  what|  I|  mean|.",
        [(345, " That  is", CLOCK), (595, "  what  I  mean.", SENTENCE)],
        gap_ms=100,
    ),
    Example(
        "marks are no words",
        "*| *| *| Hel|lo|.",
        [(595, "* * * Hello.", SENTENCE)],
        gap_ms=100,
    ),
    Example(
        "a token that ends the sentence just then goes before the clock",
        " I| know|.",
        [(345, " I know.", SENTENCE)],
        gap_ms=125,
    ),
    Example(
        "the clock parts no title from its name",
        "That| is| for| Dr|.| J|ones|.",
        [(345, "That is for", CLOCK), (410, " Dr. Jones.", SENTENCE)],
        gap_ms=45,
    ),
    Example(
        "nor the number of a list from its line",
        "1|.| Milk|\n|2|.| Eggs|.",
        [(345, "1. Milk", CLOCK), (375, "\n2. Eggs.", SENTENCE)],
    ),
    # ---- later clauses
    Example(
        "a later clause has twelve characters",
        "Sure|,| in my view|,| it| is|.",
        [(135, "Sure,", CLAUSE), (215, " in my view,", CLAUSE), (335, " it is.", SENTENCE)],
    ),
    Example(
        "with less it stays with what follows",
        "Sure|,| in a view|,| it| is|.",
        [(135, "Sure,", CLAUSE), (335, " in a view, it is.", SENTENCE)],
    ),
    # 23 characters are spoken at 95 ms: a second of them is left at 95 + 23 * 60 - 1000 = 475 ms.
    Example(
        "a sentence is kept whole while more than a second is waiting",
        "A good question indeed!| First| of| all|,| a| pan|.",
        [(95, "A good question indeed!", SENTENCE), (375, " First of all, a pan.", SENTENCE)],
    ),
    Example(
        "a clause that waits goes when a second is left",
        "A good question indeed!| First| of| all|,| you| need| a| large| pan| of| oil|.",
        [
            (95, "A good question indeed!", SENTENCE),
            (475, " First of all,", CLAUSE),
            (575, " you need a large pan of oil.", SENTENCE),
        ],
    ),
    Example(
        "of several that wait, up to the last",
        "A good question indeed!| First| of| all|,| not|,| say|,| last|,| you| need| oil|.",
        [
            (95, "A good question indeed!", SENTENCE),
            (475, " First of all, not, say,", CLAUSE),
            (655, " last, you need oil.", SENTENCE),
        ],
    ),
    Example(
        "a clause goes at once when a second or less is left",
        "A good question indeed!| First| of| all|,| you| need| a| pan|.",
        [
            (95, "A good question indeed!", SENTENCE),
            (695, " First of all,", CLAUSE),
            (1445, " you need a pan.", SENTENCE),
        ],
        gap_ms=150,
    ),
    # 12 more make it 95 + 35 * 60 - 1000 = 1195 ms: the time counts from the first piece.
    Example(
        "all that was said is counted",
        "A good question indeed!| Let| us| see|.| First| of| all|,| you| need| a| pan|.",
        [
            (95, "A good question indeed!", SENTENCE),
            (535, " Let us see.", SENTENCE),
            (1195, " First of all,", CLAUSE),
            (1525, " you need a pan.", SENTENCE),
        ],
        gap_ms=110,
    ),
    # ---- dashes
    Example(
        "an em dash",
        "Yes|—|I| am|.",
        [(135, "Yes—", CLAUSE), (255, "I am.", SENTENCE)],
    ),
    Example(
        "an en dash after a space",
        "Yes| –| I| am|.",
        [(135, "Yes –", CLAUSE), (255, " I am.", SENTENCE)],
    ),
    Example(
        "a hyphen is a dash between spaces, so it waits for the second; in a word it is none",
        "Yes| -| I| am| well|-|known|.",
        [(175, "Yes -", CLAUSE), (375, " I am well-known.", SENTENCE)],
    ),
    # ---- full stops that wait
    Example(
        "a decimal number",
        "Pi| is| |3|.|14|!| Good|.",
        [(335, "Pi is 3.14!", SENTENCE), (415, " Good.", SENTENCE)],
    ),
    Example(
        "a year, known to end the sentence by the space behind it",
        "It| was| |1990|.| Then| it| ended|.",
        [(295, "It was 1990.", SENTENCE), (415, " Then it ended.", SENTENCE)],
    ),
    Example(
        "a comma in a number",
        "In| |1|,|000| years|,| maybe|.",
        [(335, "In 1,000 years,", CLAUSE), (415, " maybe.", SENTENCE)],
    ),
    Example(
        "abbreviations",
        "Hi|!| Dr|.| Smith| met| Mr|.| Jones|.| Both| left|.",
        [
            (135, "Hi!", SENTENCE),
            (455, " Dr. Smith met Mr. Jones.", SENTENCE),
            (575, " Both left.", SENTENCE),
        ],
    ),
    Example(
        "initials",
        "Oh|.| J|.| R|.| R|.| Tolkien| wrote| it|.",
        [(135, "Oh.", SENTENCE), (535, " J. R. R. Tolkien wrote it.", SENTENCE)],
    ),
    Example(
        "dotted abbreviations",
        "No|.| The| U|.|S|.| sells| e|.|g|.| corn|.",
        [(135, "No.", SENTENCE), (615, " The U.S. sells e.g. corn.", SENTENCE)],
    ),
    Example(
        "a full stop that waits at the end of the reply",
        "Python| |3|.|11|.",
        [(335, "Python 3.11.", REST)],
    ),
    # ---- runs of marks, quotes and brackets
    Example(
        "three full stops: the first ends the sentence, the others open the next",
        "Well|...| I| see|.",
        [(135, "Well.", SENTENCE), (255, ".. I see.", SENTENCE)],
    ),
    Example(
        "an ellipsis in one character",
        "Hmm|…| I| see|.",
        [(135, "Hmm…", SENTENCE), (255, " I see.", SENTENCE)],
    ),
    Example(
        "marks alone are not spoken; the last of them are there for the record",
        "What|?!| No|!!!",
        [(135, "What?", SENTENCE), (215, "! No!", SENTENCE), (255, "!!", REST)],
    ),
    Example(
        "what closes behind a stop opens the next piece",
        'I| said| "|yes|.|"| (|Twice|.|)',
        [(255, 'I said "yes.', SENTENCE), (415, '" (Twice.', SENTENCE), (495, ")", REST)],
    ),
    # ---- no words
    Example(
        "emoji",
        "😀|!| Great| 🎉|!| 👋",
        [(255, "😀! Great 🎉!", SENTENCE), (335, " 👋", REST)],
    ),
    Example(
        "markdown",
        "**|Note|:|**| be| *|careful|*|.|\n\n|---|\n",
        [(175, "**Note:", CLAUSE), (415, "** be *careful*.", SENTENCE), (575, "\n\n---\n", REST)],
    ),
    Example(
        "addresses",
        "Hm|.| See| https|://|a|.io|/b|?c|=d|,| or| me|@|web|.com|.| Bye|.",
        [
            (135, "Hm.", SENTENCE),
            (535, " See https://a.io/b?c=d,", CLAUSE),
            (775, " or me@web.com.", SENTENCE),
            (815, " Bye.", SENTENCE),
        ],
    ),
    Example(
        "a reply that is cut short",
        "Hello| there|\n",
        [(215, "Hello there\n", REST)],
    ),
    Example(
        "a reply that has no words",
        "---|\n|...",
        [(215, "---\n...", REST)],
    ),
    Example(
        "a reply that has nothing",
        "",
        [],
    ),
    # ---- other scripts
    Example(
        "Hindi: a vowel sign belongs to its letter",
        "जी|,| मैं| सुन| सकता| हूँ|।| आप| कैसे| हैं|?",
        [(135, "जी,", CLAUSE), (335, " मैं सुन सकता हूँ।", SENTENCE), (495, " आप कैसे हैं?", SENTENCE)],
    ),
    Example(
        "Japanese",
        "はい|、|よく|聞こえ|ています|。|何か|お困り|です|か|？",
        [
            (135, "はい、", CLAUSE),
            (295, "よく聞こえています。", SENTENCE),
            (495, "何かお困りですか？", SENTENCE),
        ],
    ),
    Example(
        "Chinese",
        "好的|，|我|明白|了|。|请|说|！",
        [(135, "好的，", CLAUSE), (295, "我明白了。", SENTENCE), (415, "请说！", SENTENCE)],
    ),
    Example(
        "Arabic",
        "نعم|،| أسمعك| جيدا|.| كيف| أساعدك|؟",
        [(135, "نعم،", CLAUSE), (255, " أسمعك جيدا.", SENTENCE), (375, " كيف أساعدك؟", SENTENCE)],
    ),
    # ---- length
    Example(
        "250 characters, where a word ends",
        "Go on.|" + " word" * 60,
        [(95, "Go on.", SENTENCE), (135, " word" * 50, LENGTH), (175, " word" * 10, REST)],
    ),
    Example(
        "or better at a clause that waits",
        "A good question indeed!| and so forth," + " and on" * 40 + ".",
        [
            (95, "A good question indeed!", SENTENCE),
            (135, " and so forth,", LENGTH),
            (135, " and on" * 35 + " and", LENGTH),
            (135, " on" + " and on" * 4 + ".", SENTENCE),
        ],
    ),
    Example(
        "or anywhere, if there is no word",
        "x" * 260 + "!",
        [(95, "x" * 250, LENGTH), (95, "x" * 10 + "!", SENTENCE)],
    ),
]


@pytest.mark.parametrize("case", EXAMPLES, ids=lambda case: case.name)
def test_a_worked_example_is_said_so_and_then(case: Example) -> None:
    tokens = [(text, 95 + n * case.gap_ms) for n, text in enumerate(case.tokens.split("|"))]
    log = work(Chunker(), tokens, 95 + len(tokens) * case.gap_ms)
    assert [(at_ms, piece.text, piece.boundary) for piece, at_ms in said_of(log)] == case.said


# ------------------------------------------------------------------- where a text is cut, times aside

CUTS = [
    # full stops
    "Yes.| No.",
    "Is it no.|5?",  # "no." is a sentence more often than a number
    "It costs 5.| So",
    "It costs 5.50.| So",
    "In fact,| 1990.| So",
    "Version 3.11.2.| Next",
    "Two things:| 1. Milk.| 2. Eggs.",
    "List:|\n1. Milk\n2. Eggs\n10. Bread.",
    "**1.** Milk.",
    "The year 2020.|\nThen",
    "I live in the U.S. now.",
    "I live in the U.S.|\nIt is",
    "Apples,| etc. and pears.",
    "At 5 p.m. it rains.",
    "Ask PROF. Lee.",
    "Ask 'Dr. Lee' now.",
    "A Ph.D. thesis.",
    "Z.B. so.",
    "Plan B. Then",
    "I don't.| You do.",
    "I don’t.| You do.",
    "The 1st.| The",
    "(Yes).| So",
    "Node.|js",  # it cannot be known without the next character, and is not worth the wait
    "値は３．１４です。",
    "はい．|ええ",
    "मैं डॉ. शर्मा हूँ।| और",
    # stops
    "Is this it?| Yes",
    "¿Qué?| ¡Sí!",
    "॥ अच्छा॥| और",
    "はい。|「ええ！|」と言う",
    "ｶﾞ｡|はい",
    "क्या?| ہاں؟| ہے۔| ok",
    # clauses
    "So:| it rains",
    "So;| it rains",
    "So—|it rains",
    "So –| it rains",
    "So –|it rains",
    "So–| it rains",
    "So -| it rains",
    "So --| it rains",
    "हाँ –| वह",
    "Mon–Fri it rains.",
    "It is -5 here.",
    "Use the -v flag.",
    "A\n- B\n- C.",
    "Pages 5—7, 8, 9.",
    "At 10:30 sharp.",
    "I ❤️, you see.",  # an emoji is no letter
    '"Yes", she said.',  # nor is a quote
    # addresses
    "See www.web.org for more.",
    "See WWW.web.org.| Good",
    "See https://web.org/?abc.| Good",
    "Ask a@b.org,| please",
]


@pytest.mark.parametrize("cuts", CUTS)
def test_a_text_is_cut_at_the_bars(cuts: str) -> None:
    chunker = Chunker()
    pieces = chunker.feed(cuts.replace("|", ""), 0) + chunker.finish()
    assert "|".join(piece.text for piece in pieces) == cuts


@pytest.mark.parametrize("mark", ",，、､;；:：،؛")
def test_a_clause_mark_ends_the_first_piece_after_a_letter_only(mark: str) -> None:
    assert [piece.text for piece in Chunker().feed(f"12{mark}34 ab{mark}", 0)] == [f"12{mark}34 ab{mark}"]


@pytest.mark.parametrize("stop", "!?…।॥。｡！？؟۔։።፧။។‼⁇⁈⁉")
def test_a_stop_ends_a_sentence_at_once_behind_anything_spoken(stop: str) -> None:
    chunker = Chunker()
    assert chunker.feed(stop, 0) == []
    assert chunker.feed(" ab (1)", 0) == []
    (piece,) = chunker.feed(stop, 0)
    assert piece == Piece(f"{stop} ab (1){stop}", 0, 9, SENTENCE)
