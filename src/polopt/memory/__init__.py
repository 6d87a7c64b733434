"""What a run will hold in memory, worked out from sizes before anything is loaded. No torch."""
