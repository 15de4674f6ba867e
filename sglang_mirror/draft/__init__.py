"""The draft process: a small model on another accelerator that works while the target verifies."""
