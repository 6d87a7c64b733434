"""Several trainings of one task beside each other: what few seeds say, and what they do not."""
