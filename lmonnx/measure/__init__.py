"""What a bundle is worth.

Modules, in the order data meets them: `tables` (file → cells), `datasets` (cells → examples and
label ids), `sentences` (text where no data is given), `metrics` (label ids → figures), `accuracy`
(bundle and examples → an evaluation), `parity` (bundle and golden → how far apart), `speed` (bundle
and texts → times and memory); `contents` (manifest → plain data) and `host` (machine → plain data).
"""
