import json
import subprocess
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ecomap import prompt
from ecomap.errors import RequestError, SchemaError
from ecomap.prompt import MASKS, PromptChoice, PromptMasks, parse_climate_sentence, parse_prompt
from ecomap.schema import CLIMATE, LandCover, TileRecord

HEAD = "a satellite image of Grasslands in Kansas, United States on July 2004."
NUMBERS = {
    "temperature_c": 21.44,
    "precipitation_mm_day": 2.513,
    "solar_radiation_mj_m2_day": 20.08,
}


def make_record(**fields: Any) -> TileRecord:
    known: dict[str, Any] = {
        "source": "made_up",
        "location_id": "7",
        "month": "2004-07",
        "lat": 38.5,
        "lon": -98.0,
        "ground_sampling_distance_m": 10,
        "width_px": 96,
        "height_px": 64,
        "land_cover": LandCover.GRASSLANDS,
        "state": "Kansas",
        "country": "United States",
        "license": "made up",
        **NUMBERS,
    }
    return TileRecord(**known | fields)


def write(*, record: TileRecord | None = None, **choice: Any) -> prompt.Prompt:
    return prompt.write_prompt(record or make_record(), PromptChoice(**choice))


LONG_NUMBERS = {
    "none": "",
    "TPR": " The average temperature over the last month was 21.4 C, with an average precipitation "
    "of 2.51 mm/day, and an average daily solar radiation of 20.1 MJ/m2/day.",
    "TP": " The average temperature over the last month was 21.4 C, with an average precipitation "
    "of 2.51 mm/day.",
    "TR": " The average temperature over the last month was 21.4 C, with an average daily solar "
    "radiation of 20.1 MJ/m2/day.",
    "T": " The average temperature over the last month was 21.4 C.",
    "PR": " The average precipitation over the last month was 2.51 mm/day, with an average daily "
    "solar radiation of 20.1 MJ/m2/day.",
    "P": " The average precipitation over the last month was 2.51 mm/day.",
    "R": " The average daily solar radiation over the last month was 20.1 MJ/m2/day.",
}
LONG_WORDS = {
    "none": "",
    "TPR": " The average temperature over the last month was Warm, with Light precipitation, and "
    "High daily solar radiation.",
    "TP": " The average temperature over the last month was Warm, with Light precipitation.",
    "TR": " The average temperature over the last month was Warm, with High daily solar radiation.",
    "T": " The average temperature over the last month was Warm.",
    "PR": " There was Light precipitation over the last month, with High daily solar radiation.",
    "P": " There was Light precipitation over the last month.",
    "R": " There was High daily solar radiation over the last month.",
}
SHORT_NUMBERS = {
    "none": "",
    "TPR": " 21.4 C, 2.51 mm/day, 20.1 MJ/m2/day.",
    "TP": " 21.4 C, 2.51 mm/day.",
    "TR": " 21.4 C, 20.1 MJ/m2/day.",
    "T": " 21.4 C.",
    "PR": " 2.51 mm/day, 20.1 MJ/m2/day.",
    "P": " 2.51 mm/day.",
    "R": " 20.1 MJ/m2/day.",
}
SHORT_WORDS = {
    "none": "",
    "TPR": " Warm, Light precipitation, High radiation.",
    "TP": " Warm, Light precipitation.",
    "TR": " Warm, High radiation.",
    "T": " Warm.",
    "PR": " Light precipitation, High radiation.",
    "P": " Light precipitation.",
    "R": " High radiation.",
}


@pytest.mark.parametrize("climate", get_args(prompt.ClimateChoice))
def test_each_set_of_quantities_is_told_in_numbers_and_in_words(climate):
    assert write(climate=climate).long == HEAD + LONG_NUMBERS[climate]
    assert write(climate=climate, words=True).long == HEAD + LONG_WORDS[climate]
    assert write(climate=climate).short == HEAD + SHORT_NUMBERS[climate]
    assert write(climate=climate, words=True).short == HEAD + SHORT_WORDS[climate]


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("skip", ""),
        ("country", " in United States"),
        ("state_country", " in Kansas, United States"),
    ],
)
@pytest.mark.parametrize(
    ("date", "when"),
    [("skip", ""), ("month", " on July"), ("year", " on 2004"), ("month_year", " on July 2004")],
)
def test_place_and_date_are_told_as_chosen(location, place, date, when):
    told = write(location=location, date=date, climate="none")
    assert told.long == told.short == f"a satellite image of Grasslands{place}{when}."


