"""Tokenizer files → tokenizer.json: the ids of transformers' fast tokenizers, or one line."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Library

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import Side
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.export.text import export_text
from lmonnx.errors import LmonnxError, StageError, UnsupportedError
from tests import tiny
from tests.tiny_text import write_json

pytestmark = pytest.mark.compiler

GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "tokenizers.json").read_text())
CASES = {case["case"]: case for case in GOLDEN["cases"]}


def text_of(source: Path, folder: Path, positions: int = 64):
    folder.mkdir(exist_ok=True)
    spec = export_text(open_checkpoint(str(source)), Draft(folder), positions=positions)
    return spec, Library.from_file(str(folder / "tokenizer.json"))


def refused(source: Path, folder: Path, error: type[LmonnxError], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        text_of(source, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stated", "one_type"),
    [
        ({}, None),
        ({"model_input_names": ["input_ids", "token_type_ids"]}, None),
        ({"model_input_names": ["input_ids", "attention_mask"], "pad_token_type_id": 3}, True),
    ],
)
def test_types_are_told_where_the_tokenizer_names_them(tmp_path, stated, one_type):
    source = tiny.write_bert(tmp_path / "source", settings=stated)
    spec, _ = text_of(source, tmp_path / "out")
    assert spec.source.one_type is one_type and spec.source.pad_type_id == 0


@pytest.mark.parametrize("tokenizer", ["vocab", "json"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_vocabulary_alone_gives_the_ids_of_transformers(tmp_path, case, tokenizer):
    # tokenizer.json was saved with the defaults; tokenizer_config.json rules over it.
    writer = tiny.WRITERS[case["family"]]
    source = writer(tmp_path / "source", tokenizer=tokenizer, settings=case["settings"])
    _, library = text_of(source, tmp_path / "out")
    found = [encoding.ids for encoding in library.encode_batch(GOLDEN["texts"])]
    assert found == case["ids"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (64, 0, Side.RIGHT, Side.RIGHT)),
        ({"model_max_length": 20}, (20, 0, Side.RIGHT, Side.RIGHT)),
        ({"model_max_length": 1000}, (64, 0, Side.RIGHT, Side.RIGHT)),
        ({"model_max_length": 1e30}, (64, 0, Side.RIGHT, Side.RIGHT)),
        ({"model_max_length": 10**30}, (64, 0, Side.RIGHT, Side.RIGHT)),
        ({"model_max_length": None}, (64, 0, Side.RIGHT, Side.RIGHT)),
        ({"model_max_length": True}, (64, 0, Side.RIGHT, Side.RIGHT)),
        ({"model_max_length": 0.5}, (64, 0, Side.RIGHT, Side.RIGHT)),
        ({"padding_side": "left"}, (64, 0, Side.LEFT, Side.RIGHT)),
        ({"truncation_side": "left"}, (64, 0, Side.RIGHT, Side.LEFT)),
        ({"pad_token": "[SEP]"}, (64, 3, Side.RIGHT, Side.RIGHT)),
        ({"pad_token": {"content": "[MASK]"}}, (64, 4, Side.RIGHT, Side.RIGHT)),
    ],
)
def test_the_settings_say_length_sides_and_padding(tmp_path, settings, expected):
    source = tiny.write_bert(tmp_path / "source", settings=settings)
    spec, _ = text_of(source, tmp_path / "out")
    found = spec.source
    assert (spec.max_length, found.pad_id, found.padding_side, found.truncation_side) == expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"max_seq_length": 9}, 9),
        ({"max_seq_length": 48}, 48),
        ({"max_seq_length": 512}, 64),
        ({"max_seq_length": None}, 20),
        ({"processing_kwargs": {"text": {"max_length": 9}}}, 9),
        ({}, 20),
    ],
)
def test_the_length_of_sentence_transformers_stands_for_the_tokenizers(tmp_path, stated, expected):
    source = tiny.write_bert(tmp_path / "source", settings={"model_max_length": 20})
    write_json(source / "sentence_bert_config.json", stated)
    assert text_of(source, tmp_path / "plain")[0].max_length == 20
    encoder = {"path": "", "type": "sentence_transformers.models.Transformer"}
    write_json(source / "modules.json", [encoder])
    assert text_of(source, tmp_path / "out")[0].max_length == expected


@pytest.mark.parametrize("length", [0, -1, "9", 9.5, True])
def test_a_length_that_is_none_is_refused(tmp_path, length):
    source = tiny.write_bert(tmp_path / "source")
    write_json(source / "sentence_bert_config.json", {"max_seq_length": length})
    encoder = {"path": "", "type": "sentence_transformers.models.Transformer"}
    write_json(source / "modules.json", [encoder])
    refused(source, tmp_path / "out", StageError, "max_seq_length is")


def test_the_padding_and_truncation_of_the_file_are_taken_out(tmp_path):
    source = tiny.write_bert(tmp_path / "source")
    library = Library.from_file(str(source / "tokenizer.json"))
    library.enable_padding(length=64)
    library.enable_truncation(8)
    library.save(str(source / "tokenizer.json"))
    _, library = text_of(source, tmp_path / "out")
    assert library.padding is None
    assert library.truncation is None


def test_the_companions_go_along_and_nothing_else(tmp_path):
    source = tiny.write_bert(tmp_path / "source")
    (source / "special_tokens_map.json").write_text("{}")
    (source / "secret.txt").touch()
    text_of(source, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_special_tokens_may_be_named_otherwise(tmp_path):
    source = tiny.write_bert(
        tmp_path / "source", tokenizer="vocab", settings={"cls_token": "film", "sep_token": "good"}
    )
    _, library = text_of(source, tmp_path / "out")
    assert library.encode("a").tokens == ["film", "a", "good"]


def test_added_tokens_get_their_stated_ids(tmp_path):
    listed = {str(len(tiny.WORDPIECES)): {"content": "<user>", "special": False}}
    source = tiny.write_bert(
        tmp_path / "source",
        tokenizer="vocab",
        vocab_size=len(tiny.WORDPIECES) + 1,
        settings={"added_tokens_decoder": listed},
    )
    _, library = text_of(source, tmp_path / "out")
    assert library.encode("a <user>").ids[2] == len(tiny.WORDPIECES)


def strip(source: Path, *names: str) -> None:
    for name in names:
        (source / name).unlink()


@pytest.mark.parametrize("family", tiny.PIECES)
def test_without_any_vocabulary_the_way_out_is_said(tmp_path, family):
    source = tiny.WRITERS[family](tmp_path / "source")
    strip(source, "tokenizer.json", *(["vocab.txt"] if family != "roberta" else []))
    refused(source, tmp_path / "out", UnsupportedError, "has neither tokenizer.json nor vocab")


def test_merges_alone_are_not_enough(tmp_path):
    source = tiny.write_roberta(tmp_path / "source", tokenizer="vocab")
    strip(source, "vocab.json")
    refused(source, tmp_path / "out", UnsupportedError, r"nor vocab\.json \+ merges\.txt")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": {"type": "Magic"}}', "\xff"])
def test_a_damaged_tokenizer_is_refused(tmp_path, text):
    source = tiny.write_bert(tmp_path / "source")
    (source / "tokenizer.json").write_text(text, encoding="latin-1")
    refused(source, tmp_path / "out", StageError, r"tokenizer\.json")


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
@pytest.mark.parametrize("text", ["", "{", "\xff", "a b c", "zz yy", '{"a": "b"}'])
def test_a_damaged_vocabulary_is_refused(tmp_path, file, text):
    source = tiny.write_roberta(tmp_path / "source", tokenizer="vocab")
    if (file, text) == ("merges.txt", ""):
        return  # bytes without merges are a tokenizer
    (source / file).write_text(text, encoding="latin-1")
    refused(source, tmp_path / "out", StageError, "vocab|merges")


def test_a_vocabulary_without_its_special_tokens_is_refused(tmp_path):
    source = tiny.write_bert(tmp_path / "source", tokenizer="vocab")
    kept = [piece for piece in tiny.WORDPIECES if piece != "[UNK]"]
    (source / "vocab.txt").write_text("\n".join(kept))
    refused(source, tmp_path / "out", StageError, "lacks the token for unknown words, '.UNK.'")


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(tmp_path):
    source = tiny.write_bert(tmp_path / "source", vocab_size=100)
    refused(source, tmp_path / "out", StageError, "gives ids up to 122, the model has 100")


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": "yes"},
        {"strip_accents": 3},
        {"added_tokens_decoder": {"x": {"content": "a"}}},
        {"added_tokens_decoder": {"5": "a"}},
        {"added_tokens_decoder": [1]},
        {"do_basic_tokenize": False},
    ],
)
def test_settings_of_another_type_are_refused(tmp_path, settings):
    source = tiny.write_bert(tmp_path / "source", tokenizer="vocab", settings=settings)
    refused(source, tmp_path / "out", LmonnxError, "tokenize|token")


@pytest.mark.parametrize("text", ['{"a": "b"}', '{"a": null, "b": 1}', "[]", "{"])
def test_damaged_added_tokens_are_refused(tmp_path, text):
    source = tiny.write_bert(tmp_path / "source", tokenizer="vocab")
    (source / "added_tokens.json").write_text(text)
    refused(source, tmp_path / "out", StageError, r"added.token")


def test_windows_line_ends_are_read_as_lines(tmp_path):
    source = tiny.write_bert(tmp_path / "source", tokenizer="vocab")
    data = (source / "vocab.txt").read_bytes()
    (source / "vocab.txt").write_bytes(data.replace(b"\n", b"\r\n"))
    _, library = text_of(source, tmp_path / "out")
    assert library.encode("a film").tokens == ["[CLS]", "a", "film", "[SEP]"]


def test_a_class_that_is_not_known_takes_the_file_as_it_is(tmp_path):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}
    source = tiny.write_bert(tmp_path / "source", settings=settings)
    _, library = text_of(source, tmp_path / "out")
    assert library.encode("FILM").tokens[1] == "film"


def test_files_may_be_links_as_in_the_hub_cache(tmp_path):
    source = tiny.write_bert(tmp_path / "source")
    (tmp_path / "snapshot").mkdir()
    for path in source.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    text_of(tmp_path / "snapshot", tmp_path / "out")
    shutil.rmtree(source)
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(special_tokens={}), r"its template puts in '\[CLS\]'"),
        (lambda t: t["special_tokens"]["[SEP]"].update(ids=[99_999]), "ids up to 99999"),
    ],
)
def test_a_template_that_does_not_fit_is_one_line_and_no_bundle(tmp_path, change, said):
    folder = tiny.write_bert(tmp_path / "checkpoint")
    stored = json.loads((folder / "tokenizer.json").read_text())
    change(stored["post_processor"])
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    with pytest.raises(StageError, match=said) as caught:
        export(open_checkpoint(str(folder)), tmp_path / "bundle", verify=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "bundle").exists()


def test_what_other_clients_cut_and_pad_by_is_stated(tmp_path):
    source = tiny.write_bert(tmp_path / "source", settings={"model_max_length": 10**30})
    made = export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)
    stated = json.loads(made.file("tokenizer_config.json").read_text())
    assert stated["model_max_length"] == made.manifest.text.max_length == tiny.POSITIONS
    assert stated["pad_token"] == "[PAD]"


@pytest.mark.parametrize(
    ("settings", "length"),
    [({"max_len": 24}, 24), ({"max_len": 24, "model_max_length": 30}, 30), ({"max_len": None}, 64)],
)
def test_max_len_is_the_length_where_no_other_is_stated(tmp_path, settings, length):
    source = tiny.write_bert(tmp_path / "source")
    stated = json.loads((source / "tokenizer_config.json").read_text())
    stated.pop("model_max_length", None)
    write_json(source / "tokenizer_config.json", stated | settings)
    assert text_of(source, tmp_path / "out")[0].max_length == length


def test_a_mask_that_is_no_added_token_is_not_taken_for_one(tmp_path):
    source = tiny.write_bert(tmp_path / "source")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    kept = [token for token in tokenizer["added_tokens"] if token["content"] != "[MASK]"]
    index = len(tokenizer["model"]["vocab"]) - 1
    word = next(text for text, at in tokenizer["model"]["vocab"].items() if at == index)
    tokenizer["model"]["vocab"]["<mask>"] = tokenizer["model"]["vocab"].pop(word)
    tokenizer["added_tokens"] = [*kept, kept[0] | {"content": "<mask>", "id": index}]
    write_json(source / "tokenizer.json", tokenizer)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).exists():
            stated = json.loads((source / name).read_text())
            stated.pop("mask_token", None)
            write_json(source / name, stated)
    assert text_of(source, tmp_path / "out")[0].source.mask_token == "<mask>"


def test_special_tokens_as_text_are_refused(tmp_path):
    source = tiny.write_bert(tmp_path / "source", settings={"split_special_tokens": True})
    refused(source, tmp_path / "out", UnsupportedError, "split_special_tokens")


def test_a_tokenizer_that_needs_jieba_is_refused(tmp_path):
    source = tiny.write_bert(tmp_path / "source", settings={"tokenizer_class": "RoFormerTokenizer"})
    refused(source, tmp_path / "out", UnsupportedError, "jieba")


def test_settings_that_state_all_are_kept_to_the_byte(tmp_path):
    source = tiny.write_bert(tmp_path / "source", settings={"pad_token": "[PAD]"})
    made = export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)
    name = "tokenizer_config.json"
    assert made.file(name).read_bytes() == (source / name).read_bytes()
