"""Prompt → completion: the cache, the scheduler, the loop, and the rules that pick a token."""
