"""generation_config.json, stop tokens and chat templates → the manifest."""

import json

import pytest

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.export.heads import detect_task
from lmonnx.errors import StageError
from lmonnx.runtime.tokenizer import Tokenizer
from tests.tiny_decoders import write_gpt2, write_llama

pytestmark = pytest.mark.compiler

TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
OTHER = "{{ tools }}"


def exported(folder, **changes):
    source = write_llama(folder / "source", **changes)
    return export(open_checkpoint(str(source)), folder / "bundle", verify=False)


def template_of(bundle):
    name = bundle.manifest.generation.chat_template
    return name and bundle.file(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("write", [write_llama, write_gpt2])
def test_the_task_is_told_from_the_class(tmp_path, write):
    checkpoint = open_checkpoint(str(write(tmp_path / "source")))
    assert detect_task(checkpoint, None) == "text-generation"


@pytest.mark.parametrize(
    ("stored", "stop", "bos"),
    [
        ({}, (2,), 0),
        ({"eos_token_id": 5}, (5,), 0),
        ({"eos_token_id": [5, 2, 5], "bos_token_id": 1}, (5, 2), 1),
        ({"eos_token_id": None, "bos_token_id": None}, (), None),
        ({"eos_token_id": []}, (), 0),
    ],
)
def test_stop_ids_are_the_generation_configs_or_else_the_configs(tmp_path, stored, stop, bos):
    generation = exported(tmp_path, files={"generation_config.json": stored}).manifest.generation
    assert generation.stop_ids == stop and generation.bos_id == bos


@pytest.mark.parametrize("value", [10**6, -1, "</s>", 2.0, True, [2, None, "x"]])
def test_a_stop_token_that_is_no_id_is_refused(tmp_path, value):
    with pytest.raises(StageError, match=r"is no id below \d+; correct eos_token_id"):
        exported(tmp_path, files={"generation_config.json": {"eos_token_id": value}})


def test_the_checkpoints_sampling_settings_are_kept_and_no_others(tmp_path):
    stored = {"temperature": 0.6, "top_p": 0.95, "do_sample": True, "top_k": None, "odd": 1}
    bundle = exported(tmp_path, files={"generation_config.json": stored})
    kept = {"temperature": 0.6, "top_p": 0.95, "do_sample": True}
    assert bundle.manifest.generation.defaults == kept


def test_without_sampling_settings_there_are_none(tmp_path):
    assert exported(tmp_path).manifest.generation.defaults is None


NAMED = [{"name": "tool_use", "template": OTHER}, {"name": "default", "template": TEMPLATE}]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, None),
        ({"chat_template": None}, None),
        ({"chat_template": TEMPLATE}, TEMPLATE),
        ({"chat_template": NAMED}, TEMPLATE),
        ({"chat_template": NAMED[:1]}, OTHER),
        ({"chat_template": []}, None),
    ],
)
def test_the_chat_template_becomes_a_file(tmp_path, settings, wanted):
    assert template_of(exported(tmp_path, settings=settings)) == wanted


def test_a_template_file_rules_over_the_settings(tmp_path):
    source = write_llama(tmp_path / "source", settings={"chat_template": OTHER})
    (source / "chat_template.jinja").write_bytes(TEMPLATE.encode())
    bundle = export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)
    assert template_of(bundle) == TEMPLATE


@pytest.mark.parametrize("value", [5, [1], [{"name": "default"}], {"default": "x"}])
def test_a_template_of_another_form_is_refused(tmp_path, value):
    with pytest.raises(StageError, match="neither text nor a list of named templates"):
        exported(tmp_path, settings={"chat_template": value})


def test_a_template_file_that_is_no_text_is_refused(tmp_path):
    source = write_llama(tmp_path / "source")
    (source / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StageError, match=r"chat_template\.jinja is not UTF-8"):
        export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)


# What stands around a text ------------------------------------------------------------------------


def framed(folder, **settings):
    bundle = exported(folder, settings=settings)
    return Tokenizer(bundle.file("tokenizer.json"), bundle.manifest.text).encode(["a"])[0].ids


@pytest.mark.parametrize(
    ("settings", "around"),
    [
        ({}, ([0], [])),
        ({"add_bos_token": False}, ([], [])),
        ({"add_bos_token": None}, ([], [])),
        ({"add_eos_token": True}, ([0], [2])),
        ({"bos_token": {"content": "<mask>"}}, ([-1], [])),
    ],
)
def test_llamas_tokenizer_frames_a_text_by_its_settings(tmp_path, settings, around):
    bare = framed(tmp_path / "a", tokenizer_class="LlamaTokenizerFast", add_bos_token=False)
    given = framed(tmp_path / "b", tokenizer_class="LlamaTokenizerFast", **settings)
    before, after = around
    assert given[len(before) : len(given) - len(after)] == bare
    assert len(given) == len(bare) + len(before) + len(after)
    if before != [-1]:
        assert given[: len(before)] == before


def test_other_tokenizers_keep_the_frame_of_their_file(tmp_path):
    ids = framed(tmp_path, add_bos_token=False)
    assert ids[0] == 0 and ids[-1] == 2


@pytest.mark.parametrize("rows", [260, 274])
def test_added_tokens_may_have_no_embedding_and_others_must(tmp_path, rows):
    spare = {"additional_special_tokens": ["<image>"]}
    if rows < 274:
        with pytest.raises(StageError, match="tokenizer and weights are not of one model"):
            exported(tmp_path, settings=spare, vocab_size=rows)
    else:
        bundle = exported(tmp_path, settings=spare, vocab_size=rows)
        assert bundle.manifest.generation.vocabulary == rows


def test_the_settings_of_the_bundle_are_json(tmp_path):
    bundle = exported(tmp_path, settings={"chat_template": NAMED})
    json.loads(bundle.file("tokenizer_config.json").read_text())
