"""The server: cohort, admission, sum, the round loop."""
