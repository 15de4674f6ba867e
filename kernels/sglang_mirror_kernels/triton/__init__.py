"""Triton twins of the references; importing them needs Triton, running them a GPU or Triton's interpreter."""
