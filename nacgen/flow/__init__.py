"""Training of flow models that are aligned to an encoder."""
