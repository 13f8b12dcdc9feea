"""One tile record as text, and text back into the values of a record.

The grammar is EcoMapper's (Goktepe et al., 2025, EcoMapper: Generative Modeling for Climate-Aware
Satellite Imagery, ICML 2025, PMLR 267) with true units, decimals and one spelling:

    long   a {CLOUD }satellite image{ of LAND}{ in PLACE}{ on DATE}. {SENTENCE}.
    short  a {CLOUD }satellite image{ of LAND}{ in PLACE}{ on DATE}. {21.4 C, 2.51 mm/day, ...}.

PLACE is ``STATE, COUNTRY`` or ``COUNTRY``; DATE is ``MONTH YEAR``, ``MONTH`` or ``YEAR``. A name
that would be read as more than itself (``Korea, Republic of``) stands in double quotes.

Longer than other modules because writer and parser stand together: each checks the other.

Longer than the budget because the grammar and the parser that inverts it are read together.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple, TypedDict, TypeVar, cast, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ecomap.errors import RequestError, SchemaError
from ecomap.schema import CLIMATE, LandCover, TileRecord, parse_land_cover

TEMPERATURE, PRECIPITATION, RADIATION = CLIMATE

# fmt: off
MONTH_NAMES = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)
# fmt: on
"""English, whatever the locale."""


class WordScale(NamedTuple):
    """Words for the ranges of one quantity, from low to high."""

    bounds: tuple[float, ...]
    """Limits between the words, ascending, in the unit of the quantity."""
    words: tuple[str, ...]
    """One more than bounds."""
    find: Callable[[Sequence[float], float], int]
    """`bisect_right` where a value on a limit takes the upper word, else `bisect_left`."""

    def word(self, value: float) -> str:
        """Word of a value."""
        return self.words[self.find(self.bounds, value)]


CLOUD_SCALE = WordScale(
    (0.3, 0.5, 0.7), ("", "partially cloudy", "cloudy", "very cloudy"), bisect_left
)
"""EcoMapper's scale of the cloud fraction, [0, 1]: up to 0.3 nothing is said."""

# fmt: off
WORD_SCALES: dict[str, WordScale] = {
    TEMPERATURE: WordScale(
        (-40, -30, -20, -10, 0, 10, 20, 30, 40),
        ("Extremely Cold", "Very Cold", "Severely Cold", "Cold", "Chilly",
         "Cool", "Mild", "Warm", "Hot", "Very Hot"),
        bisect_right,
    ),
    PRECIPITATION: WordScale(
        (0.01, 1, 5, 10, 20, 30, 50, 75),
        ("No", "Very Light", "Light", "Moderately Light", "Moderate",
         "Moderately Heavy", "Heavy", "Very Heavy", "Extreme"),
        bisect_left,
    ),
    RADIATION: WordScale(
        (2, 5, 10, 15, 20, 25, 30, 40),
        ("Extremely Low", "Very Low", "Low", "Moderate", "Somewhat High",
         "High", "Very High", "Extreme", "Ultra Extreme"),
        bisect_right,
    ),
}
# fmt: on
"""EcoMapper's scales (its released caption builder, 2025), read in the true units: °C, mm/day and
MJ/m2/day. Its "No Precipitation" is "No" here, since the noun follows."""

DateChoice = Literal["skip", "month_year", "month", "year"]
LocationChoice = Literal["skip", "state_country", "country"]
ClimateChoice = Literal["none", "TPR", "TP", "TR", "T", "PR", "P", "R"]

_LETTERS = dict(zip("TPR", CLIMATE, strict=True))
_C = TypeVar("_C", bound=str)


def _check_weights(weights: dict[_C, float]) -> dict[_C, float]:
    """Refuse weights that are no probabilities; sort, so that equal weights draw equal choices."""
    if min(weights.values(), default=0) < 0 or abs(sum(weights.values()) - 1) > 1e-6:
        raise ValueError(f"weights {weights} must be at least 0 and add up to 1")
    return {choice: weight for choice, weight in sorted(weights.items()) if weight > 0}


Probability = Annotated[float, Field(ge=0, le=1)]
Weights = Annotated[dict[_C, float], AfterValidator(_check_weights)]


