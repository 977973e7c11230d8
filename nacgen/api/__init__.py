"""The library's commands as functions: pretraining, training, comparing, with results to look at in a notebook."""
