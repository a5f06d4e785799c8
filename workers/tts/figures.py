"""Numbers, dates, times, sums and measures, from how they are written to how they are said.

    "$1,200.50 by 9:05" ─> "1 thousand 200 dollars 50 by 9 oh 5"

Pronunciation libraries read whole numbers, so digits stay digits. But a mark inside a number stops most of
them: they take the text apart at commas, full stops and colons first, and say "three. fourteen". So the marks
become words here, and what a sign before a number belongs behind is put there.

Every pattern is bounded in length: what a text costs follows its length, whatever stands in it.
"""

# ruff: noqa: RUF001 (dashes and signs that are to be found in texts)

from __future__ import annotations

import re

from workers.tts.words import Words

Match = re.Match[str]

_NUM = r"\d{1,15}(?:[.,]\d{1,15}){0,6}"
_SUM = r"R\$|US\$|[$€£¥₹]"
_GAP = "[\u00a0\u202f\u2009]"  # spaces that hold the thousands of a number together

_GROUPED = re.compile(rf"(?<=\d){_GAP}(?=\d{{3}}(?!\d))")
_ISO_DATE = re.compile(r"(?<![\w-])(?P<y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)(?![\w-])")
_DATE = re.compile(r"(?<![\w./-])(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?![\w/-]|\.\d)")
_TIME = re.compile(r"(?<![\w:.,])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\w:])(?!\.\d)")
_RATIO = re.compile(r"(?<![\w:.,])(\d{1,4}):(\d{1,4})(?![\w:])")
_HALF_DAY = re.compile(r"(?<=\d)\s?([ap])(?:\.m\.|m)(?!\w)", re.IGNORECASE)
_HALF_DAYS = re.compile(r"(?<=\d [AP]M)\s?[–-]\s?(?=\d)")
_TIMES_OF_DAY = re.compile(r"(?<=\d:[0-5]\d)\s?[–-]\s?(?=\d{1,2}:[0-5]\d)")
_PHONE = re.compile(
    r"(?<![\w.-])(?:(\+)?(\d{1,3})[ .-])?(?:\((\d{3})\)\s?|(\d{3})[ .-])(\d{3})[ .-](\d{4})(?![\w-])"
)
_ABROAD = re.compile(r"(?<!\w)\+\d{1,4}(?:[ -]?\(?\d{1,5}\)?){1,6}(?![\w-])")
_LOCAL_PHONE = re.compile(r"(?<![\w.,/-])\d{3}-\d{4}(?![\w-])")
_SIGN_FIRST = re.compile(
    rf"(?<!\w)({_SUM})\s?({_NUM})(?:\s?[–-]\s?(?:{_SUM})?({_NUM}))?(?!\d)(\s?[^\W\d_]{{1,10}}(?!\w))?(/(?=[^\W\d_]))?"
)
_SIGN_LAST = re.compile(rf"(?<![\w.,])({_NUM})\s?({_SUM})(?!\w)(/(?=[^\W\d_]))?")
_MEASURE = re.compile(rf"(?<![\w.,])({_NUM})\s?(km/h|kph|mph|km|kg|cm|mm|ml|mg)(?!\w)")
_FRACTION = re.compile(r"(?<![\w./,-])(?:(\d{1,3}) )?(\d{1,3})/(\d{1,3})(?![\w/-])(?![.,]\d)")
_RANGE = re.compile(rf"(?<![\w.,/:+-])({_NUM})([%°]?)(?:-|\s?–\s?)(?=({_NUM})(?!\d|[.,]\d|[-–/:]\d))")
_NUMBER_SIGN = re.compile(r"(?<!\w)#\s?(?=\d)|№\s?(?=\d)")
_DEGREES = re.compile(r"(?<=\d)\s?°(?:\s?([CF])(?!\w))?")
_PERCENT = re.compile(r"(?<=\d)\s?%")
_MINUS = re.compile(r"(?<![\w.,)\]%-])[-−](?=\d|(?:R\$|US\$|[$€£¥₹])\s?\d)")
_SUBTRACTED = re.compile(r"(?<=[\w)])\s?−\s?(?=[\w(])")
_TIMES = re.compile(r"(?<=\d)\s?[x*×]\s?(?=\d)|(?<=[\w)])\s?×\s?")
_ADDED = re.compile(r"(?<=\d)\s?\+\s?(?=\d)|(?<=[\w)]) {1,2}\+ (?=[\w(])")
_NUMBER = re.compile(_NUM)
_OF_INDIA = re.compile(r"\d{1,2}(?:,\d\d)+,\d{3}")

