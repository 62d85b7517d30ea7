"""The documentation, and the programs that write into it."""
