"""Kinds of policy: how log-probabilities are computed is a policy's own business."""
