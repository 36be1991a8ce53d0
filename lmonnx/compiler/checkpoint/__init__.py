"""A Hugging Face checkpoint, from the hub or a folder, as configuration and lazy weights.

Modules, in the order data meets them: `hub` (id → folder), `checkpoint` (folder → `Checkpoint`),
`json_object` (its JSON files), `weights` (name → array); `safetensors_file` and `torch_file` (file
→ where each tensor lies), `torch_objects` and `unpickle` (what torch.save pickled, and the machine
that runs it); `stored` (place → array).
"""

from lmonnx.compiler.checkpoint.checkpoint import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
