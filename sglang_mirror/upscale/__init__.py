"""A small model in a large model's shape: the same function at the real cost of every layer.

A benchmark needs targets of real size and real text. Without the weights of a large model, the small one's
are put into the live rows and columns of a large one; everything else is random, and meets zero inputs or
zero outputs.
"""
