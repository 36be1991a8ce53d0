"""eval, bench, inspect, doctor, verify --golden: what they print of the frozen bundle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command_line import lines, only_line, run

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-bert.json"


@pytest.fixture
def data(tmp_path: Path, tiny_model) -> Path:
    """Give the tiny model's own answers, the last one wrong, as a table with a header."""
    texts = [f"film {i} is good" for i in range(9)]
    labels = [answer.label for answer in tiny_model(texts)]
    labels[-1] = next(name for name in tiny_model.head.labels if name != labels[-1])
    path = tmp_path / "data.csv"
    rows = (f"{label.lower()},{text}" for label, text in zip(labels, texts, strict=True))
    path.write_text("\n".join(["answer,body", *rows]))
    return path


def test_eval_prints_one_object(tiny_bundle, data):
    columns = ("--text", "body", "--label", "answer", "--json")
    (result,) = lines(run("eval", tiny_bundle, data, *columns))
    low, high = result["confidence_interval"]
    assert result["n"] == 9
    assert result["accuracy"] == pytest.approx(8 / 9)
    assert low < 8 / 9 < high
    assert sum(map(sum, result["confusion_matrix"])) == 9
    assert len(result["labels"]) == len(result["confusion_matrix"])
    assert lines(run("eval", tiny_bundle, "--data", data, *columns)) == [result]


def test_eval_as_text_has_the_interval_and_the_matrix(tiny_bundle, data):
    shown = run("eval", tiny_bundle, data, "--text", 1, "--label", "answer").stdout
    assert "accuracy\t0.8889 (95% interval" in shown
    assert "confusion matrix" in shown


def test_eval_hints_at_a_header_that_was_taken_for_a_row(tiny_bundle, data):
    line = only_line(run("eval", tiny_bundle, data, "--text", 1, "--label", 0), 1)
    assert "row 1 has the label 'answer'" in line
    assert "--text and --label" in line


def test_eval_takes_one_file(tiny_bundle, data):
    for args in ((), (data, "--data", data)):
        result = run("eval", tiny_bundle, *args)
        assert result.exit_code == 2
        assert "give one file of labelled texts" in result.stderr


def test_bench_has_times_throughput_and_memory(tiny_bundle, data, tmp_path):
    (result,) = lines(run("bench", tiny_bundle, "--rounds", 1, "--threads", 1, "--json"))
    assert (result["texts"], result["threads"]) == (500, 1)
    assert {"load_ms", "p50_ms", "p95_ms", "p99_ms", "texts_per_s", "tokens_per_s", "peak_mib"} <= {
        *result
    }
    assert (
        "9 of" in run("bench", tiny_bundle, "--data", data, "--text", "body", "--rounds", 1).stdout
    )
    assert "2 of" in run("bench", tiny_bundle, "--file", "-", "--rounds", 1, stdin="a\nb").stdout
    assert run("bench", tiny_bundle, "--file", "-", "--data", data).exit_code == 2


def test_inspect_shows_graphs_operators_sizes_and_history(tiny_bundle):
    (plain,) = lines(run("inspect", tiny_bundle, "--json"))
    shown = run("inspect", tiny_bundle).stdout
    assert plain["task"] in shown
    for operator, count in plain["graphs"]["model"]["operators"].items():
        assert f"{operator}\t{count}\n" in shown
    for part in ("files", "history", "export", "onnx/model.onnx_data", "input_ids"):
        assert part in shown


def test_inspect_refuses_a_flipped_byte(copied_bundle):
    path = copied_bundle / "onnx" / "model.onnx_data"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    assert "sha256 differs" in only_line(run("inspect", copied_bundle), 1)


def test_doctor_shows_cpu_providers_versions_and_kernels():
    (plain,) = lines(run("doctor", "--json"))
    assert {"cpu", "threads", "cpus", "providers", "versions", "kernels"} <= plain.keys()
    shown = run("doctor").stdout
    for part in ("CPU\t", "CPUExecutionProvider", "onnxruntime\t", "int8 kernels"):
        assert part in shown


