"""The first tier: scikit-learn's digits as a contextual bandit."""
