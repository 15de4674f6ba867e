"""Mirror inside SGLang: the algorithm, its worker, the early exit and the line to the draft."""