def test_verify_holds_a_bundle_to_golden_answers(tiny_bundle):
    golden = GOLDEN
    (figures,) = lines(run("verify", tiny_bundle, "--golden", golden, "--json"))
    assert figures["passed"]
    assert figures["relative"] <= 1e-4
    assert "parity\theld" in run("verify", tiny_bundle, "--golden", golden).stdout


def test_missed_parity_prints_its_figures_and_exits_3(tiny_bundle, tmp_path):
    golden = json.loads((GOLDEN).read_text())
    golden["logits"][0][0] += 1
    path = tmp_path / "golden.json"
    path.write_text(json.dumps(golden))
    result = run("verify", tiny_bundle, "--golden", path, "--json")
    assert result.exit_code == 3
    assert not json.loads(result.stdout)["passed"]
    assert result.stderr.startswith("error: max |Δlogit|")


@pytest.mark.parametrize("args", [(), ("--against", "x", "--golden", "y")])
def test_verify_takes_one_reference(tiny_bundle, args):
    assert run("verify", tiny_bundle, *args).exit_code == 2


def test_a_golden_check_needs_no_onnx(tiny_bundle):
    golden = GOLDEN
    args = ["verify", str(tiny_bundle), "--golden", str(golden)]
    code = (
        f"import sys; from lmonnx.cli import main; main({args!r}, standalone_mode=False)\n"
        "assert not {'onnx', 'lmonnx.compiler'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


FROZEN = GOLDEN.parent


def test_eval_reads_what_the_task_is_judged_by(tmp_path):
    pairs = tmp_path / "sts.tsv"
    pairs.write_text("the film\tgood\t1\nnot good\tbad\t0\na\ta\t3\n")
    columns = ("--text-pair", 1, "--label", 2)
    (result,) = lines(run("eval", FROZEN / "tiny-embedder", pairs, *columns, "--json"))
    assert result["n"] == 3 and {"spearman", "pearson"} <= result.keys()
    shown = run("eval", FROZEN / "tiny-embedder", pairs, *columns).stdout
    assert shown.startswith("examples\t3\nSpearman\t")
    texts = tmp_path / "texts.txt"
    texts.write_text("the film is good\nnot bad\n")
    (result,) = lines(run("eval", FROZEN / "tiny-mlm", texts, "--json"))
    assert result.keys() == {"n", "accuracy"}


def test_eval_names_the_columns_that_a_pair_needs(tmp_path):
    line = only_line(run("eval", FROZEN / "tiny-embedder", tmp_path / "a.tsv"), 1)
    assert "--text, --text-pair and --label" in line


def test_verify_tells_vectors_by_their_cosine(tmp_path):
    import lmonnx

    texts = ["the film", "good", "not bad at all"]
    rows = [raw.tolist() for raw in lmonnx.load(FROZEN / "tiny-embedder").raw(texts)]
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"source": "itself", "texts": texts, "logits": rows}))
    shown = run("verify", FROZEN / "tiny-embedder", "--golden", golden).stdout
    assert "mean cosine\t1.000000\nparity\theld" in shown


def test_a_golden_of_another_shape_is_named_by_its_text(tiny_bundle, tmp_path):
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"texts": ["a"], "logits": [[1, 2, 3]]}))
    line = only_line(run("verify", tiny_bundle, "--golden", golden), 3)
    assert "gives 2 logits for text 1, golden.json 3 logits; they are not of one model" in line


@pytest.mark.parametrize("name", ["tiny-nli", "tiny-ranker", "tiny-mlm", "tiny-embedder"])
def test_bench_times_every_task(name, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("the film\ngood\n")
    args = ("--file", texts, "--rounds", 1, "--threads", 1, "--json")
    (result,) = lines(run("bench", FROZEN / name, *args))
    assert result["texts"] == 2 and result["tokens"] >= 6
