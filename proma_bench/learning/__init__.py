"""What all tiers share: policies, experience, advantages, objectives, methods, metrics, and one optimizer step.

The tables (`methods`, `metrics`) and `config` import no torch: the command line and the report read them.
"""
