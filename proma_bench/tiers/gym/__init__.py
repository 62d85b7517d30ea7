"""The second tier: an MLP acts in a Gymnasium environment."""
