"""What an encoder is worth: linear, k-NN, retrieval, linear regions, code health."""
