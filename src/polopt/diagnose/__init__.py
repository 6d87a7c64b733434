"""Is this run sound, and is this library: checks that stand above everything they look at."""
