"""Checkpoint → bundle: checkpoint/, export/, optimize/, quantize/, each held to the one before."""