def test_nothing_chosen_leaves_a_satellite_image():
    told = write(cloud=False, land_cover=False, location="skip", date="skip", climate="none")
    assert told == ("a satellite image.", "a satellite image.")


def test_months_have_their_english_names():
    names = [
        write(record=make_record(month=f"1999-{month:02d}"), date="month", climate="none").long
        for month in range(1, 13)
    ]
    assert [name.split(" on ")[1] for name in names] == [
        *("January.", "February.", "March.", "April.", "May.", "June."),
        *("July.", "August.", "September.", "October.", "November.", "December."),
    ]


def test_an_unknown_quantity_is_left_out_of_the_chosen_set():
    record = make_record(solar_radiation_mj_m2_day=None)
    assert write(record=record) == write(climate="TP")
    assert write(record=record, climate="TR") == write(climate="T")
    assert write(record=record, climate="R") == write(climate="none")
    record = make_record(temperature_c=None)
    assert write(record=record, words=True) == write(climate="PR", words=True)


def test_other_unknown_fields_are_left_out():
    record = make_record(land_cover=None, state=None, country=" ", cloud_frac=None)
    assert write(record=record, climate="none").long == "a satellite image on July 2004."


def test_a_place_without_state_tells_its_country_and_without_country_nothing():
    only_country = write(record=make_record(state=None), climate="none")
    assert only_country == write(location="country", climate="none")
    assert write(record=make_record(country=None), climate="none") == write(
        location="skip", climate="none"
    )


@pytest.mark.parametrize(
    ("cloud_frac", "words"),
    [
        *((0.0, "a "), (0.3, "a "), (0.31, "a partially cloudy "), (0.5, "a partially cloudy ")),
        *((0.51, "a cloudy "), (0.7, "a cloudy "), (0.71, "a very cloudy "), (1, "a very cloudy ")),
    ],
)
def test_cloudiness_is_told_above_its_thresholds(cloud_frac, words):
    record = make_record(cloud_frac=cloud_frac)
    assert write(record=record).long.startswith(words + "satellite image of")
    assert write(record=record, cloud=False).long.startswith("a satellite image of")


@pytest.mark.parametrize(
    ("quantity", "value", "word"),
    [
        ("temperature_c", -40.1, "Extremely Cold"),
        ("temperature_c", -40.0, "Very Cold"),
        ("temperature_c", -30.0, "Severely Cold"),
        ("temperature_c", -20.0, "Cold"),
        ("temperature_c", -10.0, "Chilly"),
        ("temperature_c", -0.01, "Chilly"),
        ("temperature_c", 0.0, "Cool"),
        ("temperature_c", 10.0, "Mild"),
        ("temperature_c", 20.0, "Warm"),
        ("temperature_c", 30.0, "Hot"),
        ("temperature_c", 40.0, "Very Hot"),
        ("precipitation_mm_day", 0.01, "No"),
        ("precipitation_mm_day", 0.02, "Very Light"),
        ("precipitation_mm_day", 1.0, "Very Light"),
        ("precipitation_mm_day", 5.0, "Light"),
        ("precipitation_mm_day", 10.0, "Moderately Light"),
        ("precipitation_mm_day", 20.0, "Moderate"),
        ("precipitation_mm_day", 30.0, "Moderately Heavy"),
        ("precipitation_mm_day", 50.0, "Heavy"),
        ("precipitation_mm_day", 75.0, "Very Heavy"),
        ("precipitation_mm_day", 75.1, "Extreme"),
        ("solar_radiation_mj_m2_day", 1.99, "Extremely Low"),
        ("solar_radiation_mj_m2_day", 2.0, "Very Low"),
        ("solar_radiation_mj_m2_day", 5.0, "Low"),
        ("solar_radiation_mj_m2_day", 10.0, "Moderate"),
        ("solar_radiation_mj_m2_day", 15.0, "Somewhat High"),
        ("solar_radiation_mj_m2_day", 20.0, "High"),
        ("solar_radiation_mj_m2_day", 25.0, "Very High"),
        ("solar_radiation_mj_m2_day", 30.0, "Extreme"),
        ("solar_radiation_mj_m2_day", 40.0, "Ultra Extreme"),
    ],
)
def test_words_change_at_their_thresholds(quantity, value, word):
    letter = dict(zip(CLIMATE, "TPR", strict=True))[quantity]
    told = write(record=make_record(**{quantity: value}), climate=letter, words=True)
    key = CLIMATE[quantity].short + "_word"
    assert parse_prompt(told.long)[key] == parse_prompt(told.short)[key] == word


