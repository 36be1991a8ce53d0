"""Graphs built from config.json and weights alone; one file an architecture family.

config.py reads the fields, params.py the tensors, blocks.py has the shared parts; a family file
puts them together to an encoder, heads.py has what tasks put on it, and FAMILIES says which serves
which `model_type`.
"""

from lmonnx.compiler.export.native.families import FAMILIES, Family

__all__ = ["FAMILIES", "Family"]
