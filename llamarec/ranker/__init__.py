"""The second stage: a Llama with LoRA that orders the retriever's candidates.

LlamaRec (Yue et al. 2023, arXiv 2311.02089): the language model reads a user's last titles and the retriever's
candidates, each behind a letter. The probability of the letter that comes next orders the candidates. With
`--readout items` it reads the titles alone, and its state after each scores the whole catalogue.

    options    flags of train_ranker.py, and where their values come from
    prompts    from items and titles to tokens: the template, training and evaluation samples
    model      base models, LoRA, letter scores; cpu/ computes them prompt by prompt on a CPU
    trained    runs on disk: where they are, loading and serving them, the command that retrains one
    training   a run from its options to the final test

Each room imports only from the rooms above it.
"""
