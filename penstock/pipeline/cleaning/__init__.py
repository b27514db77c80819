"""What is taken out of the pool before anything is scored, and the account of it."""
