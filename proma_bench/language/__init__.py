"""Causal language models as policies: models, prompts, token distributions, precision and samplers."""
