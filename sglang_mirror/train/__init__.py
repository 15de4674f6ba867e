"""The recipe that trains the embedded pair: a small target and a smaller draft on Python source text.

`python -m sglang_mirror.train.recipe` runs the stages in order: corpus, tokenizer, data, prepare; shapes,
optim, trainer, pretrain; generate, distill; heldout, evaluate, card, export.
"""
