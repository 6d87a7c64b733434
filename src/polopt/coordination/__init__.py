"""The training loop, the staleness of data, and checkpoints from which a killed run resumes."""
