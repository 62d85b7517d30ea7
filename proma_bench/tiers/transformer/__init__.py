"""The third tier: a tiny Qwen3 answers the questions of a reasoning-gym task."""
