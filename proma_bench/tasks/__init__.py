"""Questions with verifiable answers, from reasoning-gym and GSM8K, and the scoring of answers."""
