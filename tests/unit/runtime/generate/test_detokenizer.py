"""Text comes in whole characters, and together is what the tokenizer decodes at once."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from lmonnx.runtime.generate.detokenizer import Detokenizer, byte_fallback_ids
from lmonnx.runtime.generate.voice import Voice
from lmonnx.runtime.tokenizer import clean_up_spaces
from tests import tiny_decoding
from tests.conftest import MODELS, SHARED

SMOLLM2 = MODELS / "smollm2-135m-instruct" / "tokenizer.json"
STORIES = SHARED / "models" / "tinystories-260k-llama" / "tokenizer.json"
KINDS = [tiny_decoding.byte_level, tiny_decoding.byte_fallback, tiny_decoding.metaspace]
TEXTS = [
    "The cat sat on the mat. It didn't move!",
    "naïve café, 中文字符, 😀👩‍👩‍👧‍👦 and a 🇩🇪 flag",
    "  two  spaces\n\n\tand lines \n",
    "�� already broken �",
    "",
]
LOST = "\ufffd"


def detokenizer(tokenizer, prefix=()):
    byte_ids = byte_fallback_ids(tokenizer.token_to_id)
    return Detokenizer(tokenizer.decode, prefix, byte_ids=byte_ids)


def streamed(tokenizer, ids, prefix=()):
    detok = detokenizer(tokenizer, prefix)
    return "".join([*(detok.push(token) for token in ids), detok.flush()])


def expected(tokenizer, ids, prefix=()):
    before = tokenizer.decode(list(prefix)).rstrip(LOST)
    return tokenizer.decode([*prefix, *ids])[len(before) :]


def real(path):
    if not path.is_file():
        pytest.skip(f"{path.parent.name} is absent")
    return Tokenizer.from_file(str(path))


@pytest.fixture(
    params=[*KINDS, pytest.param(STORIES, marks=pytest.mark.shared), SMOLLM2],
    ids=["byte_level", "byte_fallback", "metaspace", "tinystories", "smollm2"],
)
def tokenizer(request):
    return request.param() if callable(request.param) else real(request.param)


@pytest.mark.parametrize("characters", ["नमस्ते दुनिया", "中文字符", "😀👩‍👩‍👧‍👦", "한국어"])
def test_a_prompt_that_ends_in_many_bytes_is_no_part_of_the_completion(tokenizer, characters):
    prompt, rest = (tokenizer.encode(text).ids for text in (f"a {characters}", " cat. It"))
    voice = Voice(
        vocabulary=tokenizer.get_vocab_size(),
        stop_ids=(),
        encode=lambda text: tokenizer.encode(text).ids,
        decode=tokenizer.decode,
        constrain=lambda params: None,
        byte_ids=byte_fallback_ids(tokenizer.token_to_id),
    )
    spoken = voice.detokenizer(prompt)
    found = "".join([*map(spoken.push, rest), spoken.flush()])
    assert found == expected(tokenizer, rest, prompt)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_decoded_text(tokenizer, text):
    ids = tokenizer.encode(text).ids
    for cut in range(len(ids) + 1):
        prefix, rest = ids[:cut], ids[cut:]
        assert streamed(tokenizer, rest, prefix) == expected(tokenizer, rest, prefix)


def test_pieces_of_random_tokens_join_to_the_decoded_text(tokenizer):
    rng = np.random.default_rng(0)
    for trial in range(300):
        ids = rng.integers(0, tokenizer.get_vocab_size(), rng.integers(0, 120)).tolist()
        prefix = ids[: len(ids) // 3] if trial % 2 else []
        rest = ids[len(prefix) :]
        assert streamed(tokenizer, rest, prefix) == expected(tokenizer, rest, prefix)


@pytest.mark.parametrize("make", KINDS)
def test_pieces_of_any_one_token_again_and_again_join(make):
    tokenizer = make()
    for token in range(tokenizer.get_vocab_size()):
        ids = [token] * 70
        assert streamed(tokenizer, ids) == expected(tokenizer, ids)


def test_a_character_of_several_tokens_comes_whole():
    tokenizer = tiny_decoding.byte_level()
    detok = detokenizer(tokenizer)
    ids = tokenizer.encode("x🦊y").ids
    pieces = [detok.push(token) for token in ids]
    assert len(ids) > 3 and [piece for piece in pieces if piece] == ["x", "🦊", "y"]
    assert detok.flush() == ""


def test_an_incomplete_character_is_lost_only_at_the_end():
    tokenizer = tiny_decoding.byte_level()
    detok = detokenizer(tokenizer)
    *ids, _ = tokenizer.encode("x🦊").ids
    assert "".join(detok.push(token) for token in ids) == "x"
    assert detok.flush() == LOST and detok.flush() == ""


def test_a_run_of_fallback_bytes_waits_for_its_end():
    tokenizer = tiny_decoding.byte_fallback()
    detok = detokenizer(tokenizer)
    ids = [*tokenizer.encode("é🦊").ids[1:], tokenizer.token_to_id("a")]
    assert "".join(detok.push(token) for token in ids[:-1]) == "é"
    assert detok.push(ids[-1]) == "🦊a"


def test_the_space_before_the_first_word_stays_after_a_prompt():
    tokenizer = tiny_decoding.byte_fallback()
    assert streamed(tokenizer, tokenizer.encode("ab").ids, tokenizer.encode("a").ids) == " ab"
    assert streamed(tokenizer, tokenizer.encode("ab").ids) == "ab"


@pytest.mark.parametrize("make", KINDS)
def test_a_token_costs_the_decoding_of_a_short_window(make):
    tokenizer, sizes = make(), []

    def decode(ids):
        sizes.append(len(ids))
        return tokenizer.decode(ids)

    byte_ids = byte_fallback_ids(tokenizer.token_to_id)
    ids = np.random.default_rng(0).integers(0, tokenizer.get_vocab_size(), 2000).tolist()
    for row in (ids, [tokenizer.get_vocab_size() - 4] * 2000, [200] * 2000 if not byte_ids else []):
        detok = Detokenizer(decode, ids, byte_ids=byte_ids)
        sizes.clear()
        for token in row:
            detok.push(token)
        assert max(sizes, default=0) < 300 and sum(sizes) < 80 * 2000


@pytest.mark.parametrize(
    "text", ["abcdef" * 9, "中文。" * 20, "1 2 " * 20, ". " * 40, "n 'm , " * 9]
)
def test_text_that_is_cleaned_comes_a_few_characters_late(text):
    spoken = Detokenizer(lambda ids: "".join(text[index] for index in ids), cleans=True)
    found = ""
    for index in range(len(text)):
        found += spoken.push(index)
        assert len(clean_up_spaces(text[: index + 1])) - len(found) <= 4
    assert found + spoken.flush() == clean_up_spaces(text)