class PromptMasks(BaseModel):
    """How often each field of a prompt is told, and how. A choice without a weight has 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    cloud: Probability = 1
    """Probability that cloudiness is told."""
    land_cover: Probability = 1
    """Probability that land cover is told."""
    words: Probability = 0
    """Probability that climate is told in words instead of numbers."""
    location: Weights[LocationChoice] = {"state_country": 1}
    """Weights of the choices for the place."""
    date: Weights[DateChoice] = {"month_year": 1}
    """Weights of the choices for the date."""
    climate: Weights[ClimateChoice] = {"TPR": 1}
    """Weights of the sets of quantities: T temperature, P precipitation, R solar radiation."""


_HALF_PLACE: dict[LocationChoice, float] = {"skip": 0.5, "state_country": 0.25, "country": 0.25}
_EVEN_DATE: dict[DateChoice, float] = dict.fromkeys(get_args(DateChoice), 0.25)
_PARTS: tuple[ClimateChoice, ...] = ("TR", "T", "PR", "P", "R")

MASKS: dict[str, PromptMasks] = {
    "fixed_caption": PromptMasks(),
    "fixed_caption_word": PromptMasks(words=1),
    "fixed_caption_diffsat": PromptMasks(
        cloud=0, location={"country": 1}, date={"skip": 1}, climate={"none": 1}
    ),
    "skip_date_location": PromptMasks(location=_HALF_PLACE, date=_EVEN_DATE),
    "skip_date_location_word": PromptMasks(words=1, location=_HALF_PLACE, date=_EVEN_DATE),
    "skip_month_always": PromptMasks(date={"skip": 0.75, "year": 0.25}),
    "skip_weather_always": PromptMasks(climate={"none": 1}),
    "skip_weather_data": PromptMasks(climate={"none": 1}),
    "skip_all": PromptMasks(
        cloud=0.9,
        land_cover=0.95,
        location={"skip": 0.2, "state_country": 0.5, "country": 0.3},
        date={"skip": 0.3, "month_year": 0.2, "month": 0.3, "year": 0.2},
        climate=dict.fromkeys(_PARTS, 0.05) | {"none": 0.2, "TPR": 0.5, "TP": 0.05},
    ),
    "ecomap": PromptMasks(
        cloud=0.9,
        land_cover=0.9,
        words=0.25,
        location={"skip": 0.4, "state_country": 0.4, "country": 0.2},
        date={"skip": 0.2, "month_year": 0.2, "month": 0.5, "year": 0.1},
        climate=dict.fromkeys(_PARTS, 0.04) | {"none": 0.1, "TPR": 0.6, "TP": 0.1},
    ),
}
"""EcoMapper's configurations by its names, and ours. ``fixed_caption_word`` gives words here, as
its name says (EcoMapper's file gives numbers). ``ecomap`` mixes numbers (3 in 4) with words, tells
some climate in 9 of 10 prompts and single quantities now and then, the month more often than the
year, and leaves out every field at times, so that none is needed."""

SHORT_PLACE_BYTES = 32
"""Longest place, in UTF-8 bytes, that a short prompt tells in full. A longer one loses its state,
then its country, lest it push the climate beyond what a CLIP encoder reads: the rest of a short
prompt is at most 42 of `ecomap.tokenizer`'s tokens, and a byte at most one, so that CLIP's 77 hold
any place in Latin letters. A smaller encoder may read less (`ecomap.model.lost_tokens`)."""


class Prompt(NamedTuple):
    """Texts of one record."""

    short: str
    """For CLIP encoders: as the long one, climate in as few tokens as can be."""
    long: str
    """For T5: with whole sentences."""


class PromptChoice(NamedTuple):
    """What a prompt tells of a record, as far as the record knows it."""

    cloud: bool = True
    land_cover: bool = True
    words: bool = False
    location: LocationChoice = "state_country"
    date: DateChoice = "month_year"
    climate: ClimateChoice = "TPR"


def draw_choice(masks: PromptMasks, rng: np.random.Generator) -> PromptChoice:
    """Draw each field independently of the others; always takes six numbers from ``rng``."""
    draws = rng.random(6).tolist()
    return PromptChoice(
        cloud=draws[0] < masks.cloud,
        land_cover=draws[1] < masks.land_cover,
        words=draws[2] < masks.words,
        location=_pick(masks.location, draws[3]),
        date=_pick(masks.date, draws[4]),
        climate=_pick(masks.climate, draws[5]),
    )


def build_prompt(record: TileRecord, masks: PromptMasks, rng: np.random.Generator) -> Prompt:
    """Draw what to tell and write it; see `draw_choice` and `write_prompt`."""
    return write_prompt(record, draw_choice(masks, rng))


def draw_prompt(
    record: TileRecord, masks: PromptMasks, *, seed: int, sample_index: int, epoch: int
) -> Prompt:
    """Write the prompt that a sample has in an epoch of a run, in whichever process and order.

    Args:
        record: Tile to describe.
        masks: Weights of the choices.
        seed: Seed of the run; likewise the two below, in [0, 2**64).
        sample_index: Place of the sample in the dataset.
        epoch: Number of the pass over the dataset.

    Raises:
        RequestError: If one of the three numbers is out of range.
    """
    if not (0 <= seed < 1 << 64 and 0 <= sample_index < 1 << 64 and 0 <= epoch < 1 << 64):
        raise RequestError(
            f"seed {seed}, sample_index {sample_index} and epoch {epoch} must lie in [0, 2**64)."
        )
    counter = (epoch << 128) + (sample_index << 64)  # the low word counts the draws
    bits = np.random.Philox(key=(_STREAM << 64) + seed, counter=counter)
    return build_prompt(record, masks, np.random.Generator(bits))


_STREAM = 0x70726F6D7074
"""Keeps these draws apart from others with the same seed."""


def write_prompt(record: TileRecord, choice: PromptChoice) -> Prompt:
    """Tell the chosen fields of a record; what the record does not know is left out.

    A place without a country is left out, as a state alone would be read as one.
    """
    head = "a satellite image"
    if choice.cloud and record.cloud_frac:
        head = f"a {CLOUD_SCALE.word(record.cloud_frac)} satellite image".replace("  ", " ")
    if choice.land_cover and record.land_cover is not None:
        head += f" of {record.land_cover.label}"
    places = _write_places(record, choice.location)
    short_place = next(p for p in places if len(p.encode()) <= len(" in ") + SHORT_PLACE_BYTES)
    date = _write_date(record.month, choice.date)
    climate = _write_climate(record, choice)
    return Prompt(
        short=f"{head}{short_place}{date}.{climate.short}",
        long=f"{head}{places[0]}{date}.{climate.long}",
    )


def _pick(weights: dict[_C, float], draw: float) -> _C:
    """Choice at ``draw``, in [0, 1), on the weights laid end to end."""
    *choices, last = weights
    for choice in choices:
        draw -= weights[choice]
        if draw < 0:
            return choice
    return last  # also where the weights add up to a little less than 1


def _write_places(record: TileRecord, choice: LocationChoice) -> tuple[str, ...]:
    """The place as chosen, then shorter ways to say it; the last says nothing."""
    country = _write_name(record.country)
    if choice == "skip" or not country:
        return ("",)
    state = _write_name(record.state) if choice == "state_country" else ""
    full = (f" in {state}, {country}",) if state else ()
    return (*full, f" in {country}", "")


def _write_name(name: str | None) -> str:
    """Name on one line, in quotes where the parser would take it apart."""
    name = " ".join((name or "").split())
    if _NEEDS_QUOTES.search(name):
        name = '"' + name.replace('"', '""') + '"'
    return name


def _write_date(month: str, choice: DateChoice) -> str:
    name, year = MONTH_NAMES[int(month[5:]) - 1], month[:4]
    texts = {"month_year": f" on {name} {year}", "month": f" on {name}", "year": f" on {year}"}
    return texts.get(choice, "")


def _write_climate(record: TileRecord, choice: PromptChoice) -> Prompt:
    """Climate with a leading space, terse and as a sentence; both empty if nothing is told."""
    letters = "" if choice.climate == "none" else choice.climate
    terse: list[str] = []
    phrases: list[str] = []
    for name in map(_LETTERS.__getitem__, letters):
        value: float | None = getattr(record, name)
        if value is None:
            continue
        wording = (_WORDED if choice.words else _NUMBERED)[name]
        told = WORD_SCALES[name].word(value) if choice.words else _write_number(name, value)
        terse.append(wording.terse.format(told))
        phrases.append((wording.follow if phrases else wording.lead).format(told))
    if not phrases:
        return Prompt("", "")
    follow = ", with " + ", and ".join(phrases[1:]) if phrases[1:] else ""
    return Prompt(f" {', '.join(terse)}.", f" {phrases[0]}{follow}.")


def _write_number(name: str, value: float) -> str:
    decimals = CLIMATE[name].decimals
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0 turns -0.0 into 0.0


class _Wording(NamedTuple):
    """How one quantity is told in a short prompt, first in a sentence, and after others."""

    terse: str
    lead: str
    follow: str


_LAST_MONTH = "over the last month"
_NUMBERED = {
    name: _Wording(
        f"{{}} {unit}",
        f"The average {label} {_LAST_MONTH} was {{}} {unit}",
        f"an average {label} of {{}} {unit}",
    )
    for name, label, unit in (
        (TEMPERATURE, "temperature", "C"),
        (PRECIPITATION, "precipitation", "mm/day"),
        (RADIATION, "daily solar radiation", "MJ/m2/day"),
    )
}
_WORDED = {
    TEMPERATURE: _Wording("{}", f"The average temperature {_LAST_MONTH} was {{}}", "{}"),
    PRECIPITATION: _Wording(
        "{} precipitation", f"There was {{}} precipitation {_LAST_MONTH}", "{} precipitation"
    ),
    RADIATION: _Wording(
        "{} radiation",
        f"There was {{}} daily solar radiation {_LAST_MONTH}",
        "{} daily solar radiation",
    ),
}


class ParsedPrompt(TypedDict, total=False):
    """What a prompt tells; a key is absent where it tells nothing of it."""

    cloud: str
    """Word of `CLOUD_SCALE`."""
    land_cover: LandCover
    state: str
    country: str
    calendar_month: int
    """1 to 12."""
    year: int
    month: str
    """``YYYY-MM``, where both are told."""
    temperature_c: float
    precipitation_mm_day: float
    solar_radiation_mj_m2_day: float
    temperature_word: str
    """Word of `WORD_SCALES`; likewise below."""
    precipitation_word: str
    solar_word: str


def _any_of(words: Sequence[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if word)


_NOUNS = {
    TEMPERATURE: "temperature",
    PRECIPITATION: "(?:pre|per)cipitation",
    RADIATION: "radiation",
}
"""EcoMapper writes "percipitation" in some of its sentences."""
_ANY_WORD = {name: _any_of(scale.words) for name, scale in WORD_SCALES.items()}
_CLIMATE_START = (
    rf"(?:The average|There was|Average values|[-+]?\d|(?:{'|'.join(_ANY_WORD.values())})\b)"
)
_NAME_END = rf", |\. {_CLIMATE_START}"
_NEEDS_QUOTES = re.compile(rf'"| on |,$|{_NAME_END}')
_QUOTED = r'"(?:[^"]|"")*+"'
_MONTHS = "|".join(MONTH_NAMES)
# No part can end at more than one place but the country, so that reading takes little time for
# any text: land cover holds no " in " or " on ", a state outside quotes no ", "
# and no climate.
_PROMPT = re.compile(
    rf"\s*[Aa]n?\s+(?:(?P<cloud>{_any_of(CLOUD_SCALE.words)})\s+)?satellite image"
    r"(?: of (?P<land_cover>(?:(?! in | on )[^.])+))?"
    rf'(?: in (?:(?P<state>{_QUOTED}|(?:(?!{_NAME_END})[^"])+), )?(?P<country>{_QUOTED}|[^"]+?))?'
    rf"(?: on (?=\w)(?P<month>{_MONTHS})?(?:,? ?(?P<year>\d{{4}}))?)?"
    rf"(?:\.?|\. (?P<climate>{_CLIMATE_START}.*))\s*"
)
_WORD_TOLD = {
    TEMPERATURE: re.compile(
        rf"(?:temperature {_LAST_MONTH} was |^)({_ANY_WORD[TEMPERATURE]})(?=[.,]|$)"
    ),
    PRECIPITATION: re.compile(
        rf"\b({_ANY_WORD[PRECIPITATION]})(?: Precipitation)? {_NOUNS[PRECIPITATION]}"
    ),
    RADIATION: re.compile(rf"\b({_ANY_WORD[RADIATION]})(?: daily solar)? radiation"),
}


def parse_prompt(text: str) -> ParsedPrompt:
    """Read a prompt, long or short, back into the fields that it tells.

    EcoMapper's captions and training prompts are read too; as there, the state ends at the first
    comma of a place without quotes. Climate values are read as in `parse_climate_sentence`.

    Raises:
        SchemaError: If the text does not follow the grammar, names an unknown land cover, or its
            climate has neither numbers with units nor words of `WORD_SCALES`.
    """
    match = _PROMPT.fullmatch(text)
    if match is None:
        raise SchemaError(
            f"{text!r} is no prompt of ecomap's grammar; expected 'a satellite image of "
            "Grasslands in Kansas, United States on July 2004.', climate following."
        )
    parsed = ParsedPrompt()
    if match["cloud"]:
        parsed["cloud"] = match["cloud"]
    if match["land_cover"]:
        parsed["land_cover"] = parse_land_cover(match["land_cover"])
    if match["state"]:
        parsed["state"] = _unquote(match["state"])
    if match["country"]:
        parsed["country"] = _unquote(match["country"])
    if match["month"]:
        parsed["calendar_month"] = MONTH_NAMES.index(match["month"]) + 1
    if match["year"]:
        parsed["year"] = int(match["year"])
    if match["month"] and match["year"]:
        parsed["month"] = f"{match['year']}-{parsed['calendar_month']:02d}"
    return cast(ParsedPrompt, parsed | _parse_climate(match["climate"] or ""))


def _unquote(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _parse_climate(text: str) -> dict[str, float | str]:
    """Words that a climate text tells, then the numbers of the rest."""
    told: dict[str, float | str] = {}
    rest = text
    for name, pattern in _WORD_TOLD.items():
        if match := pattern.search(text):
            told[CLIMATE[name].short + "_word"] = match[1]
            rest = rest.replace(match[0], "")
    told |= parse_climate_sentence(rest)
    if text and not told:
        raise SchemaError(f"{text!r} tells no climate; expected such as '21.4 C, 2.51 mm/day.'")
    return told


_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_UNITS = {
    TEMPERATURE: "°?C",
    PRECIPITATION: "mm(?:/day)?",
    RADIATION: "(?:MJ|kWh|W)/m[2²](?:/day)?",
}
"""Every label of the quantity's unit. EcoMapper's "mm", "kWh/m2" and "W/m2" all stand for the
units of `CLIMATE`, so a label only tells which quantity a number is."""
_MEASURED = {
    name: re.compile(rf"(?<![\w.])({_NUMBER})\s*{unit}(?![\w/])") for name, unit in _UNITS.items()
}
_NAMED = {name: re.compile(noun, re.IGNORECASE) for name, noun in _NOUNS.items()}


def parse_climate_sentence(text: str) -> dict[str, float]:
    """Read the numbers of a climate sentence: EcoMapper's captions and training text, or ours.

    Values are returned as they stand, in the units of `ecomap.schema.CLIMATE`: EcoMapper's
    "mm" is mm/day, and its "kWh/m2" and "W/m2" are MJ/m2/day.

    Args:
        text: Sentence, or several of them.

    Returns:
        Value by field name (``temperature_c``, ``precipitation_mm_day``,
        ``solar_radiation_mj_m2_day``) of every quantity that the text gives; empty if it names
        none. Ranges are not checked.

    Raises:
        SchemaError: If a quantity is named without a number in a known unit (as in ``nan C`` or
            ``293 K``), or has two numbers.

    Example:
        >>> parse_climate_sentence("temperature: -8.00 C, precipitation: 3.87 mm")
        {'temperature_c': -8.0, 'precipitation_mm_day': 3.87}
    """
    values: dict[str, float] = {}
    for name, pattern in _MEASURED.items():
        numbers = pattern.findall(text)
        if len(numbers) > 1:
            raise SchemaError(
                f"{name} has {len(numbers)} values ({', '.join(numbers)}) in {text!r}; "
                "give one value for each quantity."
            )
        if numbers:
            values[name] = float(numbers[0]) + 0.0  # turns -0.0 into 0.0
        elif _NAMED[name].search(text):
            raise SchemaError(
                f"{name} has no number in {text!r}; expected one with its unit, "
                f"such as '1.5 {CLIMATE[name].unit.lstrip('°')}'."
            )
    return values
