"""VAE training on a transplanted encoder."""
