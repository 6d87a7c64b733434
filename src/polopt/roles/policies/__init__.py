"""Kinds of policy: log-probabilities, entropy, sampling and KL of each distribution."""
