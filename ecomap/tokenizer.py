"""CLIP tokenizers of our own, small and offline, that read numbers digit by digit.

CLIP's own pre-tokenizer parts digits from each other, so "21.4" is ``2 1 . 4``, and its normalizer
drops case. The merges are learned from the words of the prompt grammar and of place names, each of
which becomes one token; every byte is in the vocabulary, so any text can be encoded.
"""

import json
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from ecomap.prompt import CLOUD_SCALE, MONTH_NAMES, WORD_SCALES
from ecomap.schema import LAND_COVER_ALIASES, LAND_COVER_LABELS

SHORT_PROMPT_TOKENS = 56
"""Start, short prompt and end: the least multiple of 8 that holds every short prompt that tells
all it can (longest land cover, cloud, date, numbers) with a state and country of usual length.
A prompt without a place needs at most 41."""

UNIT_TOKENS = ("mm/day", "mj/m2/day")
"""Units that are one token, so that prompts are short and no digit stands for anything but a
number."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"

_MORE_THAN_ENOUGH = 10_000
"""Learning ends before, when every word of the texts is one token."""

_SENTENCES = (
    "a satellite image of in on, mm/day MJ/m2/day C.",
    "The average temperature over the last month was, with an average precipitation of, and an",
    "average daily solar radiation of. There was",
)

_PLACES = """
Afghanistan Albania Algeria Andorra Angola Antigua Argentina Armenia Australia Austria Azerbaijan
Bahamas Bahrain Bangladesh Barbados Belarus Belgium Belize Benin Bhutan Bolivia Bosnia Botswana
Brazil Brunei Bulgaria Burkina Burundi Cambodia Cameroon Canada Verde Central African Chad Chile
China Colombia Comoros Congo Costa Rica Croatia Cuba Cyprus Czechia Czech Democratic Denmark
Djibouti Dominica Dominican Timor Ecuador Egypt Salvador Equatorial Eritrea Estonia Eswatini
Ethiopia Fiji Finland France Gabon Gambia Georgia Germany Ghana Greece Greenland Grenada Guatemala
Guinea Bissau Guyana Haiti Herzegovina Honduras Hungary Iceland India Indonesia Iran Iraq Ireland
Israel Italy Ivory Coast Jamaica Japan Jordan Kazakhstan Kenya Kiribati Korea Kosovo Kuwait
Kyrgyzstan Laos Latvia Lebanon Lesotho Liberia Libya Liechtenstein Lithuania Luxembourg Macedonia
Madagascar Malawi Malaysia Maldives Mali Malta Marshall Mauritania Mauritius Mexico Micronesia
Moldova Monaco Mongolia Montenegro Morocco Mozambique Myanmar Namibia Nauru Nepal Netherlands
Caledonia Zealand Nicaragua Niger Nigeria Norway Oman Pakistan Palau Palestine Panama Papua
Paraguay Peru Philippines Poland Portugal Qatar Romania Russia Rwanda Saint Kitts Nevis Lucia
Vincent Grenadines Samoa San Marino Sao Tome Principe Saudi Arabia Senegal Serbia Seychelles
Sierra Leone Singapore Slovakia Slovenia Solomon Somalia Somaliland South Sudan Spain Sri Lanka
Suriname Sweden Switzerland Syria Taiwan Tajikistan Tanzania Thailand Togo Tonga Trinidad Tobago
Tunisia Turkey Turkmenistan Tuvalu Uganda Ukraine United Arab Emirates Kingdom States America
Uruguay Uzbekistan Vanuatu Venezuela Vietnam Western Sahara Yemen Zambia Zimbabwe
East North West Southern Northern Eastern New Republic Island Islands the and of de la el al
Province Region State Territory District County Oblast Krai Prefecture Department Governorate
Autonomous Federal Municipality Bay Cape Gulf Lake Mountain River Valley Coast Capital City
"""
"""Words of country names and of the names of their parts."""


def build_clip_tokenizer(*, model_max_length: int = SHORT_PROMPT_TOKENS) -> CLIPTokenizer:
    """Build the tokenizer: the same one every time, whatever its length.

    The end token pads too, and has the highest id. A text encoder with
    ``eos_token_id=tokenizer.eos_token_id`` in its config pools at the first end token, which is
    the end of the text; with the value 2, which transformers treats apart, it pools there too.

    Args:
        model_max_length: Tokens that the text encoder reads, start and end included.
    """
    vocabulary, merges = _learn_merges()
    tokenizer = CLIPTokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),
        model_max_length=model_max_length,
    )
    tokenizer.add_tokens([AddedToken(unit, normalized=True) for unit in UNIT_TOKENS])
    return tokenizer


def grammar_texts() -> list[str]:
    """Texts that hold every word of the prompt grammar."""
    scales = (CLOUD_SCALE, *WORD_SCALES.values())
    return [
        *_SENTENCES,
        *MONTH_NAMES,
        *(word for scale in scales for word in scale.words),
        *LAND_COVER_LABELS.values(),
        *LAND_COVER_ALIASES,
    ]


@lru_cache(maxsize=1)
def _learn_merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary in CLIP's order (bytes, bytes that end a word, merges, others) and merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = alphabet + [symbol + _WORD_END for symbol in alphabet]
    clip = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=_MORE_THAN_ENOUGH,
        min_frequency=1,
        show_progress=False,
        end_of_word_suffix=_WORD_END,
        # Symbols met in training get their ids in no fixed order, and ids decide between equally
        # frequent pairs; special tokens get theirs in the order given.
        special_tokens=symbols,
    )
    learner.train_from_iterator([*grammar_texts(), _PLACES], trainer)
    model = json.loads(learner.to_str())["model"]
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    for token in (*UNIT_TOKENS, _START, _END):
        vocabulary[token] = len(vocabulary)
    return vocabulary, [(left, right) for left, right in model["merges"]]
