"""The fourth tier: a pretrained language model solves the problems of GSM8K or of another task."""
