"""Published verdicts, computed a second time from docs/claims.md and docs/leaderboard.md.

Nothing of `proma_bench.report` or `benchmarks` is used here. It is written to be compared with these pages, and serves
`tests/test_published_verdicts.py` alone.
"""
