"""Candidates in, an adapter out: prompts, letters, samples, base models, and the smallest Trainer subclass.

LlamaRec (Yue et al. 2023, arXiv 2311.02089): a Llama with LoRA reads a user's last titles and the retriever's
candidates, each behind a letter, and orders the candidates by the probability of the letter that comes next.

options   the command line, and where the values of its options come from
prompts   from items and titles to the tokens that the language model reads
model     base models, and how they answer with letters
trained   trained rankers on disk: found, loaded, served
training  from the options to the final test
"""
