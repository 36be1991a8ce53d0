"""Checkpoint → bundle: checkpoint/ → export/ → optimize/ → quantize/, each step held to the last."""