_MEASURES = {
    "km": "kilometer", "kg": "kilogram", "cm": "centimeter", "mm": "millimeter", "ml": "milliliter",
    "mg": "milligram", "km/h": "kilometer per hour", "kph": "kilometer per hour", "mph": "mile per hour",
}  # fmt: skip
_PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth"}
_GROUPS = ("", " thousand", " million", " billion", " trillion")


def said(text: str, words: Words) -> str:
    """The text with every figure as it is said in the language of `words`."""
    figures = _Figures(words)
    text = _GROUPED.sub("", text)
    text = _ISO_DATE.sub(lambda m: figures.date(int(m["y"]), int(m["m"]), int(m["d"]), m[0]), text)
    text = _DATE.sub(figures.numeric_date, text)
    text = _PHONE.sub(figures.phone, text)
    text = _ABROAD.sub(figures.abroad, text)
    text = _LOCAL_PHONE.sub(figures.local_phone, text)
    if words.english:
        text = _HALF_DAY.sub(lambda m: " " + m[1].upper() + "M", text)
        text = _HALF_DAYS.sub(f" {words.to} ", text)
    text = _TIMES_OF_DAY.sub(f" {words.to} ", text)
    text = _TIME.sub(figures.time, text)
    text = _RATIO.sub(rf"\1 {words.to} \2", text)
    text = _MINUS.sub(f"{words.minus} ", text)
    text = _SIGN_FIRST.sub(figures.sum_, text)
    text = _SIGN_LAST.sub(lambda m: figures.money(m[1], m[2], "") + figures.per(m[3]), text)
    if words.english:
        text = _MEASURE.sub(figures.measure, text)
        text = _FRACTION.sub(_fraction, text)
    text = _RANGE.sub(figures.range_, text)
    text = _NUMBER_SIGN.sub(f"{words.number} ", text)
    text = _DEGREES.sub(figures.degrees, text)
    text = _PERCENT.sub(words.percent if words.percent == "%" else f" {words.percent}", text)
    text = _SUBTRACTED.sub(f" {words.minus} ", text)
    text = _TIMES.sub(f" {words.symbols['×']} ", text)
    text = _ADDED.sub(f" {words.symbols['+']} ", text)
    return _NUMBER.sub(lambda m: figures.number(m[0]), text)


