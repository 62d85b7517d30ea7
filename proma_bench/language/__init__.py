"""A causal language model as a policy: models, prompts, tokens, precision and samplers."""