def test_a_small_negative_number_is_not_told_as_minus_zero():
    assert write(record=make_record(temperature_c=-0.04), climate="T").short.endswith(" 0.0 C.")


def test_a_long_place_loses_its_state_then_its_country_in_short_prompts_only():
    record = make_record(state="Tshuapa", country="Democratic Republic of the Congo")  # 7 + 2 + 32
    told = write(record=record, climate="none", land_cover=False, date="skip")
    assert told.long == "a satellite image in Tshuapa, Democratic Republic of the Congo."
    assert told.short == "a satellite image in Democratic Republic of the Congo."
    told = write(record=make_record(country="x" * 33), climate="none")
    assert told.short == "a satellite image of Grasslands on July 2004."
    told = write(record=make_record(country="é" * 17), climate="none")  # 34 bytes
    assert told.short == "a satellite image of Grasslands on July 2004."


# Rows of EcoMapper's configurations: cloud, land cover, words; location skip / state and country /
# country; date skip / month and year / month / year; climate none / TPR / each of the others.
ECOMAPPER = {
    "fixed_caption": (1, 1, 0, (0, 1, 0), (0, 1, 0, 0), (0, 1, 0)),
    "fixed_caption_word": (1, 1, 1, (0, 1, 0), (0, 1, 0, 0), (0, 1, 0)),
    "fixed_caption_diffsat": (0, 1, 0, (0, 0, 1), (1, 0, 0, 0), (1, 0, 0)),
    "skip_date_location": (1, 1, 0, (0.5, 0.25, 0.25), (0.25,) * 4, (0, 1, 0)),
    "skip_date_location_word": (1, 1, 1, (0.5, 0.25, 0.25), (0.25,) * 4, (0, 1, 0)),
    "skip_month_always": (1, 1, 0, (0, 1, 0), (0.75, 0, 0, 0.25), (0, 1, 0)),
    "skip_weather_always": (1, 1, 0, (0, 1, 0), (0, 1, 0, 0), (1, 0, 0)),
    "skip_weather_data": (1, 1, 0, (0, 1, 0), (0, 1, 0, 0), (1, 0, 0)),
    "skip_all": (0.9, 0.95, 0, (0.2, 0.5, 0.3), (0.3, 0.2, 0.3, 0.2), (0.2, 0.5, 0.05)),
}


def test_masks_are_ecomappers_and_ours():
    assert set(MASKS) == {*ECOMAPPER, "ecomap"}


@pytest.mark.parametrize("name", ECOMAPPER)
def test_masks_have_ecomappers_weights(name):
    masks = MASKS[name]
    cloud, land_cover, words, location, date, (none, full, other) = ECOMAPPER[name]
    assert (masks.cloud, masks.land_cover, masks.words) == (cloud, land_cover, words)
    assert tuple(masks.location.get(c, 0) for c in ("skip", "state_country", "country")) == location
    assert tuple(masks.date.get(c, 0) for c in ("skip", "month_year", "month", "year")) == date
    others = dict.fromkeys(["TP", "TR", "T", "PR", "P", "R"], other)
    told = {c: masks.climate.get(c, 0) for c in get_args(prompt.ClimateChoice)}
    assert told == {"none": none, "TPR": full, **others}


