"""What a machine says of itself."""

import sys

from lmonnx.measure.host import inspect_host, installed_versions, read_cpu


def test_an_x86_cpu_is_read_from_its_flags(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t: avx2 avx_vnni\n\nx")
    cpu = read_cpu(cpuinfo)
    assert cpu.model == "A CPU @ 2 GHz"
    assert [name for name, there in cpu.features.items() if there] == ["avx2", "avx_vnni"]
    assert not cpu.features["avx512_vnni"]


def test_an_arm_cpu_is_read_from_its_features(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n")
    assert read_cpu(cpuinfo).features == {
        "asimd": True,
        "asimddp": True,
        "i8mm": False,
        "sve": False,
    }


def test_without_cpuinfo_nothing_is_claimed_of_x86(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert read_cpu(tmp_path / "none").features == {}
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert read_cpu(tmp_path / "none").features["asimd"]


def test_versions_are_read_without_importing():
    before = set(sys.modules)
    versions = installed_versions()
    assert {"python", "numpy", "onnxruntime", "tokenizers"} <= versions.keys()
    assert not {"torch", "transformers", "onnx"} & (set(sys.modules) - before)


def test_a_host_has_threads_providers_and_tested_kernels():
    host = inspect_host()
    assert 1 <= host.threads <= host.cpus
    assert "CPUExecutionProvider" in host.providers
    assert [kernel.name for kernel in host.kernels if kernel.exact]
