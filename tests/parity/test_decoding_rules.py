"""Every rule of decoding against transformers' own processor, warper and beam search."""

import numpy as np
import pytest

from lmonnx.runtime.generate.beam import BeamSearch
from lmonnx.runtime.generate.logprobs import likeliest, log_softmax
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.rules import Rules
from lmonnx.runtime.generate.sampling import warp
from lmonnx.runtime.numerics import softmax

pytestmark = pytest.mark.parity

V = 211
STOPS = (2, 7)
PAD = 39


@pytest.fixture(scope="module")
def theirs():
    """Give what transformers makes of generation options: a list of its processors."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=V, num_hidden_layers=1, **sizes))

    def processors(prompt, **options):
        config = GenerationConfig(**options, max_length=len(prompt) + 20, eos_token_id=list(STOPS))
        model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device="cpu")
        return model._get_logits_processor(config, input_ids_seq_length=len(prompt))

    def apply(logits, tokens, prompt, **options):
        rows, ids = torch.from_numpy(logits.copy())[None], torch.tensor([tokens])
        return processors(prompt, **options)(ids, rows)[0].numpy()

    return apply


def ours(params, prompt, logits, generated, encode=None):
    rules = Rules(params, prompt=prompt, stop_ids=STOPS, vocabulary=len(logits), encode=encode)
    return rules.apply(logits, generated)


def rows(rng, width=V):
    """Draw rows of logits by name."""
    smooth = rng.standard_normal(width) * 3
    tied = rng.integers(-3, 4, width)
    found = {
        "smooth": smooth,
        "tied": tied,
        "with holes": np.where(rng.random(width) < 0.3, -np.inf, smooth),
        "flat": np.zeros(width),
        "steep": np.where(np.arange(width) == 5, 40.0, smooth),
        "huge": smooth * 1e4,
        "nearly flat": smooth * 1e-6,
        "far below": -1e9 + tied,
    }
    return {name: np.asarray(row, np.float32) for name, row in found.items()}


PROCESSORS = {
    "repetition": ({"repetition_penalty": 1.3}, {}),
    "repetition below one": ({"repetition_penalty": 0.7}, {}),
    "no repeated token": ({"no_repeat_ngram_size": 1}, {}),
    "no repeated bigram": ({"no_repeat_ngram_size": 2}, {}),
    "no repeated trigram": ({"no_repeat_ngram_size": 3}, {}),
    "bad words": ({"bad_words_ids": [[3], [2], [1, 4], [1, 1, 4], [0, 1, 2, 3]]}, {}),
    "minimum": ({"min_new_tokens": 5}, {}),
    "forced end": ({"forced_eos_token_id": 9}, {"max_new_tokens": 20}),
    "suppressed": ({"suppress_tokens": [1, 5, 2]}, {}),
    "bias": (
        {"sequence_bias": {(4,): -3.5, (6,): 2.25, (9,): float("-inf")}},
        {"logit_bias": {4: -3.5, 6: 2.25, 9: float("-inf")}},
    ),
}
PROCESSORS["all together"] = tuple(
    {k: v for both in PROCESSORS.values() for k, v in both[side].items()} for side in (0, 1)
)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_rule_gives_transformers_logits_to_the_bit(theirs, name):
    options, own = PROCESSORS[name]
    plain = {k: v for k, v in options.items() if k != "sequence_bias"}
    params = SamplingParams(**{"max_new_tokens": 20} | plain | own)
    rng = np.random.default_rng(0)
    for trial in range(60):
        prompt = rng.integers(0, 6, rng.integers(1, 30)).tolist()
        generated = rng.integers(0, 6, trial % 20).tolist()
        for row in rows(rng).values():
            expected = theirs(row, [*prompt, *generated], prompt, **options)
            np.testing.assert_array_equal(ours(params, prompt, row, generated), expected)


def test_a_forced_start_is_transformers_forced_bos(theirs):
    row = rows(np.random.default_rng(0))["smooth"]
    params = SamplingParams(forced_ids=[11])
    expected = theirs(row, [3], [3], forced_bos_token_id=11)
    np.testing.assert_array_equal(ours(params, [3], row, []), expected)
    np.testing.assert_array_equal(ours(params, [3], row, [11]), row)


WARPERS = [
    *({"temperature": t} for t in (0.1, 0.7, 1.7)),
    *({"top_k": k} for k in (1, 2, 40, 210, 211, 500)),
    *({"top_p": p} for p in (0.0, 0.01, 0.3, 0.5, 0.9, 0.95, 0.999, 0.9999999)),
    *({"min_p": p} for p in (1e-6, 0.05, 0.5, 1.0)),
    *({"typical_p": p} for p in (0.01, 0.2, 0.5, 0.9, 0.999)),
    {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.95},
    {"top_k": 5, "top_p": 0.5},
    {"temperature": 2.0, "typical_p": 0.4, "top_p": 0.8},
]


@pytest.mark.parametrize("options", WARPERS, ids=str)
@pytest.mark.parametrize("width", [V, 20000])
def test_a_warper_keeps_what_transformers_keeps(theirs, options, width):
    rng = np.random.default_rng(1)
    params = SamplingParams(**{"temperature": 1.0} | options)
    full = {"top_k": 0, "top_p": 1.0, "temperature": 1.0} | options
    # Two float32 logarithms of 20,000 terms may part by their last bit at the border.
    least = 1e-6 if width > V and "typical_p" in options else 0
    for name, row in (
        pair for _ in range(200 // (width // V)) for pair in rows(rng, width).items()
    ):
        if name == "nearly flat" and {"typical_p", "min_p"} & options.keys():
            continue  # the order of nearly equal probabilities is float32's noise
        expected = theirs(row, [1], [1], do_sample=True, **full)
        found = warp(row, params)
        if "top_p" in options and len(np.unique(row)) < width:
            # Which of tied tokens stays is open in transformers: its sort is not stable.
            np.testing.assert_array_equal(np.sort(found), np.sort(expected))
        else:
            differ = found != expected
            assert softmax(row)[differ].sum() <= least and (least or not differ.any())


def beam_model(torch, seed):
    """Return a tiny random Llama whose choices are sharp enough to differ."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.6,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


