"""The parts that all tiers share: policies, experience, advantages, objectives, methods, metrics, the optimizer step.

The modules `config`, `methods` and `metrics` do not import torch, because the command line and the report read them.
"""
