"""Files of the real torch.save, in both its formats, against what torch itself loads."""

from collections import OrderedDict

import numpy as np
import pytest

from lmonnx.compiler.checkpoint.torch_file import torch_tensors
from tests import torch_files

pytestmark = pytest.mark.parity

FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "stream"])


@pytest.fixture(scope="module")
def torch():
    import torch

    return torch


@pytest.fixture
def state(torch):
    torch.manual_seed(0)
    whole = torch.randn(24)
    state = OrderedDict(
        float32=torch.randn(3, 4),
        float16=torch.randn(3, 4).half(),
        bfloat16=torch.randn(3, 4).bfloat16(),
        float64=torch.randn(3, 4).double(),
        int64=torch.arange(5),
        bool=torch.tensor([True, False]),
        whole=whole,
        slice=whole[3:9],
        transposed=whole.view(4, 6).t(),
        scalar=whole[7],
        expanded=torch.arange(5).expand(1, -1),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(2)),
        tied=whole.view(4, 6),
    )
    state._metadata = {"": {"version": 1}}
    return state


def as_numpy(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


@FORMATS
def test_a_file_of_torch_save_reads_as_torch_reads_it(torch, state, tmp_path, is_zip):
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    found = torch_tensors(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name].read(), as_numpy(tensor), strict=True)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_training_checkpoint_gives_its_state_dict(torch, state, tmp_path, is_zip, protocol):
    path = tmp_path / "pytorch_model.bin"
    whole = {"state_dict": state, "dtype": torch.bfloat16, "size": torch.Size([2, 3]), "epoch": 1}
    torch.save(whole, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    assert torch_tensors(path).keys() == state.keys()


@pytest.mark.parametrize("write", [torch_files.write_zip, torch_files.write_stream])
def test_torch_loads_the_files_that_the_other_tests_make(torch, tmp_path, write):
    whole = np.arange(24, dtype=np.float32)
    arrays = {"whole": whole, "view": whole.reshape(4, 6).T, "half": np.ones(3, np.float16)}
    loaded = torch.load(write(tmp_path / "pytorch_model.bin", arrays), weights_only=True)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name].numpy(), array, strict=True)
