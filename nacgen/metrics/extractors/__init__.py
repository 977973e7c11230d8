"""Feature extractors that scores are computed from."""
