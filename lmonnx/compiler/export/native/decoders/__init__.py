"""Decoder language models: config.json → plan.py's values → one graph with a cache.

rope.py makes the tables of rotary positions, blocks.py has the parts of the graph, build.py puts
them together; a family file reads the fields, and DECODERS says which serves which `model_type`.
"""

from lmonnx.compiler.export.native.decoders.families import DECODERS

__all__ = ["DECODERS"]