class _Figures:
    """How one language says what the patterns find."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._thousands, self._decimals = (".", ",") if words.decimal_comma else (",", ".")

    def number(self, written: str) -> str:
        """A number with its marks, if any: "1,234" "3.14" "1.5.2"."""
        if written.isdigit():
            return written
        thousands, decimals = self._thousands, self._decimals
        for mark in ",.":
            if written.count(mark) > 1 and _is_grouped(written.split(mark)):
                return self._whole(written.split(mark))
        whole, mark, rest = written.rpartition(decimals)
        if not mark or decimals in whole:
            whole, rest = written, ""
        groups = whole.split(thousands)
        if _is_grouped(groups) or _OF_INDIA.fullmatch(whole):
            return self._with_decimals(self._whole(groups), rest)
        if len(groups) == 1 and rest:
            return self._with_decimals(whole, rest)
        if not rest and len(groups) == 2 and thousands == ".":
            # "3.14" where people write "3,14": too few digits, or too many, to be thousands.
            return self._with_decimals(*groups)
        if "," in written:
            return ", ".join(self.number(each) for each in written.split(","))
        return f" {self._words.dot} ".join(written.split("."))

    def _whole(self, groups: list[str]) -> str:
        """Thousands in groups. A voice would read 1234 as a year in English."""
        if not self._words.english or not _is_grouped(groups) or len(groups) > len(_GROUPS):
            return "".join(groups)
        named = zip(map(int, groups), _GROUPS[len(groups) - 1 :: -1], strict=True)
        return " ".join(f"{count}{name}" for count, name in named if count) or "0"

    def _with_decimals(self, whole: str, decimals: str) -> str:
        if not decimals:
            return whole
        words = self._words
        if words.digit_by_digit or decimals.startswith("0") or len(decimals) > 3:
            decimals = " ".join(decimals)
        # A point that a language's own library reads must stay where it is.
        return f"{whole}.{decimals}" if words.point == "." else f"{whole} {words.point} {decimals}"

    def date(self, year: int, month: int, day: int, written: str) -> str:
        """A day; what is none is said number by number."""
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return re.sub(r"\D", " ", written)
        words = self._words
        name = words.months[month - 1] if words.months else ""
        return words.date.format(y=year, m=month, d=day, month=name)

    def numeric_date(self, found: Match) -> str:
        """A day written 24.11.2026, 24/11/2026 or, in America, 11/24/2026."""
        first, second, year = int(found[1]), int(found[3]), int(found[4])
        month_first = self._words.month_first and found[2] != "."
        if (month_first and first <= 12) or second > 12:
            return self.date(year, first, second, found[0])
        return self.date(year, second, first, found[0])

    def time(self, found: Match) -> str:
        """A time of the day; one with seconds is said number by number."""
        hour, minute = int(found[1]), int(found[2])
        if found[3] is not None:
            return f"{hour} {minute} {int(found[3])}"
        if not self._words.english:
            return (self._words.minute if minute else self._words.hour).format(h=hour, m=minute)
        rest = found.string[found.end() : found.end() + 3]
        if minute == 0 and rest in (" AM", " PM"):
            return str(hour)
        if minute == 0:
            return f"{hour} o'clock" if 1 <= hour <= 12 else f"{hour} hundred" if hour else "midnight"
        return f"{hour} oh {minute}" if minute < 10 else f"{hour} {minute}"

    def phone(self, found: Match) -> str:
        """Ten digits, and a country's before them, one by one."""
        groups = [each for each in (found[2], found[3] or found[4], found[5], found[6]) if each]
        return self._dialled(groups, plus=found[1] is not None)

    def abroad(self, found: Match) -> str:
        """A number of another country; a short one is a number like any other."""
        groups = re.findall(r"\d+", found[0])
        return self._dialled(groups, plus=True) if sum(map(len, groups)) >= 8 else found[0]

    def local_phone(self, found: Match) -> str:
        """Seven digits one by one, unless they may be a range of round numbers."""
        first, second = found[0].split("-")
        return found[0] if second.endswith("00") else self._dialled([first, second], plus=False)

    def _dialled(self, groups: list[str], *, plus: bool) -> str:
        digits = ", ".join(" ".join(group) for group in groups)
        return f"{self._words.symbols['+']} {digits}" if plus else digits

    def sum_(self, found: Match) -> str:
        """A sum with its sign first: "$5", "$5-10", "$2.5M", "$9/month"."""
        sign, number, upto, word, per = found.groups()
        scale = self._words.scales.get(word.strip().casefold()) if word else None
        left = word if word and scale is None else ""
        if left and not left[0].isspace():
            return found[0]
        first = f"{self.number(number)} {self._words.to} " if upto else ""
        return first + self.money(upto or number, sign, scale or "") + left + self.per(per)

    def money(self, number: str, sign: str, scale: str) -> str:
        """A number of units of money; two decimals are said behind the unit."""
        one, many = self._words.money[sign]
        whole, mark, cents = number[:-3], number[-3:-2], number[-2:]
        if scale:
            return f"{self.number(number)} {scale} {many}"
        if whole and mark in (".", ","):
            unit = one if whole == "1" else many
            return f"{self.number(whole)} {unit}" + ("" if cents == "00" else f" {cents}")
        return f"{self.number(number)} {one if number == '1' else many}"

    def per(self, slash: str | None) -> str:
        """What is said for the slash of "$5/month"."""
        return f" {self._words.per} " if slash else ""

    def measure(self, found: Match) -> str:
        """A number with an English unit."""
        unit, mark, rest = _MEASURES[found[2]].partition(" ")
        return f"{self.number(found[1])} {unit}{'' if found[1] == '1' else 's'}{mark}{rest}"

    def range_(self, found: Match) -> str:
        """A number, and the dash between it and a larger one. A model ("747-8") is no range."""
        first, second = (re.sub(r"\D", "", each) for each in (found[1], found[3]))
        short, years = max(len(first), len(second)) <= 2, (len(first), len(second)) == (4, 2)
        if "–" not in found[0] and not (short or years or int(second) > int(first)):
            return found[0]
        return f"{found[1]}{found[2]} {self._words.to} "

    def degrees(self, found: Match) -> str:
        """Degrees, and whose."""
        whose = {"C": " Celsius", "F": " Fahrenheit"}.get(found[1] or "", "")
        return f" {self._words.degrees}{whose}"


def _is_grouped(groups: list[str]) -> bool:
    return len(groups) > 1 and len(groups[0]) <= 3 and all(len(each) == 3 for each in groups[1:])


def _fraction(found: Match) -> str:
    whole, over, under = found[1], int(found[2]), int(found[3])
    if 0 < over < under and under in _PARTS:
        one = _PARTS[under]
        part = f"{over} {one}" if over == 1 else f"{over} {'halves' if under == 2 else one + 's'}"
        return f"{whole} and {part}" if whole else part
    apart = f"{over} out of {under}" if over <= under and under in (10, 100) else f"{over} {under}"
    return f"{whole} {apart}" if whole else apart
