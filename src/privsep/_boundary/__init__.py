"""What annotations say, done: checking and conversion.  Runs on both sides."""
