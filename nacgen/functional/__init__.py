"""Pure maths on tensors, one concept a file."""
