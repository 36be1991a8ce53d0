"""Arrays → arrays; the door to onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lmonnx.bundle.manifest import GraphSpec
from lmonnx.errors import BundleError, InputError, UnsupportedError
from lmonnx.runtime.row_weights import all_by_rows
from lmonnx.runtime.threads import available_threads

CPU = "CPUExecutionProvider"
# On the CPU of onnxruntime 1.32 SkipLayerNormalization takes several times what the Add and the
# LayerNormalization take that it replaces (docs/decisions/0004).
SLOW_FUSIONS = ("SkipLayerNormFusion",)
# Measured best on two cores for 384 to 768 wide encoders: larger ones leave the second-level cache.
MAX_TOKENS = 512
# The same where every thread has a batch of its own.
MAX_TOKENS_OF_A_THREAD = 256
# Batches run side by side from a second session, with its own copy of what kernels repack, and
# prompts are read in int8, a byte more a weight: by default for bundles no larger than this; the
# first for requests of so many tokens a thread.
MOST_BYTES_TWICE = 256 * 2**20
BULK_TOKENS = 2048
# More threads than any machine has only cost: a thousand take 20 s to start.
MOST_THREADS = 512
MOST_TOKENS = 2**20
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How to run a graph: on which execution providers, with how many threads, how much at once.

    `threads` None means as many as the affinity mask and the cgroup's quota allow; `max_tokens` is
    B × S of a batch, padding included, None 512, or 256 where each thread has its own;
    `wide_int8` takes the slower int8 kernel that never saturates, which is taken anyway where the
    other is wrong (see kernels.py). `thread_per_batch` runs the batches of a large request side by
    side instead of dividing each among all threads: more texts a second for a second copy of the
    weights; None does so on the CPU for bundles of at most 256 MiB. Of a decoder with two graphs
    `lone_rows` is up to how many sequences the one for few is taken; None depends on the CPU.
    `int8_prompts` reads prompts by the graph for them, if there is one: two to three times as fast,
    for a byte of memory a weight; None does so for bundles of at most 256 MiB.
    """

    providers: tuple[str, ...] = (CPU,)
    threads: int | None = None
    max_tokens: int | None = None
    wide_int8: bool = False
    thread_per_batch: bool | None = None
    lone_rows: int | None = None
    int8_prompts: bool | None = None

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("threads", self.threads, 1, MOST_THREADS),
            ("max_tokens", self.max_tokens, 1, MOST_TOKENS),
            ("lone_rows", self.lone_rows, 0, MOST_TOKENS),
        ):
            if value is not None and (type(value) is not int or not least <= value <= most):
                stated = f"a whole number from {least} to {most}"
                raise InputError(f"{name} is {value!r}, must be {stated}")
        if self.int8_prompts is not None and type(self.int8_prompts) is not bool:
            raise InputError(f"int8_prompts is {self.int8_prompts!r}; give True, False or None")
        if not self.providers:
            raise InputError(f"providers is empty; name at least {CPU}")

    @property
    def threads_used(self) -> int:
        """Return how many threads that is on this host."""
        return self.threads or available_threads()

    def runs_side_by_side(self, bundle_bytes: int) -> bool:
        """Say whether the batches of a large request get a thread each."""
        if self.providers != (CPU,) or self.threads_used == 1:
            return False
        if self.thread_per_batch is None:
            return bundle_bytes <= MOST_BYTES_TWICE
        return self.thread_per_batch

    def reads_in_int8(self, bundle_bytes: int) -> bool:
        """Say whether a decoder's graph for prompts is taken, where it has one."""
        if self.int8_prompts is None:
            return bundle_bytes <= MOST_BYTES_TWICE
        return self.int8_prompts


