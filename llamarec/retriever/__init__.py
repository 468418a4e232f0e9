"""Histories in, the top-k candidates of every user out: LRURec (Yue et al. 2023, arXiv 2310.02367)."""
