"""GAN training on a transplanted discriminator."""
