"""What the shell sees: closed outputs, interrupts, exit codes, one line an error, bars."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import pytest

import lmonnx
from lmonnx.cli import bars, main
from lmonnx.errors import GateError
from lmonnx.runtime.session import MOST_THREADS
from tests.cli.command_line import only_line, run

TINY = Path(__file__).parents[1] / "golden" / "tiny-bert"


def test_closed_standard_output_is_silent(tiny_bundle):
    command = f'"{sys.executable}" -m lmonnx run "{tiny_bundle}" --file - --json'
    endless = f"yes 'a good film' | {command} | head -1"
    done = subprocess.run(endless, shell=True, capture_output=True, timeout=60)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


@pytest.mark.parametrize("args", [("--help",), ("doctor",), ("inspect", TINY)])
def test_a_reader_that_never_reads_is_not_told_of(args):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lmonnx", *map(str, args)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert done.stderr == b""


@pytest.mark.parametrize("args", [f'run "{TINY}" good', f'inspect "{TINY}"', "--help"])
def test_closed_standard_output_is_one_line_before_any_work(args):
    command = f'"{sys.executable}" -m lmonnx {args} >&-'
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: standard output is closed; ")
    assert done.stderr.count(b"\n") == 1


def test_everything_closed_fails_without_a_word(tiny_bundle):
    command = f'"{sys.executable}" -m lmonnx run "{tiny_bundle}" good <&- >&- 2>&-'
    assert subprocess.run(command, shell=True, timeout=60).returncode == 1


@pytest.mark.parametrize("args", ["--help", "--version", "run --help", f'inspect "{TINY}"'])
def test_what_reads_nothing_needs_no_standard_input(args):
    command = f'"{sys.executable}" -m lmonnx {args} <&-'
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_full_disk_is_one_line(tiny_bundle):
    command = f'"{sys.executable}" -m lmonnx run "{tiny_bundle}" good > /dev/full'
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize("args", ["--help", "--version", "run --help"])
def test_help_that_cannot_be_written_is_one_line(args):
    command = f'"{sys.executable}" -m lmonnx {args} > /dev/full'
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


@pytest.mark.parametrize("threads", [513, 100_000])
def test_more_threads_than_any_host_has_are_wrong_usage(tiny_bundle, threads):
    for command in (("run", tiny_bundle, "good"), ("bench", tiny_bundle)):
        result = run(*command, "--threads", threads)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "1<=x<=512" in result.stderr
    assert MOST_THREADS == 512  # which the help says


def test_closed_standard_input_is_one_line(tiny_bundle):
    command = f'"{sys.executable}" -m lmonnx run "{tiny_bundle}" --file - <&-'
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: standard input is closed")
    assert done.stderr.count(b"\n") == 1


def test_an_interrupt_exits_130_quietly(tiny_bundle):
    command = [sys.executable, "-m", "lmonnx", "run", str(tiny_bundle), "--file", "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # In the background of a shell, where tests may run, a process would never hear of it.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **pipes, preexec_fn=heard) as running:
        running.stdin.write(b"good\n" * 2048)  # a whole chunk, whose answers come at once
        running.stdin.flush()
        assert running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=30) == 130
        assert running.stderr.read() == b""


def test_plain_output_never_imports_rich(tiny_bundle):
    code = (
        "import sys; from lmonnx.cli import main\n"
        f"main(['run', {str(tiny_bundle)!r}, 'good'], standalone_mode=False)\n"
        f"main(['inspect', {str(tiny_bundle)!r}], standalone_mode=False)\n"
        "assert not {'rich', 'onnx', 'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "lmonnx", "--version"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.decode().split()[-1]) == (0, lmonnx.__version__)


def test_debug_shows_where_an_error_comes_from_before_or_after_the_command(tmp_path):
    for args in (("--debug", "run", tmp_path, "a"), ("run", tmp_path, "a", "--debug")):
        result = run(*args)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyError("x\ny"), 1, "unexpected KeyError: 'x\\ny'; run again with --debug"),
        (ValueError("a\nb\x1b"), 1, "unexpected ValueError: a\\nb\\x1b; run again with --debug"),
        (PermissionError(13, "Permission denied", "p"), 1, "p: Permission denied"),
        (GateError("lost too much"), 3, "lost too much"),
    ],
)
def test_any_error_is_one_line_and_its_exit_code(monkeypatch, tiny_bundle, error, code, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("lmonnx.cli.answer.load", fail)
    assert only_line(run("run", tiny_bundle, "a"), code) == f"error: {message}\n"


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
def test_an_interrupt_and_a_closed_pipe_say_nothing(monkeypatch, tiny_bundle, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("lmonnx.cli.answer.load", fail)
    result = run("run", tiny_bundle, "a")
    assert (result.exit_code, result.output) == (code, "")


@pytest.mark.parametrize("command", ["export", "optimize", "quantize"])
def test_without_the_export_extra_the_compiler_says_how_to_get_it(monkeypatch, command, tmp_path):
    monkeypatch.setattr("lmonnx.cli.command.find_spec", lambda name: None)
    line = only_line(run(command, tmp_path, "-o", tmp_path / "out"), 1)
    assert "pip install 'lmonnx[export,cpu]'" in line


def test_a_bar_is_drawn_only_after_a_second_and_only_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich draw
    now = [0.0]
    monkeypatch.setattr(bars, "monotonic", lambda: now[0])
    with bars.bars() as progress:
        progress("work", 1, 2)
    monkeypatch.setattr(bars, "is_watched", lambda: True)
    with bars.bars() as progress:
        progress("work", 0, 2)
        assert capsys.readouterr().err == ""
        now[0] = 1.5
        progress("work", 1, 2)
        assert "work" in capsys.readouterr().err
    assert capsys.readouterr().out == ""


WITHOUT_ONNXRUNTIME = """
import importlib.util as util, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "onnxruntime":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
real = util.find_spec
util.find_spec = lambda name, package=None: None if name == "onnxruntime" else real(name, package)
from lmonnx.cli import main
main(sys.argv[1:], prog_name="lmonnx")
"""


@pytest.mark.parametrize("args", [("--version",), ("--help",)])
def test_help_and_version_need_no_onnxruntime(args):
    command = [sys.executable, "-c", WITHOUT_ONNXRUNTIME, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(*args).stdout


@pytest.mark.parametrize("args", [("run", "x", "y"), ("doctor",), ("export", "--help")])
def test_a_command_without_onnxruntime_is_one_line_with_the_way_out(args):
    command = [sys.executable, "-c", WITHOUT_ONNXRUNTIME, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: lmonnx needs onnxruntime, which comes in two packages: "
        "pip install 'lmonnx[cpu]' or pip install 'lmonnx[gpu]'\n"
    )


def test_every_command_is_where_the_group_says():
    context = click.Context(main)
    for name in main.list_commands(context):
        assert main.get_command(context, name).name == name
    assert main.get_command(context, "nothing") is None


def test_the_group_lists_its_commands_in_the_order_of_the_pipeline():
    assert main.list_commands(click.Context(main))[:3] == ["export", "optimize", "quantize"]
