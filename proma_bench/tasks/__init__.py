"""Questions with verifiable answers: those of reasoning-gym, GSM8K, and how answers are scored."""
