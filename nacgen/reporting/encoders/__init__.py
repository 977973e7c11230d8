"""The report on encoders."""
