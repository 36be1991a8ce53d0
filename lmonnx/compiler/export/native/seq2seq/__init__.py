"""Encoder-decoders: config.json → plan.py's values → the two graphs of decision 13.

positions.py says where tokens stand, attention.py and blocks.py have the parts of the graphs,
ranking.py the best tokens, build.py puts them together; a family file reads the fields, and
SEQ2SEQS says which serves which `model_type`.
"""

from lmonnx.compiler.export.native.seq2seq.families import SEQ2SEQS

__all__ = ["SEQ2SEQS"]