def test_our_masks_keep_climate_in_nine_of_ten_prompts_and_numbers_in_three_of_four():
    masks = MASKS["ecomap"]
    assert masks.climate["none"] == 0.1
    assert masks.words == 0.25


@pytest.mark.parametrize("name", ["skip_all", "ecomap"])
def test_choices_are_drawn_as_often_as_their_weights_and_independently(name):
    masks, rng, num_draws = MASKS[name], np.random.default_rng(11), 20_000
    draws = [prompt.draw_choice(masks, rng) for _ in range(num_draws)]
    for field in ("location", "date", "climate"):
        counts = Counter(getattr(draw, field) for draw in draws)
        shares = {choice: count / num_draws for choice, count in counts.items()}
        assert shares == pytest.approx(getattr(masks, field), abs=0.015)
    flags = np.array(
        [(d.cloud, d.land_cover, d.words, d.date == "skip", d.location == "skip") for d in draws]
    )
    expected = [masks.cloud, masks.land_cover, masks.words, masks.date["skip"]]
    assert flags.mean(0).tolist() == pytest.approx([*expected, masks.location["skip"]], abs=0.015)
    varying = flags[:, flags.std(0) > 0].astype(float)
    correlation = np.corrcoef(varying, rowvar=False) - np.eye(varying.shape[1])
    assert np.abs(correlation).max() < 0.03


def test_the_order_of_weights_does_not_change_the_draws():
    masks = PromptMasks(date={"year": 0.5, "month": 0.25, "skip": 0.25})
    turned = PromptMasks(date={"skip": 0.25, "month": 0.25, "year": 0.5})
    draws = [prompt.draw_choice(masks, np.random.default_rng(seed)) for seed in range(50)]
    assert draws == [prompt.draw_choice(turned, np.random.default_rng(seed)) for seed in range(50)]


@pytest.mark.parametrize(
    "weights",
    [{"skip": 0.5}, {"skip": 1.5, "year": -0.5}, {}, {"skip": 0.5, "decade": 0.5}],
)
def test_weights_that_are_no_probabilities_are_refused(weights):
    with pytest.raises(ValidationError):
        PromptMasks(date=weights)


def test_masks_are_frozen_and_know_their_keys():
    with pytest.raises(ValidationError):
        PromptMasks(season=1)
    with pytest.raises(ValidationError):
        MASKS["ecomap"].words = 1


def draw(seed: int = 3, sample_index: int = 5, epoch: int = 0) -> prompt.Prompt:
    return prompt.draw_prompt(
        make_record(), MASKS["ecomap"], seed=seed, sample_index=sample_index, epoch=epoch
    )


def test_drawn_prompts_do_not_depend_on_order_or_process():
    keys = list(product([0, 3], [0, 5, 2**40], [0, 1, 7]))
    drawn = {key: draw(*key) for key in keys}
    assert {key: draw(*key) for key in reversed(keys)} == drawn
    code = (
        "import sys\n"
        "from ecomap.prompt import MASKS, draw_prompt\n"
        "from ecomap.schema import TileRecord\n"
        "record = TileRecord.model_validate_json(sys.argv[1])\n"
        "key = dict(seed=3, epoch=1)\n"
        "drawn = [draw_prompt(record, MASKS['ecomap'], sample_index=n, **key) for n in range(20)]\n"
        "print(repr([tuple(one) for one in drawn]))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code, make_record().model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert elsewhere.stdout.strip() == repr([tuple(draw(3, n, 1)) for n in range(20)])


def test_drawn_prompts_stay_the_same_between_versions():
    assert [draw(sample_index=index).short for index in range(3)] == [
        "a satellite image of Grasslands in Kansas, United States. 2.51 mm/day, 20.1 MJ/m2/day.",
        "a satellite image of Grasslands in United States on July. "
        "21.4 C, 2.51 mm/day, 20.1 MJ/m2/day.",
        "a satellite image of Grasslands in Kansas, United States on July. 20.1 MJ/m2/day.",
    ]


def test_seed_sample_and_epoch_each_change_the_drawn_prompts():
    drawn = [draw(3, n, 1) for n in range(64)]
    assert drawn != [draw(4, n, 1) for n in range(64)]
    assert drawn != [draw(3, n, 2) for n in range(64)]
    assert drawn[1:] != [draw(3, n, 1) for n in range(63)]
    assert len(set(drawn)) > 30
    assert [draw(3, n, 0) for n in range(64)] != [draw(3, 0, n) for n in range(64)]


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"sample_index": -1}, {"epoch": 2**64}])
def test_numbers_that_do_not_fit_the_generator_are_refused(wrong):
    with pytest.raises(RequestError, match=r"must lie in \[0, 2\*\*64\)"):
        draw(**wrong)


