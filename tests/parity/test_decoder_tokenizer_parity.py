"""Tokenizers of decoders built here of vocabularies alone, against transformers' fast ones."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings

from tests import tiny
from tests.parity.test_sentencepiece_parity import ANGLES, CORPUS, TEXTS, nasty, ours, theirs, train
from tests.texts import NASTY
from tests.tiny_text import MERGES, byte_pieces

pytestmark = pytest.mark.parity

BYTES = {"byte_fallback": True, "vocab_size": 450, "model_type": "bpe"}
KEPT = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
LLAMA = ANGLES | BYTES | KEPT
GEMMA = {
    **BYTES,
    **KEPT,
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "pad_piece": "<pad>",
    "eos_piece": "<eos>",
    "bos_piece": "<bos>",
    "user_defined_symbols": ["<mask>", "<start_of_turn>", "<end_of_turn>", "\n\n", "▁▁"],
}
USER = {"user_defined_symbols": ["<user>", "foo bar", "▁x", "9"]}
PHI3 = {
    str(index): {"content": token, "rstrip": True, "special": True, "normalized": False}
    for index, token in enumerate(("<|end|>", "<|user|>"), 450)
}
END = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# Name of the case → architecture, what the model is trained with, tokenizer_config.json.
PIECES = {
    "llama": ("llama", LLAMA, {}),
    "llama, named": ("llama", LLAMA, {"tokenizer_class": "LlamaTokenizer", **END}),
    "llama, legacy": ("llama", LLAMA, {"legacy": True, "add_eos_token": True}),
    "llama, not legacy": ("llama", LLAMA, {"legacy": False}),
    "llama, no space": ("llama", LLAMA, {"add_prefix_space": False}),
    "llama, not legacy, no space": (
        "llama",
        LLAMA,
        {"legacy": False, "add_prefix_space": False, "add_bos_token": False},
    ),
    "llama, user pieces": ("llama", LLAMA | USER, {}),
    "llama, not legacy, user pieces": ("llama", LLAMA | USER, {"legacy": False}),
    "llama, unigram": ("llama", LLAMA | {"model_type": "unigram"}, {}),
    "llama, normalized": ("llama", ANGLES | BYTES, {"legacy": False}),
    "mistral, pad": ("mistral", LLAMA, {"pad_token": "<pad>", "legacy": False}),
    "phi3": ("phi3", LLAMA, {"legacy": False, "added_tokens_decoder": PHI3}),
    "gemma": ("gemma", GEMMA, {}),
    "gemma2": ("gemma2", GEMMA, {"add_eos_token": True, "add_bos_token": False}),
    "gemma3": ("gemma3_text", GEMMA | {"user_defined_symbols": ["\t"]}, {}),
    "gemma, unigram": ("gemma", GEMMA | {"model_type": "unigram"}, {}),
}
# Merged where the text is not cut between the two.
ACROSS = [("1", "2"), ("!", "Ċ"), ("Ċ", "Ċ"), ("'", "T"), ("T", "h"), (".", "a"), ("é", "a")]
VOCABULARY = byte_pieces()
VOCABULARY |= {"".join(pair): len(VOCABULARY) + i for i, pair in enumerate(ACROSS)}
ENDING = ({"content": "<|im_end|>", "special": True}, {"content": "<tool>"})
LISTED = {str(len(VOCABULARY) + place): token for place, token in enumerate(ENDING)}
BYTE_LEVEL = {
    "gpt2": ("gpt2", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "gpt2, class's own": ("gpt2", {}),
    "gpt2, bos": ("gpt2", {**END, "add_bos_token": True}),
    "gpt2, prefix space": ("gpt2", {**END, "add_prefix_space": True}),
    "granite": ("granite", {"tokenizer_class": "GPT2Tokenizer", **END}),
    "qwen2": ("qwen2", {}),
    "qwen2, added": ("qwen2", {"added_tokens_decoder": LISTED, "eos_token": "<|im_end|>"}),
    "qwen3": ("qwen3", {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<pad>", **END}),
}
SPECIAL = ("<s>a</s> b", "<bos><start_of_turn>a <end_of_turn>\n", "<pad><mask>x <user> 9", "\t\t a",
           "a<|im_end|> b <tool>", "<|end|>  x<|user|> y", "  two  spaces  ", " \n\n a", "▁▁a ▁b",
           "<|endoftext|> a", "112 12", "a!\n\nb", "DON'T The .a", "\n\n\n x")  # fmt: skip


@pytest.fixture(scope="module", params=[*PIECES, *BYTE_LEVEL])
def both(request, tmp_path_factory):
    """Give our tokenizer and transformers', of the same files."""
    folder = tmp_path_factory.mktemp("tokenizer")
    source = folder / "source"
    source.mkdir()
    if request.param in PIECES:
        architecture, training, stated = PIECES[request.param]
        (source / "tokenizer.model").write_bytes(train(**training))
    else:
        architecture, stated = BYTE_LEVEL[request.param]
        tiny_vocabulary(source)
    tiny.write_json(source / "config.json", {"model_type": architecture})
    tiny.write_json(source / "tokenizer_config.json", stated)
    warnings.simplefilter("ignore")
    return ours(source, folder / "out"), theirs(source)


def tiny_vocabulary(folder):
    tiny.write_json(folder / "vocab.json", VOCABULARY)
    lines = ("#version: 0.2", *(" ".join(merge) for merge in (*MERGES, *ACROSS)))
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def check(both, text):
    library, tokenizer = both
    wanted = tokenizer(text, return_token_type_ids=False)["input_ids"]
    assert library.encode(text).ids == wanted
    assert library.decode(wanted) == tokenizer.decode(wanted, skip_special_tokens=True)


@pytest.mark.parametrize("text", [*NASTY, *SPECIAL])
def test_nasty_text_gets_the_ids_of_transformers(both, text):
    check(both, text)


def test_ordinary_text_gets_the_ids_of_transformers(both):
    for text in (*TEXTS, *CORPUS):
        check(both, text)
        library, tokenizer = both
        assert library.encode(text, "b").ids == tokenizer(text, "b")["input_ids"]


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(text=nasty)
def test_any_text_gets_the_ids_of_transformers(both, text):
    check(both, text)


def test_special_tokens_are_those_of_transformers(both):
    library, tokenizer = both
    names = tokenizer.all_special_tokens
    assert [library.token_to_id(n) for n in names] == tokenizer.convert_tokens_to_ids(names)
    assert library.get_vocab(with_added_tokens=True) == tokenizer.get_vocab()


def test_a_stated_prefix_space_rules_over_tokenizer_json(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.model").write_bytes(train(**LLAMA))
    tiny.write_json(source / "config.json", {"model_type": "llama"})
    tiny.write_json(source / "tokenizer_config.json", {})
    theirs(source).save_pretrained(source)
    stated = {"tokenizer_class": "LlamaTokenizer", "legacy": False, **END}
    tiny.write_json(source / "tokenizer_config.json", {**stated, "add_prefix_space": False})
    found, wanted = ours(source, tmp_path / "out"), theirs(source)
    for text in (*SPECIAL, *CORPUS):
        assert found.encode(text).ids == wanted(text)["input_ids"]
