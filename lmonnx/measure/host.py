"""This machine → what matters for inference on it: CPU, threads, providers, versions, kernels."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lmonnx.runtime.kernels import KernelResult, self_test
from lmonnx.runtime.session import available_providers
from lmonnx.runtime.session import version as onnxruntime_version
from lmonnx.runtime.threads import available_threads

_CPUINFO = Path("/proc/cpuinfo")
# What int8 and float kernels ask for, as Linux names it: x86's, then Arm's.
_X86 = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
_ARM = ("asimd", "asimddp", "i8mm", "sve")
_PACKAGES = (
    "lmonnx",
    "numpy",
    "tokenizers",
    "onnx",
    "transformers",
    "optimum",
    "optimum-onnx",
    "torch",
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """The CPU's name, and which of the features that kernels use it has."""

    model: str
    features: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Host:
    """What a report about speed or a wrong answer should state.

    `threads` is what a session uses, `cpus` what the machine has: a container's quota makes them
    differ. `versions` has only what is installed.
    """

    cpu: Cpu
    threads: int
    cpus: int
    platform: str
    providers: tuple[str, ...]
    versions: Mapping[str, str]
    kernels: tuple[KernelResult, ...]


def inspect_host() -> Host:
    """Return what this machine is, and run the int8 kernels' self-test on it."""
    return Host(
        cpu=read_cpu(),
        threads=available_threads(),
        cpus=os.cpu_count() or 1,
        platform=platform.platform(),
        providers=available_providers(),
        versions=installed_versions(),
        kernels=self_test(),
    )


def read_cpu(cpuinfo: Path = _CPUINFO) -> Cpu:
    """Return name and features from Linux's cpuinfo; elsewhere what Python knows of the machine."""
    fields = _first_processor(cpuinfo)
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    machine = platform.machine() or "unknown"
    arm = "Features" in fields or (not fields and machine in {"arm64", "aarch64"})
    if arm and not fields:
        flags = {"asimd"}  # every 64-bit Arm has it
    known: tuple[str, ...] = _ARM if arm else _X86
    if not flags:
        known = ()  # neither yes nor no is known
    name = fields.get("model name") or platform.processor() or machine
    return Cpu(name, {feature: feature in flags for feature in known})


def installed_versions() -> dict[str, str]:
    """Return the versions of what has a hand in answers, from metadata: nothing is imported."""
    found = {"python": platform.python_version(), "onnxruntime": onnxruntime_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    try:
        first, _, _ = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