AWKWARD_NAMES = [
    *("Korea, Republic of", "St. Petersburg", "Washington, D.C.", "D.C.", 'The "Old" Town'),
    *(
        "Stratford on May",
        "X on 2004",
        "A. Warm",
        "A. The average",
        "B. 5 C",
        "Foo,",
        ",",
        '"',
        ".",
    ),
    *("on", "in", "July 2004", "Bosnia/Herzegovina", "Provence-Alpes-Côte d'Azur", "Łódź", "日本"),
    *("X\nY", "a  b", "There was rain", "A, B, C", "x on", "of Grasslands", ". 3"),
]
names = st.none() | st.sampled_from(AWKWARD_NAMES) | st.text(max_size=24)
choices = st.builds(
    PromptChoice,
    cloud=st.booleans(),
    land_cover=st.booleans(),
    words=st.booleans(),
    location=st.sampled_from(get_args(prompt.LocationChoice)),
    date=st.sampled_from(get_args(prompt.DateChoice)),
    climate=st.sampled_from(get_args(prompt.ClimateChoice)),
)
records = st.builds(
    make_record,
    month=st.builds("{:04d}-{:02d}".format, st.integers(0, 9999), st.integers(1, 12)),
    land_cover=st.none() | st.sampled_from(LandCover),
    state=names,
    country=names,
    cloud_frac=st.none() | st.floats(0, 1),
    temperature_c=st.none() | st.floats(-75, 55),
    precipitation_mm_day=st.none() | st.floats(0, 120),
    solar_radiation_mj_m2_day=st.none() | st.floats(0, 45),
)


def expected_fields(record: TileRecord, choice: PromptChoice) -> dict[str, Any]:
    """What the record knows of what is chosen."""
    told: dict[str, Any] = {}
    if choice.cloud and (record.cloud_frac or 0) > 0.3:
        high, very = record.cloud_frac > 0.5, record.cloud_frac > 0.7
        told["cloud"] = "very cloudy" if very else "cloudy" if high else "partially cloudy"
    if choice.land_cover and record.land_cover is not None:
        told["land_cover"] = record.land_cover
    state, country = (" ".join((name or "").split()) for name in (record.state, record.country))
    if choice.location != "skip" and country:
        told["country"] = country
        if choice.location == "state_country" and state:
            told["state"] = state
    if "month" in choice.date:
        told["calendar_month"] = int(record.month[-2:])
    if "year" in choice.date:
        told["year"] = int(record.month[:4])
    if choice.date == "month_year":
        told["month"] = record.month
    for letter, (name, variable) in zip("TPR", CLIMATE.items(), strict=True):
        value = getattr(record, name)
        if letter not in choice.climate or value is None:
            continue
        if choice.words:
            told[variable.short + "_word"] = prompt.WORD_SCALES[name].word(value)
        else:
            half_digit = 0.5 * 10**-variable.decimals
            told[name] = pytest.approx(value, abs=half_digit * (1 + 1e-9))
    return told