class Session:
    """A loaded graph; `run` may be called by several threads at once.

    `precise` widens int8 products, for a CPU whose kernel is wrong (see kernels.py); one that runs
    `in_turn` with another gives the cores up as soon as a run ends.
    """

    def __init__(
        self,
        path: Path,
        spec: GraphSpec,
        config: SessionConfig,
        *,
        precise: bool = False,
        in_turn: bool = False,
    ) -> None:
        check_providers(config.providers)
        options = _options(spec, config, precise=precise)
        if in_turn:  # threads that wait for more work would take the other's cores
            options.add_session_config_entry("session.force_spinning_stop", "1")
        # Over DLPack the session owns the arrays with us: they are gone when kernels have repacked
        # them, and these references to them at the end.
        weights = all_by_rows(path.parent, spec.made or (), config.threads_used)
        made = {name: ort.OrtValue.from_dlpack(array) for name, array in weights.items()}
        del weights
        if made:  # all are there at once already, so that more hands take no more memory
            options.add_session_config_entry("session.prepack.enable_parallel", "1")
        try:
            for name, value in made.items():
                options.add_initializer(name, value)
            self._session = ort.InferenceSession(
                str(path),
                options,
                providers=list(config.providers),
                disabled_optimizers=list(SLOW_FUSIONS) if config.providers == (CPU,) else None,
            )
        except Exception as error:
            raise BundleError(f"onnxruntime cannot load {path}: {first_line(error)}") from error
        self._path = path
        self._outputs = [tensor.name for tensor in spec.outputs]
        self.inputs = frozenset(tensor.name for tensor in spec.inputs)
        held = {value.name for value in self._session.get_inputs()}
        given = {value.name for value in self._session.get_outputs()}
        if held != self.inputs or not given.issuperset(self._outputs):
            raise BundleError(f"{path} has other inputs or outputs than the manifest says")
        # A provider that fails to start leaves the CPU alone, with a warning: an error here.
        running = self._session.get_providers()
        if missing := [name for name in config.providers if name not in running]:
            raise UnsupportedError(
                f"{missing[0]} is installed but did not start; see `lmonnx doctor`, "
                "or ask for another provider"
            )
        self._on_device = running[0] != CPU

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Args:
            inputs: Every graph input by name; dtype and shape as in the manifest.

        Returns:
            Every output by name, on the host.

        Raises:
            BundleError: The graph fails on these arrays.
        """
        try:
            values = (
                self._run_bound(inputs)
                if self._on_device
                else self._session.run(self._outputs, dict(inputs))
            )
        except Exception as error:
            raise BundleError(f"{self._path} fails: {first_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))

    def _run_bound(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Bind inputs and outputs on the device: one copy in, one copy out.

        Written for CUDAExecutionProvider, and not yet run on one.
        """
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        values: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return values


def _options(spec: GraphSpec, config: SessionConfig, *, precise: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads_used
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if spec.optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def check_providers(providers: Sequence[str]) -> None:
    """Refuse an execution provider that the installed onnxruntime does not have.

    Raises:
        UnsupportedError: It is missing; the message lists what is there.
    """
    available = available_providers()
    if missing := [name for name in providers if name not in available]:
        extra = "; `pip install 'lmonnx[gpu]'` brings CUDA" if "CUDA" in missing[0] else ""
        raise UnsupportedError(
            f"{missing[0]} is not in this onnxruntime, which has {', '.join(available)}{extra}"
        )


@cache
def available_providers() -> tuple[str, ...]:
    """Return the execution providers of the installed onnxruntime."""
    return tuple(ort.get_available_providers())


def run_bytes(graph: bytes, inputs: Arrays, *, settings: Mapping[str, str]) -> list[NDArray[Any]]:
    """Run a small graph held in memory on the CPU, with session settings of its own."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(graph, options, providers=[CPU])
    values: list[NDArray[Any]] = session.run(None, dict(inputs))
    return values


def save_optimized(source: Path, target: Path) -> None:
    """Write the graph that onnxruntime's level-2 optimizers make of `source`.

    Raises:
        BundleError: onnxruntime cannot load the source.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": f"{target.name}_data",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    }.items():
        options.add_session_config_entry(key, value)
    try:
        ort.InferenceSession(
            str(source), options, providers=[CPU], disabled_optimizers=list(SLOW_FUSIONS)
        )
    except Exception as error:
        raise BundleError(f"onnxruntime cannot load {source}: {first_line(error)}") from error


def version() -> str:
    """Return the version of the installed onnxruntime."""
    return str(ort.__version__)


def first_line(error: BaseException) -> str:
    """Return what an error says first; onnxruntime's go on for many lines."""
    return (str(error).splitlines() or [type(error).__name__])[0]
