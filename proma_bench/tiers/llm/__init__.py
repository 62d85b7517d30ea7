"""The fourth tier: a pretrained language model solves problems, those of GSM8K or others."""
