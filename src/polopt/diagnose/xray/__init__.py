"""What training changed, token by token: two models read the same text."""
