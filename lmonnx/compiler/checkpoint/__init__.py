"""A checkpoint, from the hub, a folder or a GGUF file, as configuration and lazy weights.

Modules, in the order data meets them: `hub` (id → folder), `checkpoint` (folder → `Checkpoint`),
`json_object` (its JSON files), `weights` (name → array); `safetensors_file` and `torch_file` (file
→ where each tensor lies), `torch_objects` and `unpickle` (what torch.save pickled, and the machine
that runs it); `stored` (place → array). For GGUF: `gguf_source` (file → the same), from
`gguf_header`, `gguf_fields`, `gguf_model`, `gguf_config` and `gguf_rope` (→ config.json),
`gguf_names` and `gguf_tensor` (→ weights), `gguf_tokenizer`, `gguf_vocabulary` and
`gguf_pretokenizers` (→ text).
"""

from lmonnx.compiler.checkpoint.checkpoint import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
