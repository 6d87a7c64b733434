"""Where rewards come from: text tasks with verifiers."""
