"""The wire between the target's process and the draft's: what is said, how, and who is alive."""
