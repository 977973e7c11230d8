"""The report on encoders and its pictures."""