@settings(deadline=None)
@given(record=records, choice=choices)
def test_a_prompt_is_read_back_into_what_the_record_says(record, choice):
    told = prompt.write_prompt(record, choice)
    expected = expected_fields(record, choice)
    assert parse_prompt(told.long) == expected
    short = parse_prompt(told.short)
    places = {"state", "country"}
    assert {key: value for key, value in short.items() if key not in places} == {
        key: value for key, value in expected.items() if key not in places
    }
    assert {key: expected[key] for key in places & set(short)} == {
        key: short[key] for key in places & set(short)
    }


def test_awkward_names_are_read_back_before_and_after_everything_they_can_meet():
    choices = [
        PromptChoice(date=date, climate=climate, words=words)
        for date in get_args(prompt.DateChoice)
        for climate, words in (("none", False), ("TP", False), ("TPR", True))
    ]
    for state, country in product([None, *AWKWARD_NAMES], AWKWARD_NAMES):
        record = make_record(state=state, country=country)
        for choice in choices:
            told = prompt.write_prompt(record, choice).long
            assert parse_prompt(told) == expected_fields(record, choice), told


@settings(deadline=None)
@given(record=records, name=st.sampled_from(sorted(MASKS)), epoch=st.integers(0, 9))
def test_every_mask_gives_prompts_that_can_be_read(record, name, epoch):
    told = prompt.draw_prompt(record, MASKS[name], seed=1, sample_index=2, epoch=epoch)
    parsed = parse_prompt(told.long)
    known = expected_fields(record, PromptChoice(words=MASKS[name].words == 1)) | expected_fields(
        record, PromptChoice(words=MASKS[name].words > 0)
    )
    for key in parsed:
        if not key.endswith("_word") and key not in CLIMATE:
            assert parsed[key] == known[key]


@pytest.mark.parametrize("cover", LandCover)
def test_every_land_cover_is_read_back(cover):
    told = write(record=make_record(land_cover=cover))
    assert parse_prompt(told.long)["land_cover"] is cover
    assert parse_prompt(told.short)["land_cover"] is cover


def test_a_parser_takes_other_names_of_land_covers():
    text = "a satellite image of {} in Vancouver/Burnaby, British Columbia, Canada on 2017."
    parsed = parse_prompt(text.format("Barren"))
    assert parsed == {
        "land_cover": LandCover.BARREN,
        "state": "Vancouver/Burnaby",
        "country": "British Columbia, Canada",
        "year": 2017,
    }
    mosaic = parse_prompt(text.format("Cropland/Natural Vegetation Mosaics"))
    assert mosaic["land_cover"] is LandCover.CROPLAND_NATURAL_VEGETATION_MOSAICS


def test_a_name_with_commas_stands_in_quotes():
    record = make_record(state='The "Old, Town', country="Korea, Republic of")
    told = write(record=record, land_cover=False, date="skip", climate="none").long
    assert told == 'a satellite image in "The ""Old, Town", "Korea, Republic of".'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a photo of a cat", "is no prompt"),
        ("a satellite image of Grassland", "Did you mean 'Grasslands'"),
        ("a satellite image on July 2004. The average temperature was Balmy.", "temperature_c"),
        ("a satellite image. The average of it all.", "tells no climate"),
        ("a satellite image. 21.4 C, 22.0 C.", "has 2 values"),
    ],
)
def test_a_text_beyond_the_grammar_is_refused(text, named):
    with pytest.raises(SchemaError, match=named):
        parse_prompt(text)


@pytest.mark.parametrize("part", ["x in y on ", "a, b. in on ", '""', "St. ", ", "])
def test_a_long_text_beyond_the_grammar_is_refused_at_once(part):
    start = time.process_time()
    with pytest.raises(SchemaError):
        parse_prompt("a satellite image in " + part * 400 + '"x')
    assert time.process_time() - start < 1  # backtracking over all splits takes minutes


def test_words_and_numbers_in_one_prompt_are_both_read():
    assert parse_prompt("A satellite image. Warm, 2.51 mm/day, High radiation.") == {
        "temperature_word": "Warm",
        "precipitation_mm_day": 2.51,
        "solar_word": "High",
    }


