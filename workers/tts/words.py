"""What is said for a symbol, in each language that the project's speech models understand or speak.

Owns the words, and how a language writes numbers, dates and times. Knows nothing of how they are found in
a text.
"""

# ruff: noqa: E501, RUF001 (the words of ten languages)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one language.

    `symbols`: what replaces a symbol between spaces. `money`: for each sign the name of one unit and of
    several. `scales`: what may stand between a sum and its unit ("million"), and how it is said there.
    `hour` and `minute`: templates of a time with `h` and `m`; `date`: one with `d`, `month` or `m`, and `y`.
    """

    dot: str
    slash: str
    dash: str
    underscore: str
    at: str
    question: str
    number: str
    percent: str
    degrees: str
    minus: str
    to: str
    point: str
    per: str
    squared: str
    cubed: str
    power: str
    symbols: Mapping[str, str]
    money: Mapping[str, tuple[str, str]]
    hour: str
    minute: str
    date: str
    months: tuple[str, ...] = ()
    scales: Mapping[str, str] = field(default_factory=dict)
    decimal_comma: bool = False
    """Whether the comma stands before decimals and the full stop between thousands; else the other way."""
    digit_by_digit: bool = False
    """Whether decimals are said one by one: "three point one four"."""
    month_first: bool = False
    """Whether 11/24/2026 is a date."""
    english: bool = False


def words_of(language: str) -> Words | None:
    """The words of a language (a BCP 47 tag); `None` for one that is not known here."""
    tag = language.lower()
    if tag.startswith("en-") and tag != "en-us":
        return _BRITISH
    return _WORDS.get(tag.partition("-")[0])


_PLAIN = (
    "dot slash dash underscore at question number percent degrees minus to point per squared cubed power"
).split()
_SYMBOLS = "& + = ≠ ≈ ~ ± × ÷ < > ≤ ≥".split()
_MONEY = "$ € £ ¥ ₹ R$".split()


def _language(
    *, words: str, symbols: str, money: str, times: str, scales: str, months: str = "", **habits: Any
) -> Words:
    """The words of a language out of lists with commas between their items.

    `words`, `symbols` and `money` are in the order of `_PLAIN`, `_SYMBOLS` and `_MONEY`; one and several of
    a unit of money are "dollar/dollars". `times`: the templates of an hour, a time and a date. `scales`: "k:
    thousand", or the word alone where it is said as it is written.
    """
    plain: dict[str, Any] = dict(zip(_PLAIN, words.split(", "), strict=True))
    units = [each.partition("/") for each in money.split(", ")]
    names = dict(zip(_MONEY, ((one, many or one) for one, _, many in units), strict=True))
    hour, minute, date = times.split(" | ")
    return Words(
        **plain,
        symbols=dict(zip(_SYMBOLS, symbols.split(", "), strict=True)),
        money=names | {"US$": names["$"]},
        hour=hour,
        minute=minute,
        date=date,
        months=tuple(months.split()),
        scales={each.partition(": ")[0]: each.rpartition(": ")[2] for each in scales.split(", ")},
        **habits,
    )


_ENGLISH = _language(
    words=(
        "dot, slash, dash, underscore, at, question mark, number, percent, degrees, minus, to, point, "
        "per, squared, cubed, to the power of"
    ),
    symbols=(
        "and, plus, equals, is not equal to, about, about, plus or minus, times, divided by, less than, "
        "more than, at most, at least"
    ),
    money="dollar/dollars, euro/euros, pound/pounds, yen, rupee/rupees, real/reais",
    times="{h} o'clock | {h} {m} | {month} {d}, {y}",
    months="January February March April May June July August September October November December",
    scales=(
        "k: thousand, m: million, mn: million, b: billion, bn: billion, t: trillion, thousand, million, "
        "billion, trillion"
    ),
    digit_by_digit=True,
    month_first=True,
    english=True,
)

_BRITISH = replace(_ENGLISH, date="{d} {month} {y}", month_first=False)

_WORDS = {
    "en": _ENGLISH,
    "es": _language(
        words=(
            "punto, barra, guion, guion bajo, arroba, interrogación, número, por ciento, grados, menos, a, "
            "coma, por, al cuadrado, al cubo, elevado a"
        ),
        symbols=(
            "y, más, igual a, distinto de, aproximadamente, unos, más o menos, por, entre, menor que, mayor "
            "que, como máximo, como mínimo"
        ),
        money="dólar/dólares, euro/euros, libra/libras, yen/yenes, rupia/rupias, real/reales",
        times="{h} en punto | {h} y {m} | {d} de {month} de {y}",
        months="enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        scales="mil, millón: millón de, millones: millones de",
        decimal_comma=True,
    ),
    "fr": _language(
        words=(
            "point, slash, tiret, tiret bas, arobase, point d'interrogation, numéro, pour cent, degrés, "
            "moins, à, virgule, par, au carré, au cube, puissance"
        ),
        symbols=(
            "et, plus, égale, différent de, environ, environ, plus ou moins, fois, divisé par, inférieur à, "
            "supérieur à, au plus, au moins"
        ),
        money="dollar/dollars, euro/euros, livre/livres, yen/yens, roupie/roupies, réal/réaux",
        times="{h} heures | {h} heures {m} | {d} {month} {y}",
        months="janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        scales=(
            "mille, million: million de, millions: millions de, milliard: milliard de, milliards: milliards "
            "de"
        ),
        decimal_comma=True,
    ),
    "pt": _language(
        words=(
            "ponto, barra, hífen, sublinhado, arroba, interrogação, número, por cento, graus, menos, a, "
            "vírgula, por, ao quadrado, ao cubo, elevado a"
        ),
        symbols=(
            "e, mais, igual a, diferente de, aproximadamente, cerca de, mais ou menos, vezes, dividido por, "
            "menor que, maior que, no máximo, no mínimo"
        ),
        money="dólar/dólares, euro/euros, libra/libras, iene/ienes, rupia/rupias, real/reais",
        times="{h} horas | {h} e {m} | {d} de {month} de {y}",
        months="janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
        scales="mil, milhão: milhão de, milhões: milhões de, bilhão: bilhão de, bilhões: bilhões de",
        decimal_comma=True,
    ),
    "de": _language(
        words=(
            "Punkt, Schrägstrich, Bindestrich, Unterstrich, ät, Fragezeichen, Nummer, Prozent, Grad, minus, "
            "bis, Komma, pro, hoch 2, hoch 3, hoch"
        ),
        symbols=(
            "und, plus, gleich, ungleich, ungefähr, etwa, plus minus, mal, geteilt durch, kleiner als, größer "
            "als, höchstens, mindestens"
        ),
        money="Dollar, Euro, Pfund, Yen, Rupie/Rupien, Real/Reais",
        times="{h} Uhr | {h} Uhr {m} | {d}. {month} {y}",
        months="Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        scales=(
            "tausend, million: Million, millionen: Millionen, mio: Millionen, milliarde: Milliarde, "
            "milliarden: Milliarden, mrd: Milliarden"
        ),
        decimal_comma=True,
        digit_by_digit=True,
    ),
    "it": _language(
        words=(
            "punto, barra, trattino, trattino basso, chiocciola, punto interrogativo, numero, per cento, "
            "gradi, meno, a, virgola, al, al quadrato, al cubo, alla"
        ),
        symbols=(
            "e, più, uguale a, diverso da, circa, circa, più o meno, per, diviso, minore di, maggiore di, al "
            "massimo, almeno"
        ),
        money="dollaro/dollari, euro, sterlina/sterline, yen, rupia/rupie, real/reais",
        times="{h} in punto | {h} e {m} | {d} {month} {y}",
        months="gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        scales="mila, milione: milione di, milioni: milioni di, miliardo: miliardo di, miliardi: miliardi di",
        decimal_comma=True,
    ),
    "nl": _language(
        words=(
            "punt, schuine streep, streepje, laag streepje, apenstaartje, vraagteken, nummer, procent, "
            "graden, min, tot, komma, per, kwadraat, tot de derde, tot de macht"
        ),
        symbols=(
            "en, plus, is, is niet gelijk aan, ongeveer, ongeveer, plus of min, keer, gedeeld door, kleiner "
            "dan, groter dan, hoogstens, minstens"
        ),
        money="dollar, euro, pond, yen, roepie, real",
        times="{h} uur | {h} uur {m} | {d} {month} {y}",
        months="januari februari maart april mei juni juli augustus september oktober november december",
        scales="duizend, miljoen, miljard",
        decimal_comma=True,
    ),
    "hi": _language(
        words=(
            "डॉट, स्लैश, डैश, अंडरस्कोर, ऐट, प्रश्न चिह्न, नंबर, प्रतिशत, डिग्री, माइनस, से, दशमलव, प्रति, का "
            "वर्ग, का घन, की घात"
        ),
        symbols=(
            "और, प्लस, बराबर, के बराबर नहीं, लगभग, लगभग, प्लस या माइनस, गुणा, भाग, से कम, से ज़्यादा, अधिकतम, कम से कम"
        ),
        money="डॉलर, यूरो, पाउंड, येन, रुपया/रुपये, रियाल",
        times="{h} बजे | {h} बजकर {m} मिनट | {d} {month} {y}",
        months="जनवरी फ़रवरी मार्च अप्रैल मई जून जुलाई अगस्त सितंबर अक्टूबर नवंबर दिसंबर",
        scales="हज़ार, लाख, करोड़, मिलियन",
        digit_by_digit=True,
    ),
    "ja": _language(
        words="ドット, スラッシュ, ハイフン, アンダーバー, アットマーク, クエスチョンマーク, ナンバー, パーセント, 度, マイナス, から, 点, 毎, の2乗, の3乗, の",
        symbols="と, 足す, イコール, ノットイコール, 約, 約, プラスマイナス, かける, 割る, 小なり, 大なり, 以下, 以上",
        money="ドル, ユーロ, ポンド, 円, ルピー, レアル",
        times="{h}時 | {h}時{m}分 | {y}年{m}月{d}日",
        scales="万, 億, 兆",
    ),
    "zh": _language(
        words="点, 斜杠, 横杠, 下划线, 艾特, 问号, 第, %, 度, 负, 到, ., 每, 的平方, 的立方, 的",
        symbols="和, 加, 等于, 不等于, 约, 约, 正负, 乘以, 除以, 小于, 大于, 至多, 至少",
        money="美元, 欧元, 英镑, 元, 卢比, 雷亚尔",
        times="{h}点 | {h}点{m}分 | {y}年{m}月{d}日",
        scales="万, 亿, 百万",
    ),
}
