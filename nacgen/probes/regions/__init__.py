"""Linear regions of ReLU encoders."""
