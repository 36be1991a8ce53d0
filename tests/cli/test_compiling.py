"""export, optimize, quantize, verify --against: bundles written from the command line."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.command_line import lines, only_line, run

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


def test_the_engines_are_those_of_export():
    from lmonnx.cli.compile import ENGINES
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
