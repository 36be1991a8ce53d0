"""How a completion is made: every option of decoding, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from lmonnx.errors import InputError

MOST_TOKENS = 2**24
UNASKED = 256  # new tokens, where nobody says how many
MOST_BEAMS = 64
MOST_SAMPLES = 128
MOST_STOPS = 64
MOST_WORDS = 1024
MOST_IDS = 4096
LONGEST_TEXT = 1024  # of a stop or a bad word, in characters


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The options of one request. The default is greedy: temperature 0, and no rule applies.

    `max_new_tokens` None is 256, or what the context leaves.

    Names and rules are transformers', but for these: `presence_penalty` and `frequency_penalty`
    are OpenAI's and count the completion's tokens only; `bad_words` are texts; `forced_ids` are
    the first tokens of the completion; `n` is so many samples, or the n best of the beams;
    `logprobs` and `prompt_logprobs` are how many tokens to name beside the one that stands there;
    `prompt_lookup` is how many tokens at most are drafted from what the prompt holds.

    Raises:
        InputError: An option is wrong; the message says what it may be.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words: tuple[str, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] | None = None
    forced_ids: tuple[int, ...] = ()
    forced_eos_token_id: int | None = None
    renormalize_logits: bool = False
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    num_beams: int = 1
    n: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_lookup: int = 0
    schema: str | Mapping[str, Any] | None = None
    regex: str | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _NUMBERS.items():
            _check_number(name, getattr(self, name), low, high)
        for name, (least, most) in _FRACTIONS.items():
            _check_fraction(name, getattr(self, name), least, most)
        for name, count in _TEXTS.items():
            object.__setattr__(self, name, _texts(name, getattr(self, name), count))
        for name, count in _IDS.items():
            object.__setattr__(self, name, _ids(name, getattr(self, name), count))
        words = _items("bad_words_ids", self.bad_words_ids, MOST_WORDS)
        words = tuple(_ids("a row of bad_words_ids", word, MOST_IDS) for word in words)
        if not all(words):
            raise InputError("bad_words_ids holds an empty row; leave it out")
        object.__setattr__(self, "bad_words_ids", words)
        _check_bias(self.logit_bias)
        _check_choices(self)
        _check_together(self)

    @property
    def limit(self) -> int:
        """The most tokens of the completion."""
        return UNASKED if self.max_new_tokens is None else self.max_new_tokens

    @property
    def is_structured(self) -> bool:
        """Whether the completion must have a given form."""
        return any(value is not None for value in (self.schema, self.regex, self.grammar))


# name: (lowest, highest); None may stand where it is the default.
_NUMBERS: Mapping[str, tuple[int, int]] = {
    "max_new_tokens": (1, MOST_TOKENS),
    "min_new_tokens": (0, MOST_TOKENS),
    "top_k": (0, MOST_TOKENS),
    "seed": (0, 2**63 - 1),
    "no_repeat_ngram_size": (0, 1024),
    "forced_eos_token_id": (0, MOST_TOKENS),
    "num_beams": (1, MOST_BEAMS),
    "n": (1, MOST_SAMPLES),
    "logprobs": (0, 1024),
    "prompt_logprobs": (0, 1024),
    "prompt_lookup": (0, 64),
}
_MAY_BE_NONE = frozenset(
    {"max_new_tokens", "seed", "forced_eos_token_id", "logprobs", "prompt_logprobs"}
)
_FRACTIONS: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (1e-6, 1.0),
    "repetition_penalty": (1e-3, 1e3),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "length_penalty": (-10.0, 10.0),
}
_TEXTS: Mapping[str, int] = {"stop": MOST_STOPS, "bad_words": MOST_WORDS}
_IDS: Mapping[str, int] = {
    "suppress_tokens": MOST_IDS,
    "forced_ids": MOST_IDS,
    "stop_ids": MOST_IDS,
}
COLDEST = 1e-3  # below it, float32 logits over the temperature overflow


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_number(name: str, value: Any, low: int, high: int) -> None:
    if value is None and name in _MAY_BE_NONE:
        return
    if not _is_whole(value) or not low <= value <= high:
        or_none = " or None" if name in _MAY_BE_NONE else ""
        raise InputError(
            f"{name} is {value!r:.40}; give a whole number from {low} to {high}{or_none}"
        )


def _check_fraction(name: str, value: Any, low: float, high: float) -> None:
    # NaN fails every comparison
    if not _is_number(value) or not low <= value <= high:
        raise InputError(f"{name} is {value!r:.40}; give a number from {low:g} to {high:g}")


def _items(name: str, value: object, most: int) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} is {type(value).__name__}; give a list")
    if len(value) > most:
        raise InputError(f"{name} has {len(value)} entries; give at most {most}")
    return tuple(value)


def _texts(name: str, value: object, most: int) -> tuple[str, ...]:
    texts = _items(name, [value] if isinstance(value, str) else value, most)
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= LONGEST_TEXT:
            raise InputError(
                f"{name} holds {text!r:.40}; give texts of 1 to {LONGEST_TEXT} characters"
            )
    return texts


def _ids(name: str, value: object, most: int) -> tuple[int, ...]:
    ids = _items(name, value, most)
    for index in ids:
        if not _is_whole(index) or index < 0:
            raise InputError(f"{name} holds {index!r:.40}; give token ids, whole numbers from 0")
    return tuple(map(int, ids))


def _check_bias(bias: Any) -> None:
    if bias is None:
        return
    if not isinstance(bias, Mapping) or len(bias) > MOST_IDS:
        raise InputError(f"logit_bias must be a mapping of at most {MOST_IDS} ids to numbers")
    _ids("logit_bias", list(bias), MOST_IDS)
    for index, value in bias.items():
        if not _is_number(value) or not value < float("inf"):
            raise InputError(
                f"logit_bias of {index} is {value!r:.40}; give a finite number or -inf"
            )


def _check_choices(params: SamplingParams) -> None:
    """Check what is one of a few values."""
    if 0 < params.temperature < COLDEST:
        raise InputError(
            f"temperature is {params.temperature!r}; give 0 (greedy) or at least {COLDEST:g}"
        )
    for name in ("ignore_eos", "renormalize_logits"):
        if type(value := getattr(params, name)) is not bool:
            raise InputError(f"{name} is {value!r:.40}; give True or False")
    if type(params.early_stopping) is not bool and params.early_stopping != "never":
        raise InputError(
            f"early_stopping is {params.early_stopping!r:.40}; give False, True or 'never'"
        )
    for name, kinds in (("schema", (str, Mapping)), ("regex", (str,)), ("grammar", (str,))):
        value = getattr(params, name)
        if value is not None and not isinstance(value, kinds):
            raise InputError(f"{name} is {type(value).__name__}; give it as text")


def _check_together(params: SamplingParams) -> None:
    """Check options that exclude each other."""
    forms = (params.schema, params.regex, params.grammar)
    if sum(form is not None for form in forms) > 1:
        raise InputError("give one of schema, regex and grammar, not several")
    if params.min_new_tokens > params.limit:
        raise InputError(
            f"min_new_tokens {params.min_new_tokens} is more than max_new_tokens "
            f"{params.limit}; lower it"
        )
    if params.num_beams > 1:
        _check_beams(params)
    elif params.n > 1 and params.temperature == 0:
        raise InputError(
            f"n is {params.n}, but greedy decoding has one answer; raise the temperature, "
            f"or give num_beams={params.n}"
        )


def _check_beams(params: SamplingParams) -> None:
    if params.n > params.num_beams:
        raise InputError(
            f"n is {params.n}, more than num_beams {params.num_beams}; raise num_beams"
        )
    if params.temperature > 0:
        raise InputError("beam search does not sample; give temperature=0 or num_beams=1")
    if params.prompt_lookup or params.is_structured:
        raise InputError(
            "beam search takes no prompt_lookup, schema, regex or grammar; give num_beams=1"
        )
