"""Where mirror reaches into SGLang, and why: one concern a file, all of them in the ledger."""
