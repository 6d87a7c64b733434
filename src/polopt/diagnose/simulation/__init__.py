"""What a way of coordinating will cost, simulated event by event before anybody pays for it."""
