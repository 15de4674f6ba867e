"""Tensor operations of mirror: a torch reference of each, and faster twins where a device has them."""
