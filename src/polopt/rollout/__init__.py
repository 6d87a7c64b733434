"""Collecting experience: sampled groups, given data, episodes, replay, evaluation."""
