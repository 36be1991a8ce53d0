"""What a bundle is worth.

Modules, in the order data meets them: `tables` (file → cells), `datasets` (cells → examples and
label ids), `sentences` (text where no data is given, as a task is asked), `decisions` (raw outputs
→ what they decide), `metrics` (what was right → figures), `judged` (answers beside the truth) and
its kinds `classes`, `entities`, `questions`, `masks`, `similarity` and `written` (of `references`,
by `bleu`, `rouge` and `edits`), `accuracy` (bundle and data → an evaluation, by task), `parity`
(bundle and golden → how far apart), `speed` (bundle and texts → times and memory), `tune` (bundle
and texts → the fastest settings); `contents` (manifest → plain data) and `host` (machine → plain
data).
"""
