"""Training: streaming drafts of a user's own (`sglang-mirror train`), and the models of `examples/models`.

`python -m sglang_mirror.train.recipe` trains the embedded pair, a small target and a smaller draft, on Python
source text. Its stages in order: corpus, tokenizer, data, prepare; shapes, optim, trainer, pretrain;
generate, distill; heldout, evaluate, card, export. `streaming_recipe` and `eagle3_recipe` go on from it.
"""
