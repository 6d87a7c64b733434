"""When the stages of a run take turns, how stale data may be, and how a run survives a kill."""
