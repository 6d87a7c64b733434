"""Recording one episode for people to look at: drawings, series, and pictures."""