def beam_search(model, prompt, params, stop_ids, top):
    """Drive our search with a model's logits; `top` gives it each beam's best only."""
    import torch

    options = {"stop_ids": stop_ids, "vocabulary": 40}
    search = BeamSearch(params, **options)
    rules = [Rules(params, prompt=prompt, encode=None, **options) for _ in range(params.num_beams)]
    rows = [prompt]
    while not search.is_done:
        with torch.no_grad():
            logits = model(torch.tensor(rows)).logits[:, -1].numpy()
        begun = [row[len(prompt) :] for row in rows]
        ruled = [
            r.apply(row, b) for r, row, b in zip(rules, log_softmax(logits), begun, strict=False)
        ]
        if top:
            ids = np.array([likeliest(row, search.candidates) for row in ruled])
            step = search.advance_top(np.take_along_axis(np.stack(ruled), ids, 1), ids)
        else:
            step = search.advance(np.stack(ruled))
        rows = [
            [*rows[p], t] for p, t in zip(step.parents.tolist(), step.tokens.tolist(), strict=True)
        ]
        assert [tuple(row[len(prompt) :]) for row in rows] == search.sequences
    return search.best()


BEAMS = [
    {},
    {"early_stopping": True},
    {"early_stopping": "never"},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0},
    {"length_penalty": -1.5},
    {"length_penalty": 2.0, "early_stopping": "never"},
    {"length_penalty": -1.0, "early_stopping": "never"},
    {"length_penalty": 0.0, "early_stopping": "never"},
    {"length_penalty": 1.5, "early_stopping": True},
    {"min_new_tokens": 6},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
    {"forced_eos_token_id": 3, "bad_words_ids": [[4], [5, 6]]},
    {"max_new_tokens": 1},
    {"max_new_tokens": 40, "length_penalty": 0.6},
]


@pytest.mark.parametrize("options", BEAMS, ids=str)
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_finds_transformers_sequences_in_order_with_their_scores(options, beams):
    import torch

    lengths = set()
    for seed in range(8):
        model = beam_model(torch, seed)
        stop_ids = [[], [2], [2, 3, 9], list(range(12))][seed % 4]
        prompt = np.random.default_rng(seed).integers(0, 40, 1 + seed % 5).tolist()
        options = {"max_new_tokens": 14} | options
        params = SamplingParams(num_beams=beams, n=1 + seed % beams, **options)
        found = beam_search(model, prompt, params, stop_ids, top=seed > 3)
        theirs = {k: list(map(list, v)) if k == "bad_words_ids" else v for k, v in options.items()}
        answer = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            num_beams=beams,
            num_return_sequences=params.n,
            do_sample=False,
            eos_token_id=stop_ids or None,
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
            **theirs,
        )
        expected = [row[len(prompt) :] for row in answer.sequences.tolist()]
        width = len(expected[0])
        assert [tokens + (width - len(tokens)) * [PAD] for tokens, _ in found] == expected
        scores = [score for _, score in found]
        np.testing.assert_allclose(scores, answer.sequences_scores.numpy(), rtol=1e-5, atol=1e-6)
        lengths |= {len(tokens) for tokens, _ in found}
    is_longest_best = options.get("length_penalty") == 2 or options["max_new_tokens"] == 1
    assert len(lengths) > 1 or is_longest_best
