"""export, optimize, quantize, verify --against: bundles written from the command line."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.command_line import lines, only_line, run
from tests.tiny_seq2seq import write_marian
from tests.unit.runtime.generate.tiny_seq2seq import FOLDER

pytestmark = pytest.mark.compiler


def test_export_optimize_quantize_and_run_are_one_path(bert_checkpoint, tmp_path):
    fp32, opt, int8 = (tmp_path / name for name in ("fp32", "opt", "int8"))
    exported = run("export", bert_checkpoint, "-o", fp32, "--no-verify")
    assert exported.exit_code == 0, exported.output
    assert "parity\tnot measured: --no-verify" in exported.stdout
    optimized = run("optimize", fp32, "-o", opt)
    assert optimized.exit_code == 0, optimized.output
    assert "BiasGelu\t0\t2" in optimized.stdout
    quantized = run("quantize", opt, "-o", int8, "--max-drop", 1)
    assert quantized.exit_code == 0, quantized.output
    assert "drop\t" in quantized.stdout
    assert lines(run("run", int8, "good", "--json"))[0]["windows"] == 1


def test_quantize_tells_its_figures_as_json(bert_bundle, tmp_path):
    out = tmp_path / "int8"
    (figures,) = lines(run("quantize", bert_bundle, "-o", out, "--max-drop", 1, "--json"))
    assert figures["bytes"] < figures["input_bytes"]
    assert {"bundle", "drop", "interval", "texts", "widened"} <= figures.keys()


def test_a_gate_that_is_missed_exits_3_and_writes_nothing(bert_bundle, tmp_path, monkeypatch):
    from lmonnx.compiler.quantize import gate

    lost = gate.Drop(0.5, (0.4, 0.6), 2, "accuracy", 0.5)
    monkeypatch.setattr(gate.LabelledGate, "measure", lambda *_: lost)
    data = tmp_path / "data.tsv"
    data.write_text("film\t0\nbad\t1\n")
    out = tmp_path / "out"
    assert "--max-drop" in only_line(run("quantize", bert_bundle, "-o", out, "--data", data), 3)
    assert not out.exists()


def test_a_target_that_exists_is_refused_without_force(bert_checkpoint, bert_bundle, tmp_path):
    out = Path(shutil.copytree(bert_bundle, tmp_path / "out"))
    assert "--force" in only_line(run("export", bert_checkpoint, "-o", out, "--no-verify"), 1)
    assert run("export", bert_checkpoint, "-o", out, "--no-verify", "--force").exit_code == 0


@pytest.mark.parametrize("place", [".", ".."])
def test_a_target_that_is_or_holds_the_checkpoint_is_refused_and_all_of_it_stays(
    bert_checkpoint, tmp_path, place
):
    source = Path(shutil.copytree(bert_checkpoint, tmp_path / "deep" / "source"))
    before = {path: path.read_bytes() for path in source.iterdir()}
    line = only_line(run("export", source, "-o", source / place, "--force", "--no-verify"), 1)
    assert "is or holds the input" in line
    assert {path: path.read_bytes() for path in source.iterdir()} == before


def test_optimize_counts_what_is_fused_in_both_graphs_of_an_encoder_decoder(tmp_path):
    result = run("optimize", FOLDER, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    shown = result.stdout
    assert "graphs\tas they were: export writes them fused" in shown
    table = shown.partition("fused operators\n")[2].splitlines()
    assert table == [
        "operator\tdecoder\tencoder", "GroupQueryAttention\t2\t0", "MultiHeadAttention\t2\t1"
    ]  # fmt: skip
    assert "changed" not in shown


PAIRS = "one\tzwei\n\ntwo\tdrei\n"


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.txt", "pairs"])
def test_quantize_reads_references_where_the_first_line_has_a_tab(tmp_path, name):
    pytest.importorskip("sacrebleu")
    data, out = tmp_path / name, tmp_path / "out"
    data.write_text(PAIRS)
    result = run("quantize", FOLDER, "-o", out, "--data", data, "--max-drop", 1)
    assert result.exit_code == 0, result.output
    (drop,) = [line for line in result.stdout.splitlines() if line.startswith("drop")]
    assert " of BLEU / 100 (nrefs:1|case:mixed|" in drop and "version:" in drop


def test_quantize_refuses_references_that_a_line_lacks_and_reads_plain_lines(tmp_path):
    data, out = tmp_path / "pairs.txt", tmp_path / "out"
    data.write_text(PAIRS + "three\n")
    line = only_line(run("quantize", FOLDER, "-o", out, "--data", data, "--max-drop", 1), 1)
    assert "line 4: 1 columns, but line 1 has 2" in line
    data.write_text("one\ntwo\tthree\n")
    result = run("quantize", FOLDER, "-o", out, "--data", data, "--max-drop", 1)
    assert "of perplexity of the input bundle's answers" in result.stdout


def test_export_says_what_run_will_refuse(tmp_path):
    files = {"generation_config.json": {"decoder_start_token_id": 1, "guidance_scale": 2.0}}
    source = write_marian(tmp_path / "source", files=files)
    shown = run("export", source, "-o", tmp_path / "made", "--no-verify").stdout
    assert "warning\tthe checkpoint asks for guidance_scale = 2.0, which is not built" in shown
    assert "guidance_scale" in only_line(run("run", tmp_path / "made", "x"), 1)
    assert "  warning\tthe checkpoint asks for" in run("inspect", tmp_path / "made").stdout


def test_the_engines_are_those_of_export():
    from lmonnx.cli.export import ENGINES
    from lmonnx.compiler.export import Engine

    assert tuple(Engine) == ENGINES


def test_verify_against_a_checkpoint_is_stored_when_it_is_near(bert_bundle, tmp_path, monkeypatch):
    from lmonnx.bundle.manifest import Parity

    bundle = Path(shutil.copytree(bert_bundle, tmp_path / "bundle"))
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text('{"model_type": "bert"}')
    for relative, code, steps in ((0.5, 3, 0), (1e-6, 0, 1)):
        parity = Parity("transformers", 100, 1e-6, relative, 1.0)
        monkeypatch.setattr("lmonnx.compiler.verify.verify_against", lambda *_, p=parity, **__: p)
        result = run("verify", bundle, "--against", checkpoint, "--json")
        assert (result.exit_code, json.loads(result.stdout)["relative"]) == (code, relative)
        (plain,) = lines(run("inspect", bundle, "--json"))
        assert [step["stage"] for step in plain["history"]].count("verify") == steps