ECOMAPPER_VALUES = [
    (
        "The average temperature over the last month was -4.87 C with an average precipitation of "
        "4.91 mm and an average daily solar radiation of 7.55 kWh/m2",
        (-4.87, 4.91, 7.55),
    ),
    (
        "Average values for the last month: temperature: -8.00 C, precipitation: 3.87 mm, solar "
        "radiation: 6.67 kWh/m2",
        (-8.0, 3.87, 6.67),
    ),
    (
        " The average temperature over the last month was -0 C. with an average precipitation 3 "
        "mm, and an average daily solar radiation of 20 W/m2.",
        (0.0, 3.0, 20.0),
    ),
    (" The average percipitation over the last month was 3 mm", (None, 3.0, None)),
    ("Solar Rad: 5.5 kWh/m², Precip: 30 mm, Temp: 20°C", (20.0, 30.0, 5.5)),
    ("21.4 C, 2.51 mm/day, 20.1 MJ/m2/day.", (21.4, 2.51, 20.1)),
    ("a cloudy day", (None, None, None)),
]


@pytest.mark.parametrize(("text", "values"), ECOMAPPER_VALUES)
def test_climate_sentences_give_their_values_as_they_stand(text, values):
    found = parse_climate_sentence(text)
    expected = zip(CLIMATE, values, strict=True)
    assert found == {name: value for name, value in expected if value is not None}
    assert str(found.get("temperature_c")) != "-0.0"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("The average temperature over the last month was nan C", "temperature_c has no number"),
        ("temperature: 293 K", "temperature_c has no number"),
        ("precipitation: 3 cm", "precipitation_mm_day has no number"),
        ("solar radiation: None kWh/m2", "solar_radiation_mj_m2_day has no number"),
        ("an average percipitation of mm", "precipitation_mm_day has no number"),
        ("3 mm, then 4 mm", r"has 2 values \(3, 4\)"),
        ("precipitation of 3 mm/h", "precipitation_mm_day has no number"),
        ("radiation of 3 MJ/m2/month", "solar_radiation_mj_m2_day has no number"),
    ],
)
def test_a_quantity_without_one_number_in_a_known_unit_is_refused(text, named):
    with pytest.raises(SchemaError, match=named):
        parse_climate_sentence(text)


def test_ecomapper_training_prompts_are_read_in_numbers_and_in_words():
    base = "a very cloudy satellite image of Savannas in Salta, Argentina on June 2021."
    fields = {
        "cloud": "very cloudy",
        "land_cover": LandCover.SAVANNAS,
        "state": "Salta",
        "country": "Argentina",
        "calendar_month": 6,
        "year": 2021,
        "month": "2021-06",
    }
    numbers = parse_prompt(base + ECOMAPPER_VALUES[2][0])
    assert numbers == fields | {
        "temperature_c": 0.0,
        "precipitation_mm_day": 3.0,
        "solar_radiation_mj_m2_day": 20.0,
    }
    words = parse_prompt(
        base + " The average temperature over the last month was Very Hot, with No Precipitation "
        "precipitation, and Ultra Extreme daily solar radiation."
    )
    assert words == fields | {
        "temperature_word": "Very Hot",
        "precipitation_word": "No",
        "solar_word": "Ultra Extreme",
    }


@pytest.mark.shared
def test_every_caption_of_the_ecomapper_files_is_read(shared_data: Path):
    num_sentences = 0
    for path in sorted((shared_data / "ecomapper").rglob("*.json")):
        tile = json.loads(path.read_text())
        info = tile.get("caption_info", {})
        sentences = (tile.get("caption_3"), info.get("climate_str_1"), info.get("climate_str_2"))
        for sentence in filter(None, sentences):
            values = parse_climate_sentence(sentence)
            assert list(values) == list(CLIMATE), path
            assert all(format(value, ".2f") in sentence for value in values.values()), path
            num_sentences += 1
        if caption := tile.get("caption_2"):
            state, country = info["location_address"].split(", ", 1)
            parsed = parse_prompt(caption)
            assert parsed["month"] == tile["date"], path
            assert (parsed["state"], parsed["country"]) == (state, country), path
            assert parsed["land_cover"].label == tile["type"], path
    assert num_sentences == 288
